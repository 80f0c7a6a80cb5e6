"""What a basis or a backend of your own must do, as tests that you can run.

    from convkan.testing import check_basis

    def test_my_basis():
        check_basis(MyBasis())

Nothing of convkan imports this, and it needs no test runner. Of its files ``agreement`` says how exact is exact,
``layers`` has small layers of every kind, ``functions``, ``knots`` and ``uses`` have the laws of a basis, and
``backends`` those of a backend.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from convkan.basis import Basis, GriddedBasis
from convkan.testing.agreement import HALF_DTYPES, TOLERANCES, assert_agree, relative_error
from convkan.testing.backends import BACKEND_LAWS
from convkan.testing.functions import FUNCTION_LAWS
from convkan.testing.knots import KNOT_LAWS
from convkan.testing.layers import (
    LAYER_CLASSES,
    LAYERS,
    LayerCase,
    assert_same_function,
    kan_layers,
    make_uneven,
    outputs_and_gradients,
    randomize,
    with_backend,
)
from convkan.testing.uses import LAYER_LAWS, as_function, compiled_kernels_compute_the_same, relative_change


def laws_of(basis: Basis, *, layers: bool = True, compiled: bool = False) -> list[Callable[[Any], None]]:
    """The laws that ``check_basis`` checks: functions of the basis, for ``pytest.mark.parametrize``.

    Args:
        basis: The basis.
        layers: Those of layers on it, too, which take a second or two.
        compiled: That of compiled kernels, too, which take ten seconds and more to compile.
    """
    laws: list[Callable[[Any], None]] = [*FUNCTION_LAWS]
    if isinstance(basis, GriddedBasis):
        laws += KNOT_LAWS
    if layers:
        laws += LAYER_LAWS
    if compiled:
        laws.append(compiled_kernels_compute_the_same)
    return laws


def check_basis(basis: Basis, *, layers: bool = True, compiled: bool = False) -> None:
    """Check that a basis does what layers expect of it, at its own sizes.

    That it is a frozen description; that shapes, first and second derivatives, evaluation in other ways and values far
    out are right; for one with a grid, what it says of knots; and that layers on it compute what they are defined to,
    start with a variance that stays, load states, and move and refine grids. Random numbers are left as they were.

    Args:
        basis: The basis.
        layers: See ``laws_of``.
        compiled: See ``laws_of``.

    Raises:
        AssertionError: It breaks a law; the message says which and how.

    Example:
        >>> from convkan.basis import Chebyshev
        >>> check_basis(Chebyshev(3), layers=False)
    """
    if not isinstance(basis, Basis):
        raise TypeError(f"basis must be a Basis, got {basis!r}")
    _check(basis, laws_of(basis, layers=layers, compiled=compiled))


def check_backend(backend: str) -> None:
    """Check that a backend of ``convkan.ops.BACKENDS`` computes what the reference does.

    That is outputs and all gradients on every layer and basis, half precision, and second derivatives.

    Args:
        backend: Its name.

    Raises:
        AssertionError: It breaks a law; the message says which and how.
        RuntimeError: It cannot run here.
    """
    _check(backend, BACKEND_LAWS)


def _check(subject: object, laws: Sequence[Callable[[Any], None]]) -> None:
    for law in laws:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            try:
                law(subject)
            except AssertionError as error:
                raise AssertionError(f"{subject} breaks the law {law.__name__!r}: {error}") from error


__all__ = [
    "HALF_DTYPES",
    "LAYERS",
    "LAYER_CLASSES",
    "TOLERANCES",
    "LayerCase",
    "as_function",
    "assert_agree",
    "assert_same_function",
    "check_backend",
    "check_basis",
    "kan_layers",
    "laws_of",
    "make_uneven",
    "outputs_and_gradients",
    "randomize",
    "relative_change",
    "relative_error",
    "with_backend",
]
