"""What layers are tested on: a basis of each kind, and how splines go on beyond their grid.

Layers see no more of a basis than that it has a grid, or none, and what is alive; the laws of all bases of the table
are in ``test_basis``.
"""

from bumps import Bumps

from convkan.basis import RBF, Basis, BSpline, Chebyshev

BASIS_CASES: list[Basis] = [
    BSpline(),
    Chebyshev(),
    RBF(),
    BSpline(grid_size=4, extrapolation="clamp"),
    BSpline(grid_size=4, extrapolation="linear"),
    Bumps(),
]
