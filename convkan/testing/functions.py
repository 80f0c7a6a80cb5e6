"""The laws of a basis as functions of one variable. Each raises AssertionError if the basis breaks it."""

import copy
import dataclasses
import pickle
from collections.abc import Callable

import torch
from torch import Tensor

from convkan.basis import Basis, GriddedBasis
from convkan.ops.plan import spread
from convkan.testing.agreement import assert_agree

FAR = [-1e4, -9.0, 0.0, 9.0, 1e4]  # where inputs may lie, in half precision too


def knots_of(basis: Basis, channels: int, *, uneven: bool = False) -> Tensor | None:
    """Knots for a basis with a grid, in float64: equally spaced, or each channel's drawn at random."""
    if not isinstance(basis, GriddedBasis):
        return None
    knots = basis.knots(channels)
    if not uneven:
        return knots
    shares = (0.3 + torch.rand(channels, basis.num_knots - 1, dtype=knots.dtype)).cumsum(1)
    shares = torch.cat([torch.zeros_like(shares[:, :1]), shares / shares[:, -1:]], dim=1)
    return knots[:, :1] + (0.8 + 0.2 * torch.rand(channels, 1)) * (knots[:, -1:] - knots[:, :1]) * shares


def points_around(basis: Basis, *shape: int) -> Tensor:
    """Random points where a basis lives and beyond, in float64."""
    low, high = basis.grid_range if isinstance(basis, GriddedBasis) else (-1.0, 1.0)
    return (low + high) / 2 + (high - low) * torch.randn(*shape, dtype=torch.float64)


def all_knots_of(basis: Basis, channels: int) -> list[Tensor | None]:
    """Even and uneven knots of a basis with a grid; None for another."""
    if not isinstance(basis, GriddedBasis):
        return [None]
    return [knots_of(basis, channels), knots_of(basis, channels, uneven=True)]


def is_a_frozen_description(basis: Basis) -> None:
    """A frozen dataclass without tensors: it can be shared, compared, hashed, copied, saved and told by its text."""
    assert dataclasses.is_dataclass(basis), "it must be a dataclass"
    fields = {field.name: getattr(basis, field.name) for field in dataclasses.fields(basis)}
    held = [name for name, value in fields.items() if isinstance(value, Tensor)]
    assert not held, f"it must hold no tensors, but has them in {held}: they would not move with the layer"
    for name, value in fields.items():
        try:
            setattr(basis, name, value)
        except AttributeError:
            continue
        raise AssertionError(f"it must be frozen, by dataclass(frozen=True); {name} can be set")
    for other in (copy.deepcopy(basis), pickle.loads(pickle.dumps(basis))):  # noqa: S301 - made here
        assert other == basis, "it must equal its copies"
        assert hash(other) == hash(basis), "it must have the hash of its copies"
    assert basis not in (None, type(basis).__name__), "it must equal nothing else"
    missing = [name for name, value in fields.items() if f"{name}={value!r}" not in repr(basis)]
    assert not missing, f"repr must tell {missing}: plans are looked up by it"


def functions_come_second_to_last(basis: Basis) -> None:
    """(*batch, channels) becomes (*batch, functions, channels) in the same dtype, each entry on its own."""
    knots, x = knots_of(basis, 3, uneven=True), points_around(basis, 5, 7, 3)
    for name, function in (("evaluate", basis.evaluate), ("derivative", basis.derivative)):
        values = function(x, knots)
        expected = (5, 7, basis.num_functions, 3)
        assert values.shape == expected, f"{name} must return {expected} for (5, 7, 3), got {tuple(values.shape)}"
        single = function(x.float(), None if knots is None else knots.float())
        assert single.dtype == torch.float32, f"{name} must keep the dtype, got {single.dtype} for float32"
        for channel in range(3):
            own = None if knots is None else knots[channel : channel + 1]
            alone = function(x[:, :2, channel : channel + 1], own)
            assert_agree(values[:, :2, :, channel : channel + 1], alone, f"{name} of one channel")
        if knots is not None:
            grouped = function(x.unflatten(-1, (3, 1)), knots.unflatten(0, (3, 1)))
            assert_agree(grouped, values.movedim(-1, -2).unsqueeze(-1), f"{name} of channels in groups")


def derivative_is_that_of_evaluate(basis: Basis) -> None:
    """``derivative`` is what autograd makes of ``evaluate``, on any knots."""
    for knots in all_knots_of(basis, 3):
        x = points_around(basis, 50, 3).requires_grad_()
        values, derivative = basis.evaluate(x, knots), basis.derivative(x, knots)
        expected = torch.zeros_like(values)
        if values.requires_grad:
            gradients = [
                torch.autograd.grad(values[:, k].sum(), x, retain_graph=True, materialize_grads=True)[0]
                for k in range(basis.num_functions)
            ]
            expected = torch.stack(gradients, dim=1)
        scale = expected.abs().max().clamp(min=1)
        assert (derivative - expected).abs().max() <= 1e-11 * scale, "derivative must be that of evaluate"


def second_derivative_is_that_of_finite_differences(basis: Basis) -> None:
    """What autograd makes of ``derivative`` is its slope: gradients of gradients are right."""
    weights = torch.randn(basis.num_functions, 1, dtype=torch.float64)
    low, high = basis.grid_range if isinstance(basis, GriddedBasis) else (-1.0, 1.0)
    step = 5e-6 * (high - low)
    for knots in all_knots_of(basis, 3):

        def slope(x: Tensor, knots: Tensor | None = knots) -> Tensor:
            return (basis.derivative(x, knots) * weights).sum(1)

        x = points_around(basis, 40, 3).requires_grad_()
        second, total = torch.zeros_like(x), slope(x).sum()
        if total.requires_grad:
            (second,) = torch.autograd.grad(total, x, materialize_grads=True)
        expected = (slope(x.detach() + step) - slope(x.detach() - step)) / (2 * step)
        error = (second - expected).abs().max()
        assert error < 1e-5 * expected.abs().max().clamp(min=1), "gradients of derivative must be its slope"


def fast_evaluation_is_the_same_function(basis: Basis) -> None:
    """What is worked out in another way on equally spaced knots is the same, in every dtype."""
    for dtype in (torch.float32, torch.float64):
        knots = knots_of(basis, 3)
        knots = None if knots is None else knots.to(dtype)
        x = points_around(basis, 5, 7, 3).to(dtype)
        for name, function in (("evaluate", basis.evaluate), ("derivative", basis.derivative)):
            fast = function(x, knots, fast=True)
            assert fast.dtype == dtype, f"fast {name} must keep the dtype, got {fast.dtype} for {dtype}"
            assert_agree(fast, function(x, knots), f"fast {name}", factor=10)


def values_far_out_are_finite(basis: Basis) -> None:
    """Values and derivatives, and the gradients of both, are finite as far out as half precision goes."""
    for uniform, knots in zip((True, False), all_knots_of(basis, 1), strict=False):
        own = None if knots is None else knots.float()
        x = torch.tensor(FAR).unsqueeze(1).requires_grad_()
        for name, function in (("evaluate", basis.evaluate), ("derivative", basis.derivative)):
            values = function(x, own)
            assert values.isfinite().all(), f"{name} must be finite at {FAR}"
            if values.requires_grad:
                (gradient,) = torch.autograd.grad(values.sum(), x, materialize_grads=True)
                assert gradient.isfinite().all(), f"gradients of {name} must be finite at {FAR}"
            if uniform:
                assert function(x, own, fast=True).isfinite().all(), f"fast {name} must be finite at {FAR}"


def values_are_finite_at_all_finite_inputs(basis: Basis) -> None:
    """Values, derivatives and gradients are finite up to the largest number of float32, and NaN stays NaN.

    Not among the laws of ``check_basis``, since functions may grow for ever: convkan asks it of its own that do not.
    """
    most = torch.finfo(torch.float32).max
    x = torch.cat([10.0 ** torch.arange(39), torch.tensor([2e38, most])]).unsqueeze(1)
    x = torch.cat([x, -x]).requires_grad_()
    knots = knots_of(basis, 1)
    knots = None if knots is None else knots.float()
    remedy = "clamp x where functions no longer change, before powers of it overflow and ∞·0 is NaN"
    for fast in (False, True):
        for name, function in (("evaluate", basis.evaluate), ("derivative", basis.derivative)):
            values = function(x, knots, fast=fast).detach()
            bad = [f"{at:.0e}" for at, row in zip(x[:, 0].tolist(), values, strict=True) if not row.isfinite().all()]
            assert not bad, f"{name} must be finite at {', '.join(bad)}: {remedy}"
    values = basis.evaluate(x, knots)
    if values.requires_grad:
        (slope,) = torch.autograd.grad(values.sum(), x)
        bad = [f"{at:.0e}" for at, value in zip(x[:, 0].tolist(), slope, strict=True) if not value.isfinite()]
        assert not bad, f"gradients of evaluate must be finite at {', '.join(bad)}: {remedy}"
        hidden = not basis.evaluate(torch.tensor([[torch.nan]]), knots).isnan().any()
        assert not hidden, "NaN must stay NaN: clamp keeps it, a comparison such as torch.where(x < c, …) does not"


def alive_functions_are_those_of_evaluate(basis: Basis) -> None:
    """What a basis says of the functions alive at a point is what it evaluates; if it says so at all."""
    if basis.num_alive is None:
        return
    for uniform, knots in zip((True, False), all_knots_of(basis, 3), strict=False):
        x = points_around(basis, 200, 3)
        for derivative in (False, True):
            first, values = basis.alive(x, knots, derivative=derivative, uniform=uniform)
            assert len(values) == basis.num_alive, f"num_alive is {basis.num_alive}, alive has {len(values)}"
            within = 1 - basis.num_alive <= int(first.min()) and int(first.max()) < basis.num_functions
            assert within, f"positions must lie in {1 - basis.num_alive} … {basis.num_functions - 1}"
            expected = (basis.derivative if derivative else basis.evaluate)(x, knots)
            assert_agree(spread(first, values, basis.num_functions), expected, "alive functions", factor=10)


def sizes_are_read_off_a_state(basis: Basis) -> None:
    """``resized`` to its own sizes is the same basis; to sizes that there are not, ValueError."""
    num_knots = basis.num_knots if isinstance(basis, GriddedBasis) else None
    assert basis.resized(basis.num_functions, num_knots) == basis, "resized to its own sizes it must stay the same"
    try:
        basis.resized(basis.num_functions, None if num_knots else 7)
    except ValueError:
        return
    raise AssertionError(f"resized must raise ValueError {'without' if num_knots else 'for a state with'} a grid")


FUNCTION_LAWS: tuple[Callable[[Basis], None], ...] = (
    is_a_frozen_description,
    functions_come_second_to_last,
    derivative_is_that_of_evaluate,
    second_derivative_is_that_of_finite_differences,
    fast_evaluation_is_the_same_function,
    values_far_out_are_finite,
    alive_functions_are_those_of_evaluate,
    sizes_are_read_off_a_state,
)
