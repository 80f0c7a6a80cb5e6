"""Layers that count their inputs at the first call."""

import copy
import inspect
import pickle

import pytest
import torch
from torch import fx, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

import convkan
from convkan import KANConv2d, LazyKANConv2d, LazyKANLinear, LazyLearnableActivation
from convkan.basis import BSpline, Chebyshev
from convkan.grid import adapt_grids
from convkan.testing import make_uneven, randomize

CASES = {
    "LazyKANLinear": ((2, True), (4, 6)),
    "LazyKANConv1d": ((3, 3, 1, 1), (2, 4, 5)),
    "LazyKANConv2d": ((6, (2, 3), (1, 2), (1, 2), 1, 2), (2, 4, 5, 4)),
    "LazyKANConv3d": ((2, 1), (1, 4, 2, 2, 2)),
    "LazyKANConvTranspose1d": ((3, 4, 2, 1), (2, 4, 5)),
    "LazyKANConvTranspose2d": ((6, 3, 2, 1, 1, 2, True), (2, 4, 3, 3)),
    "LazyKANConvTranspose3d": ((2, 2, 2), (1, 4, 2, 2, 2)),
    "LazyLowRankKANConv2d": ((6, (2, 3), 2, 1, 1, 2, True), (2, 4, 5, 4)),
    "LazyLearnableActivation": ((2,), (2, 4, 3)),
}
BASES = [BSpline(4), Chebyshev(3)]
every_lazy = pytest.mark.parametrize("name", CASES)


def case(name, **options):
    """A lazy layer, the plain layer that it is to become, and an input."""
    arguments, shape = CASES[name]
    plain = getattr(convkan, name.removeprefix("Lazy"))
    channels = shape[-1] if name == "LazyKANLinear" else shape[1]
    return getattr(convkan, name)(*arguments, **options), plain(channels, *arguments, **options), torch.randn(shape)


@every_lazy
def test_becomes_the_plain_layer_at_the_first_call(name):
    lazy, plain, x = case(name)
    parameters = dict(lazy.named_parameters())
    assert isinstance(lazy, type(plain))
    assert all(type(parameter) is UninitializedParameter for parameter in parameters.values())
    assert isinstance(lazy.functions.grid, UninitializedBuffer)
    torch.manual_seed(1)
    y = lazy(x)
    torch.manual_seed(1)
    _, plain, _ = case(name)
    assert type(lazy) is type(plain)
    assert repr(lazy) == repr(plain)
    assert vars(lazy).keys() == vars(plain).keys()
    assert torch.equal(y, plain(x))
    assert list(lazy.state_dict()) == list(plain.state_dict())
    assert all(parameter is parameters[key] for key, parameter in lazy.named_parameters()), "optimisers have these"
    randomize(lazy)
    plain.load_state_dict(lazy.state_dict())
    assert torch.equal(copy.deepcopy(lazy)(x), plain(x))


@every_lazy
def test_arguments_are_those_of_the_plain_layer_without_the_first(name):
    ours, plain = (inspect.signature(type(layer)).parameters for layer in case(name)[:2])
    assert list(ours.values()) == list(plain.values())[1:]


@every_lazy
@pytest.mark.parametrize("basis", BASES, ids=repr)
@pytest.mark.parametrize("base_activation", ["silu", None])
def test_loads_states_of_the_plain_layer(name, basis, base_activation):
    lazy, plain, x = case(name, basis=basis, base_activation=base_activation)
    make_uneven(randomize(plain))
    model = nn.Sequential(lazy)
    model.load_state_dict({f"0.{key}": value for key, value in plain.state_dict().items()})
    assert type(model[0]) is type(plain)
    assert torch.equal(model(x), plain(x))
    fresh, _, _ = case(name, basis=basis, base_activation=base_activation)
    fresh(x)
    fresh.load_state_dict(plain.state_dict())
    assert torch.equal(fresh(x), plain(x))


def test_adopts_another_grid_and_named_sizes_with_a_state():
    plain = randomize(KANConv2d(4, 6, 3, basis=BSpline(9, 2), groups=2))
    lazy = LazyKANConv2d(6, 3, groups=2)
    lazy.load_state_dict(plain.state_dict())
    assert lazy.basis == plain.basis
    wrong = LazyKANConv2d(6, 5, groups=2)
    with pytest.raises(RuntimeError, match=r"size mismatch for base_weight.*\(?\[6, 2, 3, 3\]"):
        wrong.load_state_dict(plain.state_dict())


def test_before_the_first_call_it_is_a_module_like_others():
    lazy = LazyKANConv2d(6, 3, padding=1, basis=BSpline(4))
    assert repr(lazy) == f"LazyKANConv2d(6, 3, padding=1, basis={BSpline(4)!r})"
    for other in (copy.deepcopy(lazy), pickle.loads(pickle.dumps(lazy))):  # noqa: S301 - made here
        assert other(torch.randn(2, 5, 4, 4)).shape == (2, 6, 4, 4)
        assert type(other) is KANConv2d
    state = lazy.state_dict()
    assert list(state) == ["base_weight", "basis_weight", "grid"]
    LazyKANConv2d(6, 3, padding=1).load_state_dict(state)  # which has no sizes, either
    lazy.double().eval()
    assert lazy(torch.randn(2, 5, 4, 4).double()).dtype == torch.float64
    assert not lazy.training
    assert LazyKANLinear(2, dtype=torch.float64)(torch.ones(3, 2).double()).dtype == torch.float64


def test_trains_in_a_model_whose_optimiser_was_made_before_and_is_counted_by_dimension():
    model = nn.Sequential(LazyKANConv2d(4, 3), LazyLearnableActivation(inplace=True), nn.Flatten(), LazyKANLinear(2))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    x = torch.randn(3, 2, 5, 5)
    before = model(x)
    before.square().mean().backward()
    optimizer.step()
    assert not torch.equal(model(x), before)
    assert LazyLearnableActivation(dim=-1)(torch.randn(2, 3, 5)).shape == (2, 3, 5)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: LazyKANConv2d(0, 3), ValueError, "out_channels must be positive, got 0"),
        (lambda: LazyKANConv2d(4, 3, groups=3), ValueError, "out_channels must be divisible by groups, got 4 and 3"),
        (lambda: LazyKANLinear(2, basis="spline"), ValueError, "basis must be one of"),
        (lambda: LazyKANLinear(), TypeError, "missing .*'out_features'"),
        (lambda: LazyKANLinear(2, dtype=torch.int64), TypeError, "dtype must be a floating point type"),
        (lambda: LazyKANLinear(2).num_inputs, AttributeError, "LazyKANLinear has no sizes yet, and so no num_inputs"),
        (lambda: LazyKANLinear(2).plan, AttributeError, "LazyKANLinear has no sizes yet"),
        (
            lambda: adapt_grids(nn.Sequential(LazyKANLinear(2)), [torch.ones(2, 2)]),
            AttributeError,
            "no sizes yet, .* call the model once",
        ),
        (lambda: LazyKANLinear(2)(torch.ones(())), ValueError, r"input must have features .* got shape \(\)"),
        (lambda: LazyKANConv2d(4, 3)(torch.ones(4)), ValueError, r"input must have shape .* got \(4,\)"),
        (lambda: LazyKANConv2d(4, 3, groups=2)(torch.ones(3, 5, 5)), ValueError, "in_channels must be divisible"),
        (lambda: LazyLearnableActivation()(torch.ones(4)), ValueError, r"input must have shape .* got \(4,\)"),
        (lambda: fx.symbolic_trace(nn.Sequential(LazyKANLinear(2))), TypeError, "no sizes yet: call it once before"),
    ],
)
def test_what_needs_sizes_is_refused_and_arguments_are_checked_at_once(call, error, message):
    with pytest.raises(error, match=message):
        call()
