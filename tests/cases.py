"""What the contract tests run over: every basis of the table, and how splines go on beyond their grid."""

from bumps import Bumps

from convkan.basis import BASES, Basis, BSpline

BASIS_CASES: list[Basis] = [create() for create in BASES.values()] + [
    BSpline(grid_size=4, extrapolation="clamp"),
    BSpline(grid_size=4, extrapolation="linear"),
    Bumps(),
]
