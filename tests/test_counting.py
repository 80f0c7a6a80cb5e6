"""Tools that count operations find of KAN layers what a hand count does, eager and compiled."""

import copy
import logging

import pytest
import torch
from cases import diagonal
from test_tracing import multiply_adds
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from convkan import KANConv2d, KANLinear, LearnableActivation, LowRankKANConv2d, SharedActivation
from convkan.basis import BASES
from convkan.interop import analyze_flops
from convkan.interop.counting import uncompiled
from convkan.models import create_model
from convkan.testing import LAYERS, make_uneven

every_layer = pytest.mark.parametrize("name", LAYERS)
SHARED = {"linear": (KANLinear, (4, 3), (5, 4)), "conv": (KANConv2d, (2, 3, 3), (2, 2, 6, 7)),
          "activation": (LearnableActivation, (2,), (3, 2, 5)), "shared": (SharedActivation, (), (3, 2, 5)),
          "lowrank": (LowRankKANConv2d, (2, 3, 3), (2, 2, 6, 7))}  # fmt: skip


def by_torch(module, x):
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(x)
    return counter.get_total_flops() // 2


def test_no_part_stays_compiled_however_deep_or_often_it_is():
    layer = torch.compile(KANLinear(3, 3))
    inner = torch.compile(nn.Sequential(layer, nn.ReLU(), layer))
    for model in (nn.Sequential(inner, layer), torch.compile(nn.Sequential(inner, layer))):
        plain, x = uncompiled(model), torch.randn(2, 3)
        assert not any(hasattr(part, "_orig_mod") for part in plain.modules())
        assert any(hasattr(part, "_orig_mod") for part in model.modules())
        torch.compiler.set_stance("force_eager")
        try:
            assert torch.equal(plain(x), model(x))
        finally:
            torch.compiler.set_stance("default")


class TestFvcore:
    @pytest.fixture(autouse=True)
    def installed(self):
        pytest.importorskip("fvcore")
        logging.getLogger("fvcore.nn.jit_analysis").setLevel(logging.ERROR)  # of elementwise work, which is not counted

    @pytest.mark.parametrize(("name", "compiled"), diagonal(LAYERS, ["not", "outside", "inside", "in place"], each=2))
    def test_finds_what_a_hand_count_does(self, name, compiled):
        layer, x = LAYERS[name](), LAYERS[name].input()
        model = nn.Sequential(torch.compile(layer) if compiled == "inside" else layer)
        if compiled == "outside":
            model = torch.compile(model)
        if compiled == "in place":
            layer.compile()
        assert analyze_flops(model, x).total() == multiply_adds(LAYERS[name](), x)

    @pytest.mark.parametrize(("basis", "kind", "uneven"), diagonal(BASES, SHARED, [False, True], each=3))
    def test_agrees_with_torch_in_every_basis(self, kind, basis, uneven):
        layer_class, sizes, shape = SHARED[kind]
        layer, x = layer_class(*sizes, basis=basis), torch.randn(shape)
        if uneven:
            make_uneven(layer)
        assert analyze_flops(layer, x).total() == by_torch(layer, x) > 0

    def test_agrees_with_torch_on_models_but_for_what_is_no_product(self):
        for name in ("kan_vgg", "vgg"):
            model, x = create_model(name).eval(), torch.randn(1, 1, 28, 28)
            found = analyze_flops(model, (x,))
            others = {"batch_norm", "adaptive_avg_pool2d"}
            assert sum(n for op, n in found.by_operator().items() if op not in others) == by_torch(model, x)
            assert found.by_module()["head"] > 0

    def test_leaves_the_model_as_it_is(self):
        layer = KANConv2d(2, 3, 3)
        layer.compile()
        model = nn.Sequential(torch.compile(layer), layer)
        before = [(name, id(module), module._compiled_call_impl) for name, module in model.named_modules()]
        analyze_flops(model[1], torch.randn(1, 2, 4, 4)).total()
        assert before == [(name, id(module), module._compiled_call_impl) for name, module in model.named_modules()]

    @pytest.mark.parametrize(
        ("equation", "shapes", "count"),
        [
            ("ij,jk->ik", [(2, 3), (3, 5)], 30),
            ("... i, b i -> ... b", [(4, 2, 3), (5, 3)], 120),
            ("a...,...->a...", [(7, 4, 1), (4, 3)], 84),
        ],
    )
    def test_counts_other_contractions(self, equation, shapes, count):
        class Contraction(nn.Module):
            def forward(self, *factors):
                return torch.einsum(equation, *factors)

        assert analyze_flops(Contraction(), tuple(map(torch.randn, shapes))).total() == count


@every_layer
def test_torchinfo_finds_parameters_and_shapes(name):
    torchinfo = pytest.importorskip("torchinfo")
    layer, x = LAYERS[name](), LAYERS[name].input()
    found = torchinfo.summary(copy.deepcopy(layer), input_data=x, verbose=0)
    assert found.total_params == sum(parameter.numel() for parameter in layer.parameters())
    assert found.summary_list[0].output_size == list(layer(x).shape)
