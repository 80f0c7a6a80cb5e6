"""The laws of layers on a basis. Each raises AssertionError if they break it."""

import pickle
from collections.abc import Callable
from copy import deepcopy
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.func import functional_call

from convkan.basis import Basis, GriddedBasis
from convkan.grid import adapt_grid, coverage, refine_grid
from convkan.nn import KANConv2d, KANLinear, LearnableActivation
from convkan.ops import compiled_kernels, kernels
from convkan.testing.agreement import HALF_DTYPES
from convkan.testing.layers import (
    LAYER_CLASSES,
    LAYERS,
    assert_same_function,
    kan_layers,
    make_uneven,
    outputs_and_gradients,
    randomize,
    with_backend,
)

DEPTH = 10  # layers over which the variance must stay
WIDTH = 256
MOST_VARIANCE = 3.0  # what may become of 1 over as many; 1/3 is the least
MOST_AFTER_ONE = 1.4  # what may become of it in a single layer


def layers_compute_their_definition(basis: Basis) -> None:
    """Output and all gradients of every layer are those of the reference, on even and on uneven knots."""
    for name, case in LAYERS.items():
        layer = randomize(case(basis=_centred(basis), dtype=torch.float64))
        x = case.input(torch.float64)
        for version in (layer, make_uneven(layer)):
            try:
                assert_same_function(version, with_backend(version, "reference"), x)
            except AssertionError as error:
                raise AssertionError(f"{name}: {error}") from error


def gradients_of_gradients_are_right(basis: Basis) -> None:
    """Second derivatives by inputs and weights are those of finite differences."""
    options = {"basis": _centred(basis), "dtype": torch.float64}
    for layer, shape in (
        (KANLinear(2, 2, **options), (2, 2)),  # type: ignore[arg-type]
        (LearnableActivation(2, 2, **options), (2, 2)),  # type: ignore[arg-type]
        (KANConv2d(1, 2, 2, **options), (1, 1, 3, 3)),  # type: ignore[arg-type]
    ):
        function, arguments = as_function(randomize(layer), torch.randn(shape, dtype=torch.float64))
        assert torch.autograd.gradgradcheck(function, arguments, fast_mode=True), "second derivatives must be right"


def gradients_far_out_are_finite_in_half_precision(basis: Basis) -> None:
    """A pixel far off the grid does no harm, whatever the precision."""
    for dtype in HALF_DTYPES:
        for name, case in LAYER_CLASSES.items():
            x = case.input().sign().mul(1e4).to(dtype)
            gradients = outputs_and_gradients(case(basis=basis, dtype=dtype), x)
            assert gradients["input"].isfinite().all(), f"{name}: gradients at ±1e4 must be finite in {dtype}"


def the_variance_stays_over_many_layers(basis: Basis) -> None:
    """Fresh wide layers, one after the other, pass a signal on that neither dies out nor explodes."""
    for base_activation, depth, most in (("silu", DEPTH, MOST_VARIANCE), (None, 1, MOST_AFTER_ONE)):
        x = torch.randn(WIDTH // 2, WIDTH)
        with torch.no_grad():
            for _ in range(depth):
                x = KANLinear(WIDTH, WIDTH, basis=_centred(basis), base_activation=base_activation)(x)
        variance = x.var().item()
        assert 1 / most <= variance <= most, (
            f"a variance of 1 must stay within a factor of {most} over {depth} layers with "
            f"base_activation={base_activation!r}, got {variance:.3g}"
        )


def states_and_copies_compute_the_same(basis: Basis) -> None:
    """Copies, pickled layers, and fresh ones that load a state; of another grid size, too."""
    bigger = basis.with_grid_size(2 * basis.grid_size + 1) if isinstance(basis, GriddedBasis) else basis
    for case in LAYER_CLASSES.values():
        layer, x = make_uneven(randomize(case(basis=bigger))), case.input()
        loaded = case(basis=basis)
        loaded.load_state_dict(layer.state_dict())
        pickled = pickle.loads(pickle.dumps(layer))  # noqa: S301 - made here
        for other in (loaded, deepcopy(layer), pickled):
            assert torch.equal(other(x), layer(x)), f"what becomes of {layer} must compute the same"
            pairs = zip(kan_layers(other), kan_layers(layer), strict=True)
            assert all(one.basis == each.basis for one, each in pairs), f"what becomes of {layer} must have its basis"


def grids_move_and_grow(basis: Basis) -> None:
    """Grids follow inputs and are divided; what is reported of the change is so."""
    if not isinstance(basis, GriddedBasis):
        return
    x = 3 + 0.5 * torch.randn(400, 3, dtype=torch.float64)
    layer = randomize(KANLinear(3, 2, basis=basis.with_range(1, 5), dtype=torch.float64))
    before = layer(x)
    reported = adapt_grid(layer, x)
    assert abs(reported - relative_change(layer(x), before)) <= 1e-9, "adapt_grid must report the change"
    assert not coverage(layer, x).any(), "an adapted grid must cover its inputs"
    on_grid = torch.rand(2000, 3, dtype=torch.float64) * (x.amax(0) - x.amin(0)) + x.amin(0)
    before = layer(on_grid)
    finer = basis.with_grid_size(2 * basis.grid_size)
    reported = refine_grid(layer, finer.grid_size)
    assert layer.coefficients.shape[2] == finer.num_functions, "refine_grid must make a layer of the finer basis"
    change = relative_change(layer(on_grid), before)
    assert change <= max(1e-9, 5 * reported), f"refine_grid must report the change, got {reported:.2g} for {change:.2g}"


def compiled_kernels_compute_the_same(basis: Basis) -> None:
    """Compiled evaluation agrees with that operation by operation. It takes seconds to compile."""
    with compiled_kernels(True), patch.object(kernels, "MIN_ENTRIES", 0):
        for name, move in (("linear", lambda layer: layer), ("activation-2", make_uneven)):
            layer, x = move(randomize(LAYERS[name](basis=_centred(basis)))), LAYERS[name].input()
            assert_same_function(layer, with_backend(layer, "reference"), x)
    torch.compiler.reset()


def as_function(module: nn.Module, x: Tensor) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    """A module as a function of its input and parameters, and these, for ``torch.autograd.gradcheck`` and its kin."""
    names, parameters = zip(*module.named_parameters(), strict=True)

    def function(x: Tensor, *values: Tensor) -> Tensor:
        return functional_call(module, dict(zip(names, values, strict=True)), (x,))

    return function, (x.detach().clone().requires_grad_(), *parameters)


def relative_change(after: Tensor, before: Tensor) -> float:
    """‖after − before‖/‖before‖."""
    return ((after - before).double().norm() / before.double().norm()).item()


def _centred(basis: Basis) -> Basis:
    """The basis over the range that the inputs of ``LAYERS`` are on."""
    return basis.with_range(-1, 1) if isinstance(basis, GriddedBasis) else basis


LAYER_LAWS: tuple[Callable[[Basis], None], ...] = (
    layers_compute_their_definition,
    gradients_of_gradients_are_right,
    gradients_far_out_are_finite_in_half_precision,
    the_variance_stays_over_many_layers,
    states_and_copies_compute_the_same,
    grids_move_and_grow,
)
