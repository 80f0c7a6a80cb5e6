"""Penalties: what they measure, that they are finite where edges are zero, and that they act."""

import pytest
import torch
from torch import nn

from convkan import KANConv2d, KANLinear, LowRankKANConv2d
from convkan.basis import BSpline
from convkan.regularization import (
    edge_norms,
    l1_entropy,
    recorded_inputs,
    smoothness,
    total_l1_entropy,
    total_smoothness,
)
from convkan.testing import LAYER_CLASSES, assert_agree, kan_layers, make_uneven, randomize, with_backend

every_class = pytest.mark.parametrize("case", LAYER_CLASSES.values(), ids=LAYER_CLASSES)


class TestEdgeNorms:
    def test_are_mean_absolute_values_of_single_edges(self):
        layer = make_uneven(randomize(KANLinear(3, 2, dtype=torch.float64)))
        x = torch.randn(50, 3, dtype=torch.float64)
        norms = edge_norms(layer, x)
        for out in range(2):
            for channel in range(3):
                alone = KANLinear(1, 1, dtype=torch.float64)
                alone.set_grid(layer.grid[channel : channel + 1])
                with torch.no_grad():
                    alone.basis_weight.copy_(layer.coefficients[out, channel].unsqueeze(0))
                    alone.base_weight.copy_(layer.base_weight[out, channel].reshape(1, 1))
                assert_agree(norms[out, channel], alone(x[:, channel : channel + 1]).abs().mean())

    @every_class
    def test_have_one_entry_an_edge_for_every_layer(self, case):
        layer = case(dtype=torch.float64)
        holder = kan_layers(layer)[0]
        norms = edge_norms(layer, case.input(torch.float64))
        assert norms.shape == holder.coefficients.select(2, 0).shape
        assert (norms > 0).all()

    def test_padding_counts_and_groups_are_apart(self):
        layer = randomize(KANConv2d(4, 4, 1, padding=1, groups=2, base_activation=None, dtype=torch.float64))
        norms = edge_norms(layer, torch.zeros(1, 4, 2, 2, dtype=torch.float64))
        at_zero = with_backend(layer, "reference")(torch.zeros(1, 4, 1, 1, dtype=torch.float64))[0, :, 0, 0]
        assert norms.shape == (4, 2, 1, 1)
        signs = layer.coefficients.new_zeros(4)
        assert (norms.sum((1, 2, 3)) >= at_zero.abs() + signs - 1e-12).all()

    def test_many_samples_are_thinned(self):
        layer = KANLinear(2, 2)
        x = torch.randn(100_000, 2)
        assert_agree(edge_norms(layer, x, samples=5000), edge_norms(layer, x, samples=100_000), factor=1e5)

    def test_other_modules_are_refused(self):
        with pytest.raises(TypeError, match="must be a KAN layer, got Linear"):
            edge_norms(nn.Linear(2, 2), torch.zeros(1, 2))


class TestL1Entropy:
    def test_is_the_paper_s_formula(self):
        layer, x = randomize(KANLinear(3, 2, dtype=torch.float64)), torch.randn(40, 3, dtype=torch.float64)
        norms = edge_norms(layer, x)
        shares = norms / norms.sum()
        expected = 2 * norms.sum() - 0.5 * (shares * shares.log()).sum()
        assert_agree(l1_entropy(layer, x, l1=2.0, entropy=0.5), expected)

    @every_class
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_is_finite_with_its_gradient_where_edges_are_zero(self, case, dtype):
        layer = case(dtype=dtype)
        x = case.input(dtype).requires_grad_()
        holder = kan_layers(layer)[0]
        for zeros in ("one", "all"):
            with torch.no_grad():
                if zeros == "all":
                    holder.basis_weight.zero_()
                    holder.base_weight.zero_()
                else:
                    holder.coefficients[0].zero_()
                    holder.base_weight[0].zero_()
            loss = l1_entropy(layer, x)
            loss.backward()
            assert loss.isfinite()
            assert holder.basis_weight.grad.isfinite().all()
            assert holder.base_weight.grad.isfinite().all()
            assert x.grad.isfinite().all()

    def test_gradients_are_right(self):
        layer, x = KANLinear(2, 2, basis=BSpline(3), dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)

        def penalty(weight, x):
            return torch.func.functional_call(Penalised(layer), {"layer.basis_weight": weight}, (x,))

        assert torch.autograd.gradcheck(penalty, (layer.basis_weight.detach().requires_grad_(), x.requires_grad_()))

    def test_more_of_it_leaves_fewer_edges_alive(self):
        alive = []
        x = 2 * torch.rand(256, 4) - 1
        y = torch.sin(3 * x[:, :1])
        for weight in (0.0, 1e-2):
            torch.manual_seed(0)
            model = nn.Sequential(KANLinear(4, 5), KANLinear(5, 1))
            optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
            for _ in range(150):
                optimizer.zero_grad()
                with recorded_inputs(model) as calls:
                    loss = (model(x) - y).square().mean()
                (loss + weight * total_l1_entropy(calls, samples=64)).backward()
                optimizer.step()
            alive.append(int((edge_norms(model[0], x) > 1e-2).sum()))
            assert loss < 0.05
        assert alive[1] < alive[0]

    def test_calls_are_recorded_within_the_block_only(self):
        model = nn.Sequential(LowRankKANConv2d(1, 2, 3), nn.Flatten(), KANLinear(8, 1))
        x = torch.randn(2, 1, 4, 4)
        with recorded_inputs(model) as calls:
            model(x)
        model(x)
        assert [type(layer).__name__ for layer, _ in calls] == ["LearnableActivation", "KANLinear"]
        assert total_l1_entropy([]) == 0


class Penalised(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return l1_entropy(self.layer, x)


class TestSmoothness:
    def test_is_zero_for_straight_lines_and_does_not_depend_on_scale(self):
        layer = randomize(KANLinear(2, 2, dtype=torch.float64))
        rough = smoothness(layer)
        with torch.no_grad():
            layer.basis_weight.mul_(7)
        assert_agree(smoothness(layer), rough)
        assert rough > 0
        with torch.no_grad():
            layer.coefficients.copy_(torch.arange(8.0))
        assert smoothness(layer) < 1e-20
        with torch.no_grad():
            layer.basis_weight.zero_()
        assert smoothness(layer) == 0

    def test_needs_three_functions(self):
        with pytest.raises(ValueError, match="at least 3 functions, got 2"):
            smoothness(KANLinear(1, 1, basis=BSpline(1, 1)))

    def test_sums_over_the_spline_layers_of_a_model(self):
        model = nn.Sequential(KANLinear(2, 2), nn.ReLU(), KANLinear(2, 1))
        assert_agree(total_smoothness(model), smoothness(model[0]) + smoothness(model[2]))
        assert total_smoothness(nn.Linear(1, 1)) == 0
