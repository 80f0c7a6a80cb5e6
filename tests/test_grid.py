"""Grid operations: they keep the function, follow the data, and refuse what makes no sense."""

import logging
import math
from functools import partial

import pytest
import torch
from cases import diagonal
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import START_METHOD
from torch import nn
from torch.multiprocessing.spawn import start_processes

from convkan import KANConv2d, KANLinear, LearnableActivation, LowRankKANConv2d
from convkan.basis import BSpline, Chebyshev
from convkan.grid import (
    Summary,
    adapt_grid,
    adapt_grids,
    coverage,
    coverages,
    fitting,
    inputs_of,
    insertion,
    refine_grid,
    refine_grids,
)
from convkan.testing import LAYERS, assert_agree, kan_layers, make_uneven, randomize

EXTRAPOLATIONS = ["zero", "clamp", "linear"]
every_layer = pytest.mark.parametrize("case", LAYERS.values(), ids=LAYERS)
every_extrapolation = pytest.mark.parametrize("extrapolation", EXTRAPOLATIONS)


def change_of(layer, operation, x):
    """What an operation on a layer reports, and what it does to the output."""
    before = layer(x)
    reported = operation(layer)
    return reported, change(layer(x), before)


def change(after, before):
    """‖after − before‖/‖before‖."""
    return ((after - before).double().norm() / before.double().norm()).item()


class TestInsertion:
    @settings(max_examples=40, deadline=None)
    @given(st.integers(0, 5), st.integers(1, 9), st.integers(1, 5), st.integers(0, 2**31))
    def test_finer_knots_hold_the_same_spline(self, order, grid_size, factor, seed):
        generator = torch.Generator().manual_seed(seed)
        basis, fine = BSpline(grid_size, order), BSpline(grid_size * factor, order)
        inner = (0.05 + torch.rand(2, grid_size + 1, generator=generator, dtype=torch.float64)).cumsum(1)
        outer = 1 + torch.arange(order, dtype=torch.float64)
        knots = torch.cat([inner[:, :1] - outer.flip(0), inner, inner[:, -1:] + outer], 1)
        steps = torch.linspace(0, 1, factor + 1, dtype=torch.float64)[:-1]
        between = (inner[:, :-1, None] + inner.diff(dim=1)[..., None] * steps).flatten(1)
        new_knots = torch.cat([knots[:, :order], between, inner[:, -1:], knots[:, order + grid_size + 1 :]], 1)
        coefficients = torch.randn(2, basis.num_functions, generator=generator, dtype=torch.float64)
        averages = insertion(basis, knots, fine, new_knots)
        new = (averages @ coefficients.unsqueeze(-1)).squeeze(-1)
        assert averages.min() > -1e-9
        assert_agree(averages.sum(-1), torch.ones(2, fine.num_functions, dtype=torch.float64), factor=10)
        x = knots[:, 0] + (knots[:, -1] - knots[:, 0]) * torch.rand(90, 2, generator=generator, dtype=torch.float64)
        before, after = (
            (one.evaluate(x, places) * values.T).sum(-2)
            for one, places, values in ((basis, knots, coefficients), (fine, new_knots, new))
        )
        assert (before - after).abs().max() < 1e-9


class TestRefine:
    @pytest.mark.parametrize(("name", "extrapolation"), diagonal(LAYERS, EXTRAPOLATIONS))
    def test_a_multiple_keeps_the_function_everywhere(self, name, extrapolation):
        case = LAYERS[name]
        layer = randomize(case(basis=BSpline(3, extrapolation=extrapolation), dtype=torch.float64))
        x = case.input(torch.float64, scale=2.5)
        for size in (6, 12, 24):
            for part in [layer] if not isinstance(layer, nn.Sequential) else kan_layers(layer):
                reported, real = change_of(part, lambda part, size=size: refine_grid(part, size), x)
                assert reported < 1e-12
                assert real < 1e-11
        assert {part.basis.grid_size for part in kan_layers(layer)} == {24}

    @every_extrapolation
    @pytest.mark.parametrize("order", [0, 1, 2, 3, 5])
    def test_of_any_order_in_any_precision(self, extrapolation, order):
        for dtype, allowed in ((torch.float64, 1e-9), (torch.float32, 1e-4)):
            layer = randomize(KANLinear(3, 4, basis=BSpline(4, order, (-1, 2), extrapolation), dtype=dtype))
            reported, real = change_of(
                layer, lambda layer: refine_grid(layer, 12), 3 * torch.randn(200, 3, dtype=dtype)
            )
            assert reported < allowed
            assert real < allowed

    def test_uneven_grids_grow_to_any_larger_size_without_change(self):
        layer = make_uneven(randomize(KANConv2d(2, 3, 3, basis=BSpline(4), dtype=torch.float64)))
        x = torch.randn(4, 2, 8, 8, dtype=torch.float64)
        for size in (5, 7, 13):
            assert max(change_of(layer, lambda layer, size=size: refine_grid(layer, size), x)) < 1e-11

    @every_extrapolation
    def test_other_sizes_report_how_far_the_function_moved(self, extrapolation):
        layer = randomize(KANLinear(3, 2, basis=BSpline(5, extrapolation=extrapolation), dtype=torch.float64))
        x = 2 * torch.rand(2000, 3, dtype=torch.float64) - 1
        reported, real = change_of(layer, lambda layer: refine_grid(layer, 8), x)
        assert 1e-9 < reported < 0.2
        assert reported / 3 < real < 3 * reported
        # On a finer grid still, the function is nearly the same again.
        assert refine_grid(layer, 64) < reported

    def test_other_sizes_fit_a_function_that_both_grids_hold_exactly(self):
        layer = KANLinear(2, 2, basis=BSpline(5, extrapolation="linear"), base_activation=None, dtype=torch.float64)
        greville = torch.linspace(-1.4, 1.4, 8, dtype=torch.float64)  # coefficients of the identity
        with torch.no_grad():
            layer.coefficients.copy_(greville)
        x = 2 * torch.rand(50, 2, dtype=torch.float64) - 1
        assert max(change_of(layer, lambda layer: refine_grid(layer, 7), x)) < 1e-10

    def test_where_knots_stay_evenly_spaced(self):
        for extrapolation in EXTRAPOLATIONS:
            layer = KANLinear(2, 2, basis=BSpline(extrapolation=extrapolation))
            refine_grid(layer, 10)
            assert layer.uniform_knots == (extrapolation != "zero")

    @pytest.mark.parametrize(("name", "size"), diagonal(LAYERS, [6, 9, 24]))
    def test_knots_beyond_may_be_laid_out_anew(self, name, size):
        case = LAYERS[name]
        layer = randomize(case(basis=BSpline(3), dtype=torch.float64))
        x = case.input(torch.float64, scale=0.3).clamp(-1, 1)
        for part in [layer] if not isinstance(layer, nn.Sequential) else kan_layers(layer):
            reported, real = change_of(part, lambda part: refine_grid(part, size, keep_beyond=False), x)
            assert max(reported, real) < 1e-9
            assert all(functions.uniform_knots for functions in kan_layers(part))

    @pytest.mark.parametrize("size", [1, 3])
    def test_weights_keep_their_layout_in_memory(self, size):
        layer, fresh = (KANConv2d(4, 3, size).to(memory_format=torch.channels_last) for _ in range(2))
        refine_grid(layer, 10)
        fresh.load_state_dict(layer.state_dict())
        for one in (layer, fresh):
            assert one.basis_weight.stride(1) == 1
            assert one.basis_weight.stride(-1) == one.basis_weight.shape[1]

    def test_a_network_is_refined_again_and_again(self):
        for seed in range(4):
            torch.manual_seed(seed)
            model = nn.Sequential(KANLinear(4, 6, dtype=torch.float64), KANLinear(6, 2, dtype=torch.float64))
            x = torch.randn(1000, 4, dtype=torch.float64)
            for size in (10, 20, 40, 80):
                _, real = change_of(model, partial(refine_grids, grid_size=size), x)
                assert real < 1e-9

    def test_state_of_a_refined_layer_loads_into_a_fresh_one(self):
        layer = randomize(KANConv2d(2, 3, 3))
        refine_grid(layer, 10)
        fresh = KANConv2d(2, 3, 3)
        fresh.load_state_dict(layer.state_dict())
        x = torch.randn(1, 2, 5, 5)
        assert torch.equal(fresh(x), layer(x))

    @pytest.mark.parametrize("size", [0, -1, 2.5, "3"])
    def test_sizes_that_make_no_sense_are_refused(self, size):
        with pytest.raises((TypeError, ValueError), match="grid_size must be"):
            refine_grid(KANLinear(2, 2), size)

    def test_a_coarse_dtype_refuses_a_fine_grid(self):
        layer = KANLinear(2, 2, basis=BSpline(5, grid_range=(100, 101)), dtype=torch.float64).to(torch.bfloat16)
        with pytest.raises(ValueError, match="finer than torch.bfloat16"):
            refine_grid(layer, 500)


class TestAdapt:
    @pytest.mark.parametrize(("name", "grid_eps"), diagonal(LAYERS, [0.0, 0.05, 1.0]))
    def test_inputs_are_covered_and_the_output_stays_near(self, name, grid_eps):
        case = LAYERS[name]
        layer = randomize(case(basis=BSpline(30, grid_range=(-6, 6)), dtype=torch.float64))
        x = case.input(torch.float64, batch=64)
        before = layer(x)
        if coverage(layer, x).max() > 0:
            return
        reported = adapt_grid(layer, x, grid_eps=grid_eps)
        assert coverage(layer, x).max() == 0
        assert reported == pytest.approx(change(layer(x), before), rel=1e-6)
        for part in kan_layers(layer):
            assert part.uniform_knots == (grid_eps == 1)

    def test_a_smooth_function_hardly_changes(self):
        for grid_eps in (0.02, 1.0):
            layer = KANLinear(3, 4, basis=BSpline(20, grid_range=(-4, 4)), dtype=torch.float64)
            places = torch.linspace(-4, 4, 23, dtype=torch.float64)
            with torch.no_grad():
                layer.coefficients.copy_(torch.sin(places + torch.rand(4, 3, 1)))
            x = torch.randn(3000, 3, dtype=torch.float64)
            reported, real = change_of(layer, partial(adapt_grid, x=x, grid_eps=grid_eps), x)
            assert reported == pytest.approx(real, rel=0.5)
            assert real < 1e-3

    def test_knots_follow_the_data(self):
        layer = KANLinear(1, 1, basis=BSpline(10, grid_range=(-5, 5)), dtype=torch.float64)
        x = torch.randn(20_000, 1, dtype=torch.float64)
        adapt_grid(layer, x, grid_eps=0, margin=0)
        inner = layer.grid[0, 3:-3]
        shares = ((x > inner[:-1]) & (x <= inner[1:])).double().mean(0)
        assert (shares - 0.1).abs().max() < 0.005
        assert inner[0] == x.min()
        assert inner[-1] == x.max()

    def test_channels_without_a_range_keep_their_grid(self):
        layer = randomize(KANLinear(3, 2, dtype=torch.float64))
        x = torch.randn(50, 3, dtype=torch.float64)
        x[:, 1] = 0.3
        before, output = layer.grid.clone(), layer(torch.full((1, 3), 0.3, dtype=torch.float64))
        adapt_grid(layer, x)
        assert torch.equal(layer.grid[1], before[1])
        assert not torch.equal(layer.grid[0], before[0])
        one = layer.grid.clone()
        assert adapt_grid(layer, x[:1]) == 0
        assert torch.equal(layer.grid, one)
        assert output.isfinite().all()

    @pytest.mark.parametrize("values", [[0.0, 1.0], [0.0, 0.0, 0.0, 1.0], [0.0] * 500 + [1.0], [-1.0, 0.5, 0.5, 0.5]])
    @pytest.mark.parametrize("grid_eps", [0.0, 0.02, 1.0])
    def test_few_and_repeated_inputs_leave_increasing_knots_and_the_function_at_them(self, values, grid_eps):
        layer = randomize(KANLinear(1, 3, dtype=torch.float64))
        x = torch.tensor(values, dtype=torch.float64).unsqueeze(1)
        _, real = change_of(layer, lambda layer: adapt_grid(layer, x, grid_eps=grid_eps), x)
        assert (layer.grid.diff(dim=1) > 0).all()
        assert real < 1e-3

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision(self, dtype):
        layer = randomize(KANLinear(3, 2, basis=BSpline(6, grid_range=(-4, 4)))).to(dtype)
        x = torch.randn(400, 3).to(dtype)
        _, real = change_of(layer, lambda layer: adapt_grid(layer, x), x)
        assert (layer.grid.diff(dim=1) > 0).all()
        assert math.isfinite(real)

    def test_groups_are_adapted_each_on_its_own(self):
        layer = randomize(KANConv2d(4, 4, 3, groups=2, basis=BSpline(20, grid_range=(-5, 5)), dtype=torch.float64))
        x = torch.randn(20, 4, 6, 6, dtype=torch.float64) * torch.tensor([0.1, 0.5, 1.0, 1.2]).view(-1, 1, 1)
        adapt_grid(layer, x, grid_eps=1.0)
        low, _ = layer.basis.ends(layer.grid)
        least, greatest = x.movedim(1, 0).flatten(1).aminmax(dim=1)
        assert_agree(low, least - 0.01 * (greatest - least), factor=10)

    def test_optimisers_keep_hold_of_the_parameters(self):
        layer = KANLinear(2, 2)
        before = layer.basis_weight
        adapt_grid(layer, torch.randn(50, 2))
        assert layer.basis_weight is before

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"x": torch.empty(0, 2)}, "inputs must not be empty"),
            ({"x": torch.tensor([[0.0, math.nan]])}, "inputs must be finite"),
            ({"x": torch.rand(3, 2), "grid_eps": 1.5}, r"grid_eps must lie in \[0, 1\], got 1.5"),
            ({"x": torch.rand(3, 2), "margin": -1}, "margin must not be negative, got -1"),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, arguments, message):
        layer = KANLinear(2, 2)
        x = arguments["x"].to(layer.grid)
        with pytest.raises(ValueError, match=message):
            adapt_grid(layer, **arguments | {"x": x})


@pytest.mark.parametrize(
    "operation", [lambda layer: adapt_grid(layer, torch.rand(2, 2)), lambda layer: refine_grid(layer, 9)]
)
def test_a_basis_without_a_grid_is_refused(operation):
    with pytest.raises(TypeError, match="Chebyshev basis has no grid"):
        operation(KANLinear(2, 2, basis=Chebyshev()))
    with pytest.raises(TypeError, match="must be a KAN layer, got Linear"):
        operation(nn.Linear(2, 2))


class TestCoverage:
    def test_counts_what_lies_beyond_the_ends(self):
        layer = KANLinear(2, 1, basis=BSpline(grid_range=(-1, 1)))
        x = torch.tensor([[0.0, -1.1], [1.0, 0.0], [1.01, 5.0], [-1.0, 0.1]])
        assert torch.equal(coverage(layer, x).cpu(), torch.tensor([0.25, 0.5], dtype=torch.float64, device="cpu"))

    def test_sees_the_padding(self):
        x = torch.full((1, 1, 2, 2), 0.5)
        for layer in (
            KANConv2d(1, 1, 3, padding=1, basis=BSpline(grid_range=(0.2, 1))),
            LowRankKANConv2d(1, 1, 3, padding=1, basis=BSpline(grid_range=(0.2, 1))),
        ):
            assert coverage(layer, x).item() == 12 / 16
        assert (
            coverage(KANConv2d(1, 1, 3, padding=1, padding_mode="circular", basis=BSpline(grid_range=(0.2, 1))), x) == 0
        )

    @every_layer
    def test_inputs_are_those_that_the_functions_see(self, case):
        layer, x = case(), case.input()
        for part in kan_layers(layer):
            assert inputs_of(part, x).shape[0] == part.num_inputs
            break


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = KANConv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.second = LowRankKANConv2d(4, 3, 3)
        self.head = KANLinear(3, 2)

    def forward(self, x):
        return self.head(self.second(self.drop(self.norm(self.first(x)))).mean((2, 3)))


class TestModels:
    def batches(self):
        return [(2 * torch.randn(8, 1, 6, 6), torch.zeros(8)) for _ in range(3)]

    def test_are_left_as_they_were_but_for_their_grids(self):
        model = Net().train()
        running = model.norm.running_mean.clone(), model.norm.num_batches_tracked.clone()
        generator = torch.get_rng_state()
        batches = self.batches()
        torch.set_rng_state(generator)
        changes = adapt_grids(model, batches)
        assert set(changes) == {"first", "second.activation", "head"}
        assert torch.equal(model.norm.running_mean, running[0])
        assert torch.equal(model.norm.num_batches_tracked, running[1])
        assert torch.equal(torch.get_rng_state(), generator)
        assert model.training
        assert all(p.grad is None for p in model.parameters())
        assert not model.first._forward_pre_hooks
        assert coverages(model.eval(), batches)["first"].off_grid.max() == 0

    def test_coverage_tells_what_lies_off_and_what_is_dead(self):
        model = nn.Sequential(KANLinear(2, 2), KANLinear(2, 1))
        found = coverages(model, [torch.tensor([[3.0, 0.1], [0.5, 0.1]])])
        assert set(found) == {"0", "1"}
        assert found["0"].off_grid.tolist() == [0.5, 0.0]
        assert found["0"].dead.tolist() == [False, True]

    def test_several_batches_give_the_grid_of_all_of_them(self):
        x = torch.randn(3000, 2, dtype=torch.float64)
        one, many = (KANLinear(2, 2, basis=BSpline(12), dtype=torch.float64) for _ in range(2))
        adapt_grids(one, [x])
        adapt_grids(many, x.split(700))
        inner = slice(3, -3)
        ranks = [(x.T.unsqueeze(-1) <= layer.grid[:, inner].unsqueeze(1)).double().mean(1) for layer in (one, many)]
        assert (ranks[0] - ranks[1]).abs().max() <= 2 / 1024
        assert torch.equal(one.grid[:, [3, -4]], many.grid[:, [3, -4]])

    def test_compiled_models_are_seen_into(self):
        torch.compiler.reset()
        model = nn.Sequential(KANLinear(2, 3), KANLinear(3, 1))
        model.compile(backend="aot_eager")
        x = torch.randn(64, 2)
        model(x)
        assert set(adapt_grids(model, [x])) == {"0", "1"}
        assert_agree(model(x), model.forward(x), factor=10)
        torch.compiler.reset()

    def test_nothing_to_follow_is_refused(self):
        with pytest.raises(ValueError, match="batches must hold at least one"):
            adapt_grids(Net(), [])

    @pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.LBFGS])
    def test_training_goes_on_after_refinement(self, optimizer, caplog):
        model = nn.Sequential(KANLinear(2, 3), nn.Linear(3, 1))
        x, y = torch.rand(64, 2), torch.rand(64, 1)
        steps = optimizer(model.parameters(), lr=1e-2)

        def closure():
            steps.zero_grad()
            loss = (model(x) - y).square().mean()
            loss.backward()
            return loss

        steps.step(closure)
        kept = steps.state.get(model[1].weight)
        with caplog.at_level(logging.INFO, logger="convkan.grid"):
            refine_grids(model, 10, steps)
        assert "0 starts anew" in caplog.text
        assert any(parameter is model[0].basis_weight for parameter in steps.param_groups[0]["params"])
        before = closure().item()
        for _ in range(20):
            steps.step(closure)
        assert closure().item() < before
        if optimizer is torch.optim.Adam:
            assert steps.state[model[1].weight] is kept

    def test_wrapped_models_are_refused(self):
        class DistributedDataParallel(nn.Module):
            def __init__(self):
                super().__init__()
                self.module = Net()

        with pytest.raises(RuntimeError, match="refine, then wrap"):
            refine_grids(DistributedDataParallel(), 10)


class TestSummaries:
    def test_few_samples_are_kept_and_many_thinned(self):
        few, many = torch.randn(2, 100), torch.randn(2, 50_000, dtype=torch.float64)
        assert torch.equal(Summary.of(few).points, few.double().sort(1).values)
        summary = Summary.of(many)
        ranks = (many.unsqueeze(-1) <= summary.points[:, None, ::50]).double().mean(1)
        expected = (torch.arange(0, 1024, 50) + 0.5) / 1024
        assert (ranks - expected).abs().max() < 1 / 1024

    def test_lots_of_unequal_size_count_by_size(self):
        parts = [torch.zeros(1, 9000), torch.ones(1, 1000)]
        joined = Summary.joined([Summary.of(part) for part in parts])
        assert joined.count == 10_000
        assert joined.points.mean().item() == pytest.approx(0.1, abs=2 / 1024)


def test_fitting_finds_the_spline_there_is():
    basis, other = BSpline(6), BSpline(9)
    knots, new_knots = basis.knots(2), other.knots(2)
    points = torch.linspace(-1, 1, 400, dtype=torch.float64).expand(2, -1)
    matrix = fitting(basis, knots, other, new_knots, points, torch.ones_like(points))
    constant = matrix @ torch.ones(2, 9, 1, dtype=torch.float64)
    assert_agree(constant, torch.ones_like(constant), factor=1e4)


def _adapt_in_a_process(rank, path, results):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
    torch.manual_seed(0)
    model = nn.Sequential(KANLinear(2, 3, dtype=torch.float64), KANLinear(3, 1, dtype=torch.float64))
    x = torch.load(results / "x.pt")
    adapt_grids(model, [x[rank::2]])
    refine_grids(model, 10)
    torch.save(model.state_dict(), results / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_processes_end_with_the_same_grids(tmp_path):
    x = torch.randn(4000, 2, dtype=torch.float64)
    torch.save(x, tmp_path / "x.pt")
    start_processes(_adapt_in_a_process, (tmp_path / "meeting", tmp_path), nprocs=2, start_method=START_METHOD)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    torch.manual_seed(0)
    alone = nn.Sequential(KANLinear(2, 3, dtype=torch.float64), KANLinear(3, 1, dtype=torch.float64))
    adapt_grids(alone, [x])
    refine_grids(alone, 10)
    inner = first["0.grid"][:, 3:-3]
    ranks = [(x.T.unsqueeze(-1) <= grid.unsqueeze(1)).double().mean(1) for grid in (inner, alone[0].grid[:, 3:-3])]
    assert (ranks[0] - ranks[1]).abs().max() <= 2 / 1024


def test_a_learnable_activation_adapts_with_its_padding():
    layer = randomize(
        LearnableActivation(2, 2, padding=(1, 1), basis=BSpline(20, grid_range=(-4, 4)), dtype=torch.float64)
    )
    x = 2 + torch.rand(50, 2, 6, dtype=torch.float64)
    adapt_grid(layer, x, grid_eps=1.0, margin=0.0)
    low, _ = layer.basis.ends(layer.grid)
    assert_agree(low, torch.zeros(2, dtype=torch.float64))
