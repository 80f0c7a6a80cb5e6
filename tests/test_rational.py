"""Rational activations: the safe Padé form, and nothing beyond their group."""

import pytest
import torch
from torch import nn

from convkan.nn import RationalActivation
from convkan.testing import assert_agree
from convkan.testing.layers import randomize


def formula(x, a, b):
    """Its definition for one function, power by power."""
    return sum(c * x**i for i, c in enumerate(a)) / (1 + abs(sum(c * x**j for j, c in enumerate(b, 1))))


@pytest.mark.parametrize(("shape", "dim"), [((3, 6), 1), ((3, 6), -1), ((2, 6, 4, 5), 1), ((2, 4, 6), -1)])
def test_each_group_has_its_function(shape, dim):
    layer = randomize(RationalActivation(6, 3, dim=dim, dtype=torch.float64))
    x = torch.randn(shape, dtype=torch.float64)
    pieces = [
        formula(piece, a.tolist(), b.tolist())
        for piece, a, b in zip(x.chunk(3, dim), layer.numerator, layer.denominator, strict=True)
    ]
    assert_agree(layer(x), torch.cat(pieces, dim))
    other = x.clone()
    other.select(dim, 0).add_(1)
    assert torch.equal(layer(other).narrow(dim, 2, 4), layer(x).narrow(dim, 2, 4)), "groups must not leak"


@pytest.mark.parametrize(
    ("start", "error"), [("silu", 1e-4), ("tanh", 1e-4), ("identity", 1e-6), ("gelu", 1e-2), ("relu", 7e-2)]
)
def test_starts_as_an_activation(start, error):
    x = torch.linspace(-3, 3, 301).unsqueeze(1)
    expected = x if start == "identity" else getattr(nn.functional, start)(x)
    layer = RationalActivation(1, start=start)
    assert (layer(x) - expected).abs().max() < error
    layer(x).square().sum().backward()
    assert layer.denominator.grad.abs().max() > 1e-3, "the denominator must learn"


def test_derivatives_of_first_and_second_order_are_those_of_the_formula():
    layer = randomize(RationalActivation(1, dtype=torch.float64))
    x = torch.randn(9, 1, dtype=torch.float64, requires_grad=True)
    arguments = (x, layer.numerator, layer.denominator)
    found = []
    for y in (layer(x), formula(x, layer.numerator[0], layer.denominator[0])):
        first = torch.autograd.grad(y.sin().sum(), arguments, create_graph=True)
        found.append([y, *first, *torch.autograd.grad(first[0].square().sum(), arguments)])
    for ours, expected in zip(*found, strict=True):
        assert_agree(ours, expected, factor=100)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_finite_far_out(dtype):
    layer = RationalActivation(2, dtype=dtype)
    x = torch.tensor([[-1e4, 1e4], [0, 3]], dtype=dtype, requires_grad=True)
    y = layer(x)
    assert y.dtype == dtype
    (gradient,) = torch.autograd.grad(y.float().sum(), x)
    assert y.isfinite().all()
    assert gradient.isfinite().all()


def test_a_state_is_the_whole_function():
    layer = randomize(RationalActivation(4, 2))
    other = RationalActivation(4, 2, start="relu")
    other.load_state_dict(layer.state_dict())
    x = torch.randn(3, 4)
    assert torch.equal(other(x), layer(x))
    assert torch.equal(torch.fx.symbolic_trace(nn.Sequential(layer, nn.ReLU()))(x), layer(x).relu())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_channels": 6, "num_groups": 4}, "num_groups must divide num_channels 6, got 4"),
        ({"num_channels": 6, "dim": 2}, "dim must be 1 or -1, got 2"),
        ({"num_channels": 6, "numerator_degree": 2}, "numerator_degree must be at least 3, got 2"),
        ({"num_channels": 6, "denominator_degree": 1}, "denominator_degree must be at least 2, got 1"),
        ({"num_channels": 6, "start": "swish"}, "^start must be one of .*silu.* got 'swish'"),
        ({"num_channels": 6, "start": None}, "^start must be one of .*silu.* got None"),
        ({"num_channels": 0}, "num_channels must"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        RationalActivation(**options)
    with pytest.raises(ValueError, match=r"input must have 6 channels in dimension 1, got \(2, 5\)"):
        RationalActivation(6)(torch.zeros(2, 5))
    with pytest.raises(TypeError, match="dtype must be a floating point type, got torch.int32"):
        RationalActivation(6, dtype=torch.int32)
