"""Activations that go where those of torch go: of any shape, or with channels last."""

import copy

import pytest
import torch
from networks import images, pickled, timm
from torch import nn

from convkan import BSpline, KANConv2d, KANLinear, LearnableActivation, SharedActivation


class TestSharedActivation:
    def test_is_one_function_of_every_number_of_any_shape(self):
        activation, one = SharedActivation(dtype=torch.float64), LearnableActivation(1, dtype=torch.float64)
        one.load_state_dict(activation.state_dict())
        x = 2 * torch.randn(2, 3, 4, 5, dtype=torch.float64)
        expected = one(x.reshape(-1, 1)).reshape(x.shape)
        for view in (
            x,
            x.to(memory_format=torch.channels_last),
            x.mT.contiguous().mT,
            x.flatten(),
            x[0, 0, 0, 0],
            x[:0],
        ):
            y = activation(view)
            assert y.shape == view.shape
            assert torch.allclose(y.flatten(), one(view.reshape(-1, 1)).flatten(), atol=1e-12)
        assert torch.allclose(activation(x), expected, atol=1e-12)
        last = activation(x.to(memory_format=torch.channels_last))
        assert last.is_contiguous(memory_format=torch.channels_last)

    def test_leaves_its_input_whatever_inplace_says(self):
        x = torch.randn(5)
        before = x.clone()
        for inplace in (False, True):
            activation = SharedActivation(inplace)
            activation(x)
            assert torch.equal(x, before)
            assert ("inplace=True" in repr(activation)) == inplace

    def test_is_what_torchvision_and_timm_make_layers_of(self):
        blocks = pytest.importorskip("torchvision.ops")
        x = torch.randn(2, 3, 8, 8)
        block = blocks.Conv2dNormActivation(3, 4, activation_layer=SharedActivation)
        assert isinstance(block[2], SharedActivation)
        assert block(x).shape == (2, 4, 8, 8)
        assert blocks.MLP(3, [4, 2], activation_layer=SharedActivation, inplace=True)(x.movedim(1, -1)).shape[-1] == 2
        model = timm("resnet10t", act_layer=SharedActivation)().eval()
        assert sum(isinstance(module, SharedActivation) for module in model.modules()) > 8
        assert model(images()).shape == (2, 3)

    def test_is_saved_copied_traced_compiled_and_exported(self):
        model, x = nn.Sequential(nn.Linear(3, 3), SharedActivation(), nn.Linear(3, 2)), torch.randn(5, 3)
        nn.init.normal_(model[1].basis_weight)
        expected = model(x)
        other = copy.deepcopy(model)
        nn.init.zeros_(other[1].basis_weight)
        other.load_state_dict(model.state_dict())
        exported = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)).module()
        compiled_model = torch.compile(model, backend="eager", fullgraph=True)
        for again in (
            other,
            pickled(model),
            torch.fx.symbolic_trace(model),
            exported,
            compiled_model,
        ):
            assert torch.allclose(again(x), expected, atol=1e-6)
        assert exported(torch.randn(9, 3)).shape == (9, 2)

    def test_channels_around_it_can_be_pruned(self):
        from convkan.interpret import importance, prune_channels

        model = nn.Sequential(KANConv2d(1, 4, 3), SharedActivation(), nn.Flatten(), KANLinear(4 * 9, 2))
        small = prune_channels(model, importance(model, [torch.randn(4, 1, 5, 5)]), 0.5)
        assert small[0].out_channels == 2
        assert small(torch.randn(4, 1, 5, 5)).shape == (4, 2)

    def test_channels_may_be_last(self):
        last, first = LearnableActivation(4, 2, dim=-1), LearnableActivation(4, 2)
        first.load_state_dict(last.state_dict())
        x = torch.randn(2, 3, 5, 4)
        assert torch.allclose(last(x), first(x.movedim(-1, 1)).movedim(1, -1), atol=1e-6)
        assert last(x).is_contiguous()
        for options in ({"dim": 2}, {"dim": -1, "padding": (1, 1)}):
            with pytest.raises(ValueError, match="dim must be 1, or -1 without padding"):
                LearnableActivation(4, **options)
        with pytest.raises(ValueError, match="4 channels in dimension -1"):
            last(x.movedim(-1, 1))


def test_an_activation_without_channels_is_one_function_for_all():
    activation = LearnableActivation(inplace=True, basis=BSpline(3), base_activation="relu")
    assert type(activation) is SharedActivation
    assert (activation.basis.grid_size, activation.base_activation, activation.inplace) == (3, "relu", True)
    x = torch.randn(2, 3, 4)
    assert torch.equal(copy.deepcopy(activation)(x), activation(x))
    assert type(copy.deepcopy(LearnableActivation(3))) is LearnableActivation
    with pytest.raises(ValueError, match="num_channels must be given where num_functions, padding or dim are"):
        LearnableActivation(num_functions=2)
