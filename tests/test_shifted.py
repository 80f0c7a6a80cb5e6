"""Functions less their values at 0, and the low-rank convolutions that are padded with zeros because of them."""

from functools import partial

import pytest
import torch
from cases import diagonal
from torch import nn

from convkan import BSpline, Chebyshev, LearnableActivation, LowRankKANConv2d
from convkan.nn import lowrank
from convkan.ops import compiled_kernels, evaluate
from convkan.testing import assert_agree, outputs_and_gradients, randomize, relative_error, with_backend

BASES = {
    "splines": BSpline(5, 3, (-1.5, 1)),
    "hats": BSpline(8, 1, (-1.5, 1), "clamp"),
    "many": BSpline(40, 3, (-1.5, 1)),
    "straight beyond": BSpline(5, 3, (-1.5, 1), "linear"),
    "polynomials": Chebyshev(4),
}


class Shifted(nn.Module):
    """An activation less its values at 0: as one plan has it, or as the difference that it is."""

    def __init__(self, activation, by_definition):
        super().__init__()
        self.activation, self.by_definition = activation, by_definition

    def forward(self, x):
        layer = self.activation
        run = partial(evaluate, base_weight=layer.base_weight, basis_weight=layer.basis_weight, grid=layer.grid)
        run = partial(run, backend=layer.backend)
        if not self.by_definition:
            return run(x, plan=layer.plan.of_activation(True))
        plan = layer.plan.of_activation(False)
        return run(x, plan=plan) - run(x.new_zeros(1, *x.shape[1:]), plan=plan)


@pytest.mark.parametrize(
    ("name", "functions", "way", "layout"),
    diagonal(BASES, (1, 3), ("native", "generic", "reference", "uneven"), ("contiguous", "last"), each=4),
)
def test_are_the_differences_in_value_and_gradient(name, functions, way, layout):
    layer = randomize(LearnableActivation(9, functions, basis=BASES[name]))
    if way == "uneven" and layer.grid is not None:
        layer.grid = layer.grid + 0.01 * torch.rand_like(layer.grid[:, :1]) * layer.grid**2
    layer = with_backend(layer, "reference") if way == "reference" else layer
    x = torch.randn(3, 9, 6, 5)
    x = x.contiguous(memory_format=torch.channels_last) if layout == "last" else x
    exact = outputs_and_gradients(Shifted(layer, True).double(), x.double())
    layer.float()
    with compiled_kernels(way != "generic"):
        ours = outputs_and_gradients(Shifted(layer, False), x)
    for part, value in ours.items():
        assert_agree(value, exact[part].float(), part)


def test_have_derivatives_of_second_order():
    layer = randomize(LearnableActivation(2, 2)).double()
    x = torch.randn(2, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(Shifted(layer, False), x)
    assert torch.autograd.gradcheck(Shifted(layer, False), x, check_forward_ad=True)


CONVOLUTIONS = {
    "plain": {"padding": 1},
    "strided": {"padding": (0, 2), "stride": 2, "bias": True},
    "grouped": {"padding": (2, 1), "dilation": (2, 1), "groups": 2},
    "same": {"padding": "same"},
}


def shifts(layer, x, monkeypatch):
    """Whether the layer takes the way without padding, once sizes do not matter."""
    monkeypatch.setattr(lowrank, "LEAST_SHIFTED", 0)
    return layer._may_shift(x)


@pytest.mark.parametrize(
    ("name", "rank", "layout", "basis"),
    diagonal(CONVOLUTIONS, (1, 2), ("contiguous", "last"), ("splines", "hats", "many"), each=3),
)
def test_low_rank_convolutions_are_what_they_are_with_padding(name, rank, layout, basis, monkeypatch):
    layer = randomize(LowRankKANConv2d(10, 6, 3, rank=rank, basis=BASES[basis], **CONVOLUTIONS[name]))
    x = torch.randn(4, 10, 7, 6)
    if layout == "last":
        layer, x = layer.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
    assert shifts(layer, x, monkeypatch)
    ours = outputs_and_gradients(layer, x)
    exact = outputs_and_gradients(with_backend(layer, "reference").double(), x.double())
    for part, value in ours.items():
        assert_agree(value, exact[part].float(), part)
    assert layer(x).is_contiguous(memory_format=torch.channels_last) == (layout == "last")


@pytest.mark.parametrize("case", ["bfloat16", "autocast", "linear", "reference", "its own padding", "no padding"])
def test_where_that_would_be_less_exact_or_another_function_padding_is_activated(case, monkeypatch):
    basis = BSpline(5, 3, (10, 12), "linear") if case == "linear" else BSpline()
    layer, x = randomize(LowRankKANConv2d(4, 3, 3, padding=1, basis=basis)), torch.randn(2, 4, 6, 6)
    if case == "bfloat16":
        layer, x = layer.bfloat16(), x.bfloat16()
    if case == "reference":
        layer.activation.backend = "reference"
    if "padding" in case:
        layer.activation = LearnableActivation(4, padding=(2, 2, 2, 2) if "own" in case else ())
    with torch.autocast("cpu", torch.bfloat16, enabled=case == "autocast"):
        padded = layer(x)
        assert not shifts(layer, x, monkeypatch)
        assert torch.equal(layer(x), padded)


@pytest.mark.parametrize("name", ["splines", "polynomials"])
def test_what_cancels_in_half_precision_is_not_rounded_before(name):
    layer, x = (
        randomize(LearnableActivation(3, basis=BASES[name])).bfloat16(),
        (0.05 * torch.randn(2, 3, 40)).bfloat16(),
    )
    exact = outputs_and_gradients(Shifted(layer, True).double(), x.double())
    layer.bfloat16()
    with compiled_kernels(False):
        for part, value in outputs_and_gradients(Shifted(layer, False), x).items():
            assert value.dtype == torch.bfloat16
            assert relative_error(value, exact[part]) <= 4 * torch.finfo(torch.bfloat16).eps, part


def test_who_looks_on_sees_the_activation_called(monkeypatch):
    layer, x, seen = LowRankKANConv2d(2, 3, 3, padding=1), torch.randn(1, 2, 5, 5), []
    assert shifts(layer, x, monkeypatch)
    handle = layer.activation.register_forward_hook(lambda module, inputs, output: seen.append(output))
    assert not layer._may_shift(x)
    layer(x)
    assert [output.shape for output in seen] == [(1, 2, 7, 7)]
    handle.remove()
    layer.activation.compile(backend="eager")
    assert not layer._may_shift(x)
    layer.activation = nn.Sequential(nn.ReLU(), nn.ZeroPad2d(1))
    assert not layer._may_shift(x)
    assert layer(x).shape == (1, 3, 5, 5)


@pytest.mark.parametrize(
    "options", [{"kernel_size": 2, "padding": "same"}, {"padding_mode": "reflect", "padding": 1}, {"padding": 0}]
)
def test_other_padding_stays_as_it_is(options, monkeypatch):
    layer = LowRankKANConv2d(2, 3, **{"kernel_size": 3} | options)
    assert not shifts(layer, torch.randn(1, 2, 5, 5), monkeypatch)


def test_masked_edges_are_masked(monkeypatch):
    layer, x = randomize(LowRankKANConv2d(3, 4, 3, padding=1)), torch.randn(2, 3, 6, 6)
    layer.mask_edges(torch.rand(layer.edge_shape) < 0.5)
    padded = layer(x)
    assert shifts(layer, x, monkeypatch)
    assert_agree(layer(x), padded, "output")
