"""The way back from KAN layers to plain ones."""

import copy

import pytest
import torch
from networks import relative
from torch import nn

from convkan import KANConv1d, KANConv2d, KANLinear, LowRankKANConv2d, SharedActivation, simplify


class TestSimplify:
    @pytest.mark.parametrize(
        ("layer", "shape"),
        [
            (KANConv2d(4, 6, 3, padding=1, groups=2), (2, 4, 6, 6)),
            (KANConv1d(2, 3, 3, bias=True), (2, 2, 9)),
            (KANLinear(4, 3), (9, 4)),
            (LowRankKANConv2d(4, 2, 3, rank=2), (2, 4, 6, 6)),
        ],
    )
    def test_straight_functions_become_plain_layers(self, layer, shape):
        layer = copy.deepcopy(layer).double()
        x = torch.rand(shape, dtype=torch.float64)  # on the grid
        functions = layer.functions
        inner = torch.arange(-1.4, 1.5, 0.4, dtype=torch.float64)  # where splines stand for x
        with torch.no_grad():
            functions.base_weight.zero_()
            edges = functions.coefficients
            slope, constant = torch.randn(2, *edges[:, :, 0].shape, dtype=torch.float64)
            knots = inner.view(1, 1, -1, *(1,) * (edges.ndim - 3))
            edges.copy_(slope.unsqueeze(2) * knots + constant.unsqueeze(2))
        model = nn.Sequential(layer)
        found = simplify(model, [x])
        assert type(found.model[0]).__module__.startswith("torch.nn")
        assert found.layers["0"] < 1e-7
        assert found.error < 1e-7
        assert relative(found.model(x), model(x)) < 1e-7
        with torch.no_grad():
            functions.coefficients.add_(0.5 * torch.randn_like(functions.coefficients))
        assert simplify(model, [x]).layers == {}
        rough = simplify(model, [x], tolerance=1.0)
        error = (rough.model(x) - model(x)).norm() / model(x).norm()
        assert rough.error == pytest.approx(error.item())
        assert rough.error > 0.01

    def test_where_inputs_are_is_what_counts(self):
        model = nn.Sequential(SharedActivation(base_activation="relu")).double()
        with torch.no_grad():
            model[0].base_weight.fill_(1)
            model[0].basis_weight.zero_()
            model[0].basis_weight[:, 0] = 1.0  # which lives below −0.6
        assert simplify(model).layers == {}
        assert repr(simplify(model, [torch.rand(99, dtype=torch.float64)]).model[0]) in ("ReLU()", "Identity()")

    def test_named_functions_stay(self):
        from convkan.interpret import fix

        model = nn.Sequential(KANLinear(1, 1, dtype=torch.float64))
        fix(model[0], (0, 0), "sin", affine=(2.0, 0.0, 3.0, 0.0))
        assert simplify(model, tolerance=10.0).layers == {}

    def test_arguments_are_checked(self):
        for options, message in (
            ({"tolerance": -1}, "tolerance must be at least 0"),
            ({"batches": []}, "at least one"),
        ):
            with pytest.raises(ValueError, match=message):
                simplify(nn.Sequential(nn.ReLU()), **options)
