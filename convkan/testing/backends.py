"""The laws of a layer's backend: it computes what the reference does. Each raises AssertionError if not."""

from collections.abc import Callable

import torch

from convkan.basis import RBF, Basis, BSpline, Chebyshev
from convkan.testing.agreement import HALF_DTYPES, relative_error
from convkan.testing.layers import (
    LAYER_CLASSES,
    LAYERS,
    assert_same_function,
    make_uneven,
    outputs_and_gradients,
    randomize,
    with_backend,
)
from convkan.testing.uses import as_function

# One of each kind: more than that it has a grid, or none, and what is alive, a backend sees of no basis.
BASES_OF_BACKENDS: tuple[Basis, ...] = (BSpline(), Chebyshev(), RBF(), BSpline(4, 1, extrapolation="linear"))


def outputs_and_gradients_are_those_of_the_reference(backend: str) -> None:
    """On every layer and kind of basis, on even and on uneven knots, with a base activation and without."""
    for name, case in LAYERS.items():
        for basis in BASES_OF_BACKENDS:
            for base_activation in ("silu", None):
                layer = randomize(case(basis=basis, base_activation=base_activation, dtype=torch.float64))
                for version in (layer, make_uneven(layer)):
                    x = case.input(torch.float64)
                    try:
                        assert_same_function(with_backend(version, backend), with_backend(version, "reference"), x)
                    except AssertionError as error:
                        raise AssertionError(f"{name} on {basis}: {error}") from error


def half_precision_errs_at_most_twice_as_much(backend: str) -> None:
    """As the reference does, beside float64; and results come in the dtype of the layer."""
    for name, case in LAYER_CLASSES.items():
        for dtype in HALF_DTYPES:
            layer, x = randomize(case()).to(dtype), case.input(scale=1.0).to(dtype)
            exact = outputs_and_gradients(with_backend(layer, "reference").double(), x.double())
            plain = outputs_and_gradients(with_backend(layer, "reference"), x)
            for part, value in outputs_and_gradients(with_backend(layer, backend), x).items():
                assert value.dtype == dtype, f"{name}: {part} must be in {dtype}, got {value.dtype}"
                error, allowed = relative_error(value, exact[part]), relative_error(plain[part], exact[part])
                assert error <= 2 * max(allowed, torch.finfo(dtype).eps), f"{name}: {part} errs by {error:.2g}"


def gradients_of_gradients_are_those_of_finite_differences(backend: str) -> None:
    """By inputs and weights, on every kind of layer."""
    for case in LAYER_CLASSES.values():
        layer = randomize(case(backend=backend, dtype=torch.float64))
        function, arguments = as_function(layer, case.input(torch.float64, scale=0.9, batch=1))
        assert torch.autograd.gradgradcheck(function, arguments, fast_mode=True), "second derivatives must be right"


BACKEND_LAWS: tuple[Callable[[str], None], ...] = (
    outputs_and_gradients_are_those_of_the_reference,
    half_precision_errs_at_most_twice_as_much,
    gradients_of_gradients_are_those_of_finite_differences,
)
