"""A convolution as products of matrices is that convolution."""

import pytest
import torch

from convkan import KANConv1d, KANConv2d, KANConv3d
from convkan.ops import unfolded
from convkan.ops.convolution import Convolution
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
    assert suited(geometry, torch.empty(33, 512, 4, 4), weight) is geometry
    assert suited(geometry, x[:, :4], weight[:, :4]) is geometry
    assert suited(geometry, x.to("meta"), weight) is geometry
    groups = Convolution((1, 1), (1, 1, 1, 1), (1, 1), 2)
    assert suited(groups, x, weight[:, :256]) is groups
