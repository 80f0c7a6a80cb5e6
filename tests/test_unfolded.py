"""A convolution as products of matrices, or of planes in memory, is that convolution."""

import pytest
import torch

from convkan import KANConv1d, KANConv2d, KANConv3d
from convkan.ops import unfolded
from convkan.ops.convolution import Convolution, Planar
from convkan.ops.unfolded import Unfolded, suited
from convkan.testing import assert_agree, outputs_and_gradients, randomize, with_backend

LAYERS = {
    "1d": (lambda: KANConv1d(3, 40, 4, stride=2, padding=1, dilation=2), (2, 3, 15)),
    "2d": (lambda: KANConv2d(3, 70, (3, 2), padding="same", padding_mode="reflect", bias=True), (2, 3, 7, 5)),
    "2d, no base": (lambda: KANConv2d(3, 40, 3, stride=(2, 1), padding=1, base_activation=None), (1, 3, 9, 6)),
    "3d": (lambda: KANConv3d(2, 40, (1, 2, 3), padding=(0, 1, 1)), (1, 2, 2, 3, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_products_are_the_layer(name, monkeypatch):
    make, shape = LAYERS[name]
    layer, x = randomize(make()).double(), torch.randn(shape, dtype=torch.float64)
    exact = outputs_and_gradients(with_backend(layer, "reference"), x)
    monkeypatch.setattr(unfolded, "LEAST_BYTES", 0)
    contract, calls = Unfolded.contract, []
    monkeypatch.setattr(Unfolded, "contract", lambda *arguments: calls.append(1) or contract(*arguments))
    for part, value in outputs_and_gradients(layer, x).items():
        assert_agree(value, exact[part], part)
        assert value.is_contiguous() or "weight" not in part, part
    assert calls


def test_they_are_for_few_positions_and_large_weights():
    geometry, weight = Convolution((1, 1), (1, 1, 1, 1), (1, 1)), torch.empty(512, 512, 3, 3)
    x = torch.empty(8, 512, 4, 4)
    assert type(suited(geometry, x, weight)) is Unfolded
    assert type(suited(geometry, torch.empty(33, 512, 4, 4), weight)) is not Unfolded
    assert suited(geometry, x[:, :4], weight[:, :4]) is geometry
    assert suited(geometry, x.to("meta"), weight) is geometry
    groups = Convolution((1, 1), (1, 1, 1, 1), (1, 1), 2)
    assert suited(groups, x, weight[:, :256]) is groups


PLANAR = {
    "plain": lambda **options: KANConv2d(12, 20, 3, padding=1, **options),
    "strided": lambda **options: KANConv2d(1, 20, (2, 3), stride=(2, 1), bias=True, **options),
    "dilated": lambda **options: KANConv2d(5, 9, 3, padding="same", dilation=2, padding_mode="circular", **options),
}


@pytest.mark.parametrize("name", PLANAR)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_planes_in_memory_are_the_layer(name, dtype, monkeypatch):
    layer = randomize(PLANAR[name](dtype=dtype))
    x = torch.randn(6, layer.in_channels, 9, 11, dtype=dtype)
    exact = outputs_and_gradients(with_backend(layer, "reference").double(), x.double())
    monkeypatch.setattr(unfolded, "LEAST_BYTES", 0)
    contract, calls = Convolution.contract, []
    monkeypatch.setattr(Convolution, "contract", lambda self, *rest: calls.append(type(self)) or contract(self, *rest))
    for part, value in outputs_and_gradients(layer, x).items():
        assert_agree(value, exact[part].to(dtype), part)
    assert set(calls) == {Planar}


def test_planes_are_for_large_weights_and_inputs_that_lie_so():
    geometry, weight = Convolution((1, 1), (1, 1, 1, 1), (1, 1)), torch.empty(512, 512, 3, 3)
    x = torch.empty(33, 512, 4, 4)
    assert type(suited(geometry, x, weight)) is Planar
    assert suited(geometry, x.to(memory_format=torch.channels_last), weight) is geometry
    assert suited(geometry, x, weight.to(memory_format=torch.channels_last)) is geometry
    assert suited(geometry, x[:, :8], weight[:, :8]) is geometry
