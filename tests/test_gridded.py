"""A basis on a grid that the package does not know, in all that is done with grids; as a basis, see ``cases``."""

import pickle
from copy import deepcopy

import pytest
import torch
from bumps import Bumps
from torch import nn
from torch.optim.swa_utils import AveragedModel

from convkan import KANConv2d, KANLinear
from convkan.basis import BASES, BSpline, create_basis
from convkan.grid import (
    adapt_grid,
    adapt_grids,
    coverage,
    coverages,
    insertion,
    refine_grid,
    refine_grids,
    spline_layers,
)
from convkan.interpret import auto, importance, prune_edges, prune_nodes, suggest
from convkan.models import create_model
from convkan.regularization import smoothness, total_smoothness
from convkan.testing import (
    LAYER_CLASSES,
    assert_agree,
    check_basis,
    kan_layers,
    make_uneven,
    randomize,
    relative_change,
)

every_class = pytest.mark.parametrize("case", LAYER_CLASSES.values(), ids=LAYER_CLASSES)
F64 = torch.float64


@pytest.fixture
def listed(monkeypatch):
    monkeypatch.setitem(BASES, "bumps", Bumps)


@every_class
def test_works_by_its_name(case, listed):
    torch.manual_seed(0)
    by_name = case(basis="bumps")
    torch.manual_seed(0)
    ready = case(basis=Bumps())
    x = case.input()
    assert torch.equal(by_name(x), ready(x))
    assert create_basis("bumps", grid_size=7) == Bumps(7)


def test_models_take_it_with_a_grid(listed):
    model = create_model("kan_cnn", widths=(2, 3), basis="bumps", grid_size=6)
    assert {layer.basis for layer in kan_layers(model)} == {Bumps(6, (-3, 3))}
    assert model(torch.randn(2, 1, 8, 8)).shape == (2, 10)


@every_class
def test_grids_follow_the_data(case):
    layer, x = randomize(case(basis=Bumps(9), dtype=F64)), 2 + 0.5 * case.input(F64, batch=40)
    before = layer(x)
    reported = adapt_grid(layer, x)
    assert reported == pytest.approx(relative_change(layer(x), before))
    assert not coverage(layer, x).any()
    assert all(not functions.uniform_knots for functions in kan_layers(layer))


def test_a_function_that_both_grids_hold_is_kept():
    # In the middle of a long row of bumps of one width, weights that lie on a line make a line.
    layer = KANLinear(2, 3, basis=Bumps(40, (-8, 8)), base_activation=None, dtype=F64)
    with torch.no_grad():
        layer.coefficients.copy_(torch.linspace(-8, 8, 41))
    x = 4 * torch.rand(500, 2, dtype=F64) - 2
    before = layer(x)
    slope = (before[:, 0] / x.sum(1)).mean()
    assert_agree(before[:, 0], slope * x.sum(1), factor=1e9)
    refine_grid(layer, 80)
    assert relative_change(layer(x), before) < 1e-3


@pytest.mark.parametrize("uneven", [False, True])
@pytest.mark.parametrize("size", [5, 8, 16])
def test_grids_grow_as_closely_as_least_squares_can(size, uneven):
    layer = randomize(KANLinear(1, 2, basis=Bumps(4), base_activation=None, dtype=F64))
    layer = make_uneven(layer) if uneven else layer
    low, high = layer.basis.ends(layer.grid)
    x = low + (high - low) * torch.rand(2000, 1, dtype=F64)
    before = layer(x)
    reported = refine_grid(layer, size)
    assert layer.basis.grid_size == size
    assert reported / 2 < relative_change(layer(x), before) < 2 * reported < 0.2
    features = layer.features(x).flatten(1)
    best = features @ torch.linalg.lstsq(features, before).solution
    assert relative_change(layer(x), before) < 1.5 * relative_change(best, before)


def test_functions_are_fitted_where_none_can_be_inserted():
    basis = Bumps(3)
    with pytest.raises(TypeError, match=r"knots cannot be inserted exactly into Bumps\(grid_size=3"):
        insertion(basis, basis.knots(1), Bumps(6), Bumps(6).knots(1))


def test_models_move_and_grow_with_their_optimisers_and_averages():
    model = nn.Sequential(KANConv2d(1, 2, 3, basis=Bumps()), nn.Flatten(), KANLinear(8, 2, basis=BSpline(4)))
    average = AveragedModel(model)
    optimizer = torch.optim.Adam(model.parameters())
    batches = [torch.randn(8, 1, 4, 4)]
    model(batches[0]).square().mean().backward()
    optimizer.step()
    average.update_parameters(model)
    assert set(spline_layers(model)) == {"0", "2"}
    assert all(change < 0.5 for change in adapt_grids(model, batches, averages=[average]).values())
    assert not coverages(model, batches)["0"].off_grid.any()
    refine_grids(model, 8, optimizer, averages=[average])
    assert {layer.basis.grid_size for layer in kan_layers(average)} == {8}
    assert model[0].basis_weight in set(optimizer.param_groups[0]["params"])
    model(batches[0]).square().mean().backward()
    optimizer.step()
    average.update_parameters(model)
    average(batches[0])


@every_class
def test_states_of_other_sizes_and_copies(case):
    layer, x = make_uneven(randomize(case(basis=Bumps(7)))), case.input()
    loaded = case(basis=Bumps())
    loaded.load_state_dict(layer.state_dict())
    for other in (loaded, deepcopy(layer), pickle.loads(pickle.dumps(layer))):  # noqa: S301
        assert torch.equal(other(x), layer(x))
        assert [one.basis for one in kan_layers(other)] == [one.basis for one in kan_layers(layer)]
    with pytest.raises(RuntimeError, match="no BSpline has|no B-spline has|size mismatch"):
        case(basis=BSpline(extrapolation="clamp")).load_state_dict(case(basis=Bumps(1)).state_dict())


def test_functions_are_looked_at_named_and_left_out():
    model = nn.Sequential(KANLinear(3, 4, basis=Bumps(6)), KANLinear(4, 2, basis=Bumps(6)))
    x = torch.randn(60, 3)
    assert total_smoothness(model) == smoothness(model[0]) + smoothness(model[1])
    scores = importance(model, [x])
    alive = prune_edges(model, scores, share=0.5)
    assert all(0 < share < 1 for share in alive.values())
    small = prune_nodes(model, importance(model, [x]), 1e-9)
    assert {layer.basis for layer in kan_layers(small)} == {Bumps(6)}
    found = suggest(model[0], x=x, library=["0", "x", "x^2", "sin"], top=1)
    assert len(found) == model[0].edge_mask.numel()
    auto(model, [x], library=["0", "x", "sin"], threshold=0.0)
    assert model(x).isfinite().all()


def test_pictures_know_where_its_grid_ends():
    from convkan.interpret import curves, edges_of
    from convkan.interpret.plot import plot_atlas, plot_network

    layer = KANLinear(2, 3, basis=Bumps(grid_range=(2, 5)))
    low, high = edges_of(layer).ends()
    assert (low.tolist(), high.tolist()) == ([2, 2], [5, 5])
    drawn = curves(layer)
    assert drawn.x.min() <= 2
    assert drawn.x.max() >= 5
    plot_atlas(layer, x=torch.randn(20, 2))
    plot_network(nn.Sequential(layer), x=torch.randn(20, 2))


@pytest.mark.parametrize("basis", [Bumps(), Bumps(1, (3, 9)), BSpline(3, 2, (-2, 0.5), "linear")], ids=repr)
def test_obeys_all_laws_of_convkan_testing(basis):
    check_basis(basis)


def test_compiled_kernels_are_checked(monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda function, **_: compiled.append(function) or function)
    check_basis(Bumps(1), layers=False, compiled=True)
    assert compiled, "what is compiled is compiled in test_kernels"


@pytest.mark.thorough
def test_compiled_kernels_compute_the_same():
    check_basis(Bumps(1), layers=False, compiled=True)
