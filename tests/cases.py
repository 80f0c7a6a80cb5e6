"""What the contract tests run over: every basis of the table, on every layer of ``convkan.testing``."""

from bumps import Bumps

from convkan.basis import BASES, Basis, BSpline
from convkan.testing import (
    LAYER_CLASSES,
    LAYERS,
    assert_same_function,
    kan_layers,
    make_uneven,
    outputs_and_gradients,
    randomize,
    with_backend,
)

BASIS_CASES: list[Basis] = [create() for create in BASES.values()] + [
    BSpline(grid_size=4, extrapolation="clamp"),
    BSpline(grid_size=4, extrapolation="linear"),
    Bumps(),
]

__all__ = [
    "BASIS_CASES",
    "LAYERS",
    "LAYER_CLASSES",
    "assert_same_function",
    "kan_layers",
    "make_uneven",
    "outputs_and_gradients",
    "randomize",
    "with_backend",
]
