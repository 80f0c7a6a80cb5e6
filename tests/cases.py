"""What layers and models are tested on: a basis of each kind, how splines go on beyond their grid, and small networks.

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

# Models with millions of parameters, at a width at which they are as quick to test as others.
NARROW = {f"{kind}resnet{layers}": {"width": 4.0} for kind in ("", "kan_") for layers in (18, 34)}
