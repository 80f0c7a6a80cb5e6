import io
import pickle
from copy import deepcopy
from functools import partial
from pathlib import Path

import pytest
import safetensors.torch
import torch
from cases import BASIS_CASES, diagonal
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.func import functional_call, stack_module_state, vmap
from torch.optim.swa_utils import AveragedModel

from convkan import KANConv1d, KANConv2d, KANConv3d, KANLinear, LearnableActivation, LowRankKANConv2d
from convkan.basis import RBF, BSpline, Chebyshev
from convkan.interpret import curves
from convkan.testing import HALF_DTYPES, LAYER_CLASSES, assert_agree, kan_layers, make_uneven, randomize

every_class = pytest.mark.parametrize("case", LAYER_CLASSES.values(), ids=LAYER_CLASSES)
# What training may have made of the spline a layer starts with.
GROWN = {
    "same": BSpline(),
    "refined": BSpline(11),
    "coarser": BSpline(2),
    "other order": BSpline(5, 2),
    "other size, same knots": BSpline(7, 2),
    "step functions": BSpline(4, 0),
    "other range": BSpline(grid_range=(-3, 0.5)),
}
every_growth = pytest.mark.parametrize("grown", GROWN.values(), ids=GROWN)


def through_torch_save(state, path):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def through_safetensors(state, path):
    safetensors.torch.save_file(state, path / "state.safetensors")
    return safetensors.torch.load_file(path / "state.safetensors")


def assert_restored(restored, layer, x):
    """The same function on the same knots, told to be what they are."""
    assert torch.equal(restored(x), layer(x))
    for ours, theirs in zip(kan_layers(restored), kan_layers(layer), strict=True):
        assert ours.uniform_knots == theirs.uniform_knots
        sizes = [(type(b), b.num_functions, getattr(b, "num_knots", None)) for b in (ours.basis, theirs.basis)]
        assert sizes[0] == sizes[1]
        # Channels with ranges of their own leave the basis with the one it started with.
        assert ours.basis == theirs.basis or not ours.uniform_knots
        assert (ours.grid is None) == (theirs.grid is None)
        if ours.grid is not None:
            assert torch.equal(ours.grid, theirs.grid)


def small_model(basis=None):
    basis = BSpline() if basis is None else basis
    return nn.Sequential(
        KANConv2d(1, 2, 3, basis=basis, bias=True),
        nn.BatchNorm2d(2),
        LearnableActivation(2, basis=basis),
        LowRankKANConv2d(2, 3, 1, rank=2, basis=basis),
        nn.Flatten(),
        KANLinear(12, 2, basis=basis),
    )


class TestRoundTrip:
    @pytest.mark.parametrize(
        ("name", "basis", "through"),
        diagonal(LAYER_CLASSES, BASIS_CASES, [through_torch_save, through_safetensors], each=4),
    )
    def test_restores_the_layer_and_its_grid(self, name, basis, through, tmp_path):
        case = LAYER_CLASSES[name]
        layer = make_uneven(randomize(case(basis=basis)))
        restored = case(basis=basis)
        restored.load_state_dict(through(layer.state_dict(), tmp_path))
        assert_restored(restored, layer, case.input())

    @every_class
    def test_the_grid_is_in_the_state(self, case):
        assert any(name.split(".")[-1] == "grid" for name in case().state_dict())

    @every_class
    @pytest.mark.parametrize("dtype", [torch.float64, *HALF_DTYPES])
    def test_works_in_every_dtype(self, case, dtype):
        layer = randomize(case(basis=BSpline(9, 2), dtype=dtype))
        restored = case(dtype=dtype)
        restored.load_state_dict(layer.state_dict())
        assert_restored(restored, layer, case.input(dtype))

    @pytest.mark.parametrize("dtype", HALF_DTYPES)
    def test_a_uniform_grid_stays_uniform_through_half_precision(self, dtype):
        layer = KANLinear(3, 2, basis=BSpline(13, grid_range=(-0.7, 1.1))).to(dtype)
        restored = KANLinear(3, 2)
        restored.load_state_dict(layer.state_dict())
        again = KANLinear(3, 2, dtype=dtype)
        again.load_state_dict(layer.state_dict())
        assert again.uniform_knots
        x = torch.rand(8, 3) - 0.3
        assert torch.allclose(restored(x), again.float()(x), atol=2e-2)

    def test_state_of_another_dtype_is_converted_on_loading(self):
        layer = randomize(make_uneven(KANLinear(3, 2, basis=BSpline(7), dtype=torch.float64)))
        restored = KANLinear(3, 2)
        restored.load_state_dict(layer.state_dict())
        assert {tensor.dtype for tensor in restored.state_dict().values()} == {torch.float32}
        x = torch.randn(5, 3)
        assert torch.allclose(restored(x), layer(x.double()).float(), atol=1e-4)


# Layers that were adapted, refined, masked and given names by version 0.1, before its files were laid out anew.
BEFORE = torch.load(Path(__file__).parent / "golden" / "states_0_1.pt", weights_only=True)
FRESH = {
    "linear": lambda: KANLinear(3, 2, bias=True),
    "conv1d": lambda: KANConv1d(2, 3, 3, padding=1, basis=BSpline(extrapolation="linear")),
    "conv2d": lambda: KANConv2d(4, 4, (2, 3), stride=(1, 2), padding=(1, 2), groups=2),
    "conv3d": lambda: KANConv3d(1, 2, 2, basis=Chebyshev(5)),
    "activation": lambda: LearnableActivation(3, 2, basis=BSpline(extrapolation="clamp")),
    "lowrank": lambda: LowRankKANConv2d(2, 3, 3, padding=1, padding_mode="reflect", rank=2, bias=True),
    "rbf": lambda: KANLinear(2, 3, basis=RBF(6), base_activation=None),
}


class TestStatesFromBefore:
    @pytest.mark.parametrize("name", FRESH)
    def test_compute_what_they_did(self, name):
        assert FRESH.keys() == BEFORE.keys()
        layer, saved = FRESH[name]().double(), BEFORE[name]
        layer.load_state_dict(saved["state"])
        assert_agree(layer(saved["x"]), saved["y"])
        assert layer.state_dict().keys() == saved["state"].keys()
        assert all(torch.equal(layer.state_dict()[key], value) for key, value in saved["state"].items())


class TestAdoption:
    @pytest.mark.parametrize(
        ("name", "grown", "uneven", "assign"), diagonal(LAYER_CLASSES, GROWN, [False, True], [False, True], each=8)
    )
    def test_a_fresh_layer_becomes_the_saved_one(self, name, grown, uneven, assign):
        case = LAYER_CLASSES[name]
        layer = randomize(case(basis=GROWN[grown]))
        layer = make_uneven(layer) if uneven else layer
        restored = case()
        assert not any(restored.load_state_dict(layer.state_dict(), assign=assign))
        assert_restored(restored, layer, case.input())
        restored(case.input()).sum().backward()

    @pytest.mark.parametrize(
        ("saved", "fresh"), [(Chebyshev(7), Chebyshev()), (RBF(5, (-1, 1)), RBF(8, (-1, 1)))], ids=repr
    )
    @every_class
    def test_bases_without_a_grid_adopt_their_size(self, case, saved, fresh):
        layer, restored = randomize(case(basis=saved)), case(basis=fresh)
        restored.load_state_dict(layer.state_dict())
        assert_restored(restored, layer, case.input())

    @every_growth
    @pytest.mark.parametrize("assign", [False, True])
    def test_inside_a_model(self, grown, assign):
        model = make_uneven(randomize(small_model(grown))).eval()
        restored = small_model().eval()
        restored.load_state_dict(model.state_dict(), assign=assign)
        assert_restored(restored, model, torch.randn(2, 1, 4, 4))

    @every_class
    @pytest.mark.parametrize("uneven", [False, True])
    def test_a_meta_layer_becomes_the_saved_one_by_assignment(self, case, uneven):
        layer = randomize(case(basis=BSpline(9)))
        layer = make_uneven(layer) if uneven else layer
        restored = case(device="meta")
        restored.load_state_dict(layer.state_dict(), assign=True)
        assert_restored(restored, layer, case.input())

    @every_class
    def test_assignment_adopts_the_dtype_of_every_tensor(self, case):
        layer, restored = randomize(case(dtype=torch.float64)), case()
        restored.load_state_dict(layer.state_dict(), assign=True)
        assert {tensor.dtype for tensor in restored.state_dict().values()} == {torch.float64}
        assert_restored(restored, layer, case.input(torch.float64))

    def test_keeps_the_extrapolation_of_the_layer(self):
        restored = KANLinear(3, 2, basis=BSpline(extrapolation="linear"))
        restored.load_state_dict(KANLinear(3, 2, basis=BSpline(9)).state_dict())
        assert restored.basis == BSpline(9, extrapolation="linear")

    def test_a_loaded_layer_does_not_share_memory_with_the_state(self):
        state = KANLinear(3, 2, basis=BSpline(9)).state_dict()
        restored = KANLinear(3, 2)
        restored.load_state_dict(state)
        expected = restored(torch.ones(1, 3))
        for tensor in state.values():
            tensor.zero_()
        assert torch.equal(restored(torch.ones(1, 3)), expected)

    @every_class
    @pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
    def test_an_optimizer_still_holds_the_parameters(self, case, optimizer):
        restored = case()
        parameters = list(restored.parameters())
        steps = optimizer(restored.parameters(), lr=0.1)
        restored.load_state_dict(randomize(case(basis=BSpline(9))).state_dict())
        assert all(ours is theirs for ours, theirs in zip(restored.parameters(), parameters, strict=True))
        before = [parameter.detach().clone() for parameter in parameters]
        restored(case.input()).square().sum().backward()
        steps.step()
        for parameter, old in zip(parameters, before, strict=True):
            assert parameter.shape == old.shape
            assert not torch.equal(parameter, old)

    def test_a_backward_pass_before_the_load_leaves_no_stale_gradient(self):
        layer = KANLinear(3, 2)
        layer(torch.ones(1, 3)).sum().backward()
        layer.load_state_dict(KANLinear(3, 2, basis=BSpline(9)).state_dict())
        layer(torch.ones(1, 3)).sum().backward()
        assert layer.basis_weight.grad.shape == layer.basis_weight.shape


def spoil(name, change):
    state = KANLinear(3, 2).state_dict()
    state[name] = change(state[name])
    return state


class TestRefusal:
    @pytest.mark.parametrize(
        ("state", "message"),
        [
            (KANLinear(3, 4).state_dict(), "size mismatch for b"),
            (KANLinear(4, 2).state_dict(), "size mismatch"),
            (spoil("basis_weight", lambda w: w[:, :-1]), "size mismatch for basis_weight"),
            (spoil("basis_weight", lambda w: w[:, :, None]), "size mismatch for basis_weight"),
            (spoil("basis_weight", lambda w: w.flatten()), "size mismatch for basis_weight"),
            (spoil("grid", lambda grid: grid[:2]), "size mismatch for grid"),
            (spoil("grid", lambda grid: grid[0]), "size mismatch for grid"),
            (spoil("grid", lambda grid: grid[:, :7]), "no B-spline has 8 functions on 7 knots"),
            (spoil("grid", lambda grid: grid.flip(1)), "grid of the state must increase"),
            (spoil("grid", torch.zeros_like), "grid of the state must increase"),
            (spoil("grid", lambda grid: grid * torch.nan), "grid of the state must be finite"),
            (spoil("grid", lambda grid: grid.where(grid < 2, torch.inf)), "grid of the state must be finite"),
            (KANLinear(3, 2, basis=Chebyshev(7)).state_dict(), 'Missing key.*"grid"'),
            (KANLinear(3, 2, base_activation=None).state_dict(), 'Missing key.*"base_weight"'),
            (KANLinear(3, 2, True).state_dict(), 'Unexpected key.*"bias"'),
        ],
    )
    def test_foreign_and_corrupt_states_are_refused_by_name(self, state, message):
        layer = KANLinear(3, 2)
        with pytest.raises(RuntimeError, match=message):
            layer.load_state_dict(state)
        assert layer(torch.ones(1, 3)).isfinite().all()
        assert layer.basis == BSpline()

    @pytest.mark.parametrize("assign", [False, True])
    def test_a_corrupt_grid_changes_nothing(self, assign):
        layer = KANLinear(3, 2)
        before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
        other = KANLinear(3, 2, basis=BSpline(9)).state_dict()
        other["grid"][1, 4] = torch.nan
        with pytest.raises(RuntimeError, match="grid of the state must be finite"):
            layer.load_state_dict(other, assign=assign)
        assert all(torch.equal(tensor, before[name]) for name, tensor in layer.state_dict().items())
        assert layer.basis == BSpline()

    def test_a_refused_layer_of_a_model_is_named(self):
        state = small_model().state_dict()
        state["2.grid"] = state["2.grid"].flip(1)
        with pytest.raises(RuntimeError, match="2: the grid of the state must increase"):
            small_model().load_state_dict(state)

    @pytest.mark.parametrize("missing", ["grid", "basis_weight"])
    def test_a_missing_part_is_named(self, missing):
        state = KANLinear(3, 2, basis=BSpline(9)).state_dict()
        del state[missing]
        with pytest.raises(RuntimeError, match=f'Missing key.*"{missing}"'):
            KANLinear(3, 2).load_state_dict(state)

    @pytest.mark.parametrize("basis", [Chebyshev(), RBF()], ids=repr)
    def test_a_grid_is_unexpected_where_the_basis_has_none(self, basis):
        create = partial(KANLinear, 3, 2, basis=basis)
        state = {**create().state_dict(), "grid": KANLinear(3, 2).grid}
        with pytest.raises(RuntimeError, match=r"no grid|Unexpected key"):
            create().load_state_dict(state)

    def test_loading_without_strictness_takes_what_there_is(self):
        layer, other = KANLinear(3, 2), randomize(KANLinear(3, 2))
        state = {"base_weight": other.base_weight.detach()}
        outcome = layer.load_state_dict(state, strict=False)
        assert set(outcome.missing_keys) == {"basis_weight", "grid"}
        assert torch.equal(layer.base_weight, other.base_weight)
        assert layer.basis == BSpline()


def test_an_assigned_grid_is_that_of_exports_and_of_averages():
    layer, x = KANLinear(5, 4), torch.randn(6, 5)
    average = AveragedModel(layer, use_buffers=True)
    for _ in range(2):
        layer.basis_weight.data += 0.1
        average.update_parameters(layer)
    layer.grid = (3 * torch.rand(5, 12) - 1.5).sort(dim=1).values
    assert_agree(torch.export.export(layer, (x,)).module()(x), layer(x))
    average.update_parameters(layer)
    with pytest.raises(RuntimeError, match="averaged over a change of its grid"):
        average(x)


class TestKnotsThatChangeUnseen:
    """A layer that takes its knots for uniform notices, however others came to be there."""

    @pytest.fixture
    def layers(self):
        torch.manual_seed(3)
        return KANLinear(3, 2, dtype=torch.float64), make_uneven(KANLinear(3, 2, dtype=torch.float64))

    x = torch.linspace(-0.9, 0.9, 15, dtype=torch.float64).reshape(5, 3)

    def test_by_functional_call(self, layers):
        uniform, uneven = layers
        own = uniform(self.x)
        assert_agree(functional_call(uniform, dict(uneven.state_dict()), (self.x,)), uneven(self.x))
        assert_agree(uniform(self.x), own)
        assert uniform.uniform_knots

    def test_by_writing_in_place(self, layers):
        uniform, uneven = layers
        uniform.load_state_dict(layers[0].state_dict())
        with torch.no_grad():
            uniform.grid.copy_(uneven.grid)
        uneven.base_weight, uneven.basis_weight = uniform.base_weight, uniform.basis_weight
        assert_agree(uniform(self.x), uneven(self.x))

    def test_before_a_change_of_precision(self, layers):
        uniform, uneven = layers
        uniform.float().grid.copy_(uneven.grid)
        assert torch.equal(uniform.double().grid, uneven.grid.float().double())

    def test_by_the_curves_drawn_of_a_layer(self, layers):
        uniform, uneven = layers
        uniform.load_state_dict(uneven.state_dict())
        uniform.grid.copy_(KANLinear(3, 2, dtype=torch.float64).grid)
        uniform.grid.copy_(uneven.grid)
        ours, expected = curves(uniform), curves(uneven)
        assert_agree(ours.x, expected.x)
        assert_agree(ours.total, expected.total)

    def test_in_a_description_without_numbers(self, layers):
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            state = {name: mode.from_tensor(value) for name, value in layers[1].state_dict().items()}
            assert functional_call(layers[0], state, (mode.from_tensor(self.x),)).shape == (5, 2)

    def test_by_averaging(self, layers):
        uniform, uneven = layers
        average = AveragedModel(uniform, use_buffers=True)
        average.update_parameters(uneven)
        assert_agree(average(self.x), uneven(self.x))

    def test_in_an_ensemble(self, layers):
        parameters, buffers = stack_module_state(list(layers))

        def run(parameters, buffers):
            return functional_call(layers[0], (parameters, buffers), (self.x,))

        together = vmap(run)(parameters, buffers)
        assert_agree(together, torch.stack([layer(self.x) for layer in layers]))

    def test_in_a_copy_and_a_pickle(self, layers):
        for layer in layers:
            for copy in (deepcopy(layer), pickle.loads(pickle.dumps(layer))):  # noqa: S301
                assert copy.uniform_knots == layer.uniform_knots
                assert_agree(copy(self.x), layer(self.x))

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_uniform_knots_survive_a_lower_precision(self, dtype):
        layer = KANLinear(3, 2, basis=BSpline(10)).to(dtype).float()
        assert layer.uniform_knots
        fresh = KANLinear(3, 2)
        fresh.load_state_dict(layer.state_dict())
        assert fresh.uniform_knots
        assert torch.equal(fresh(self.x.float()), layer(self.x.float()))
