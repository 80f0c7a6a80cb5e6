"""State in other people's hands: copied, pickled, averaged, shared, cast, written in place, re-parametrised."""

import io
import pickle
import threading
from copy import deepcopy
from typing import ClassVar

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.overrides import TorchFunctionMode

from convkan import KANConv2d, KANLinear, LearnableActivation, LowRankKANConv2d
from convkan.basis import BSpline
from convkan.grid import adapt_grid, adapt_grids, coverage, coverages, refine_grid, refine_grids, spline_layers
from convkan.interpret import fix
from convkan.ops import knots
from convkan.testing import LAYER_CLASSES, assert_agree, kan_layers, make_uneven, randomize

every_class = pytest.mark.parametrize("case", LAYER_CLASSES.values(), ids=LAYER_CLASSES.keys())


def saved_whole(module):
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


COPIES = {"deepcopy": deepcopy, "pickle": lambda m: pickle.loads(pickle.dumps(m)), "save": saved_whole}  # noqa: S301
WRITES = {
    "copy_": lambda grid, knots: grid.copy_(knots),
    "data": lambda grid, knots: grid.data.copy_(knots),
    "detach": lambda grid, knots: grid.detach().copy_(knots),
    "numpy": lambda grid, knots: grid.detach().numpy().__setitem__(..., knots.to(grid.dtype).numpy()),
    "set": None,
    "assign": None,
}


def knots_like(layer, seed, uneven):
    generator = torch.Generator().manual_seed(seed)
    low, high = -1 - torch.rand(2, generator=generator, dtype=torch.float64)
    basis = BSpline(layer.basis.grid_size, layer.basis.order, (low.item(), -high.item()))
    knots = basis.knots(layer.num_inputs)
    if uneven:
        shifts = torch.rand(knots.shape, generator=generator, dtype=torch.float64) - 0.5
        knots = knots + 0.5 * knots.diff(dim=1).amin() * shifts
    return knots


def write_knots(layer, how, seed, uneven):
    knots = knots_like(layer, seed, uneven).to(layer.grid.dtype)
    with torch.no_grad():
        if how == "set":
            layer.set_grid(knots)
        elif how == "assign":
            layer.grid = knots
        else:
            WRITES[how](layer.grid, knots)


class LayerInUse(RuleBasedStateMachine):
    """Whatever happened to a layer, it computes what a fresh one does that its state is loaded into."""

    @initialize(name=st.sampled_from(sorted(LAYER_CLASSES)))
    def begin(self, name):
        torch.manual_seed(0)
        self.case = LAYER_CLASSES[name]
        self.layer, self.other = randomize(self.case()), randomize(self.case())

    @rule(how=st.sampled_from(sorted(COPIES)))
    def copy(self, how):
        self.layer = COPIES[how](self.layer)

    @rule(how=st.sampled_from(sorted(WRITES)), seed=st.integers(0, 9), uneven=st.booleans())
    def write(self, how, seed, uneven):
        for layer in kan_layers(self.layer):
            write_knots(layer, how, seed, uneven)

    @rule()
    def swap(self):
        self.layer, self.other = self.other, self.layer

    @rule(assign=st.booleans())
    def load(self, assign):
        self.layer.load_state_dict(deepcopy(self.other.state_dict()), assign=assign)

    @rule(buffers=st.booleans())
    def average(self, buffers):
        if all(a.basis.num_functions == b.basis.num_functions for a, b in self.pairs()):
            average = AveragedModel(self.layer, use_buffers=buffers)
            average.update_parameters(self.other)
            self.layer = average.module

    @rule()
    def share(self):
        self.layer.share_memory()

    @rule(dtype=st.sampled_from([torch.float64, torch.bfloat16, torch.float32]))
    def cast(self, dtype):
        self.layer.to(dtype).float()

    @rule(grid_eps=st.sampled_from([0.05, 1.0]))
    def adapt(self, grid_eps):
        adapt_grids(self.layer, [self.case.input(scale=2)], grid_eps=grid_eps)

    @rule(size=st.sampled_from([5, 8, 10]), keep_beyond=st.booleans())
    def refine(self, size, keep_beyond):
        refine_grids(self.layer, size, keep_beyond=keep_beyond)

    def pairs(self):
        return zip(kan_layers(self.layer), kan_layers(self.other), strict=True)

    @invariant()
    def agrees_with_a_fresh_layer(self):
        if not hasattr(self, "layer"):
            return
        fresh = self.case()
        fresh.load_state_dict(self.layer.state_dict())
        for ours, theirs in zip(kan_layers(self.layer), kan_layers(fresh), strict=True):
            assert ours.uniform_knots == theirs.uniform_knots
            low, high = ours.basis.ends(ours.grid)
            if (low == low[0]).all() and (high == high[0]).all():  # else where it began stays in its description
                assert ours.basis == theirs.basis
        x = self.case.input()
        y = self.layer(x)
        assert torch.equal(y, self.layer(x))
        assert_agree(y, fresh(x))
        for parameter in self.layer.parameters():
            last = torch.channels_last if parameter.ndim == 4 else torch.channels_last_3d
            in_order = parameter.is_contiguous()
            assert in_order or (parameter.ndim > 3 and parameter.is_contiguous(memory_format=last))


TestLayerInUse = LayerInUse.TestCase
TestLayerInUse.settings = settings(max_examples=25, stateful_step_count=12, deadline=None, derandomize=True)


@every_class
def test_memory_that_waits_to_be_filled_says_nothing_of_the_range(case):
    layer = case().to("meta").to_empty(device="cpu")
    for part in kan_layers(layer):
        part.grid.copy_(3 * BSpline().knots(len(part.grid)))  # as fresh memory may look
    layer.eval().to(torch.float64).float()
    for module in layer.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    for part in kan_layers(layer):
        assert part.basis == BSpline()
        assert torch.equal(part.grid, BSpline().knots(len(part.grid)).float())


def test_a_forward_pass_stores_nothing_even_when_knots_were_written_in_place():
    for case in LAYER_CLASSES.values():
        module = case()
        for layer in kan_layers(module):
            write_knots(layer, "data", 1, uneven=True)
        before = [dict(layer.__dict__) for layer in module.modules()]
        module(case.input())
        for layer, values in zip(module.modules(), before, strict=True):
            assert layer.__dict__.keys() == values.keys()
            assert all(layer.__dict__[name] is value for name, value in values.items())


def test_knots_written_by_another_process_are_seen():
    layer = KANLinear(3, 2)
    layer.share_memory()
    uneven = make_uneven(KANLinear(3, 2))
    context = torch.multiprocessing.get_context("fork")
    process = context.Process(target=lambda: layer.grid.data.copy_(uneven.grid))
    process.start()
    process.join()
    uneven.load_state_dict(layer.state_dict())
    x = torch.randn(5, 3)
    assert not layer.uniform_knots
    assert_agree(layer(x), uneven(x))


def test_threads_that_share_a_layer_compute_the_same():
    layer, x = make_uneven(KANLinear(3, 2)), torch.randn(50, 3)
    expected, outputs = layer(x), {}
    layer.grid.data.copy_(layer.grid.clone())
    threads = [threading.Thread(target=lambda i=i: outputs.update({i: layer(x)})) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outputs) == 8
    assert all(torch.equal(y, expected) for y in outputs.values())


def test_transforms_look_at_knots_written_in_place():
    layer, x = KANLinear(3, 2, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    layer(x)
    write_knots(layer, "data", 1, uneven=True)
    fresh = KANLinear(3, 2, dtype=torch.float64)
    fresh.load_state_dict(layer.state_dict())
    fresh(x)
    for use in (torch.func.vmap, lambda f: torch.func.vmap(torch.func.jacrev(f))):
        assert_agree(use(layer)(x), use(fresh)(x))
    assert_agree(torch.func.vmap(layer)(x), layer(x))


def test_knots_of_the_same_numbers_are_looked_at_once(monkeypatch):
    layer = KANLinear(3, 2)
    layer.load_state_dict(KANLinear(3, 2).state_dict())  # writes, but the same
    layer(torch.randn(5, 3))
    assert knots._ANSWERS[layer.grid].version == layer.grid._version


def test_compiled_code_looks_at_knots_written_in_place():
    layer = KANLinear(3, 2)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    x = torch.randn(5, 3)
    assert_agree(compiled(x), layer(x))
    write_knots(layer, "data", 1, uneven=True)
    fresh = KANLinear(3, 2)
    fresh.load_state_dict(layer.state_dict())
    assert_agree(compiled(x), fresh(x))


@pytest.mark.parametrize("name", ["linear", "conv2d", "activation-2", "lowrank"])
def test_an_export_after_eval_has_the_knots_that_were_written_in_place(name):
    case = LAYER_CLASSES[name]
    layer, x = randomize(case()), case.input()
    for part in kan_layers(layer):
        write_knots(part, "data", 1, uneven=True)
    program = torch.export.export(layer.eval(), (x,))
    assert_agree(program.module()(x), layer(x))


class TestAverages:
    """Averages of weights, and grids that change under them."""

    @pytest.fixture
    def model(self):
        return randomize(nn.Sequential(KANConv2d(2, 3, 3, padding=1), LowRankKANConv2d(3, 2, 3)))

    x = torch.randn(4, 2, 6, 6, generator=torch.Generator().manual_seed(5))

    def ema(self, model, buffers=False):
        return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=buffers)

    @every_class
    def test_the_first_update_after_a_change_of_grid_is_a_copy(self, case):
        layer, x = randomize(case()), case.input()
        average = AveragedModel(layer)
        adapt_grids(layer, [x])
        average.update_parameters(layer)
        assert torch.equal(average(x), layer(x))

    @pytest.mark.parametrize("buffers", [False, True])
    def test_of_one_function_stay_that_function_when_they_move_along(self, model, buffers):
        ema, before = self.ema(model, buffers), model(self.x)
        ema.update_parameters(model)
        change = adapt_grids(model, [self.x], averages=[ema])
        refine_grids(model, 10, averages=[ema])
        adapt_grids(model, [self.x], averages=[ema])
        ema.update_parameters(model)
        for ours, theirs in zip(spline_layers(ema).values(), spline_layers(model).values(), strict=True):
            assert torch.equal(ours.grid, theirs.grid)
        assert (ema(self.x) - model(self.x)).norm() <= 1e-5 * model(self.x).norm()
        assert (ema(self.x) - before).norm() <= (0.01 + 20 * max(change.values())) * before.norm()

    def test_keep_their_own_function_when_they_move_along(self, model):
        ema = self.ema(model)
        ema.update_parameters(model)
        randomize(model)
        ema.update_parameters(model)
        before = ema(self.x)
        refine_grids(model, 10, averages=[ema])
        assert (ema(self.x) - before).norm() <= 1e-5 * before.norm()

    @pytest.mark.parametrize("buffers", [False, True])
    def test_over_a_change_of_grid_are_refused(self, model, buffers):
        ema = self.ema(model, buffers)
        for _ in range(2):
            ema.update_parameters(model)
        adapt_grids(model, [self.x])
        ema(self.x)  # as yet on its own grid
        ema.update_parameters(model)
        for use in (lambda: ema(self.x), ema.state_dict):
            with pytest.raises(RuntimeError, match="averaged over a change of its grid.*averages="):
                use()
        ema.module.load_state_dict(model.state_dict())
        assert torch.equal(ema(self.x), model(self.x))

    LEFT_BEHIND: ClassVar = {
        "resumed": lambda model, ema, x, new: (
            new.load_state_dict(ema.state_dict()),
            adapt_grids(model, [x]),
            new.update_parameters(model),
            new,
        )[-1],
        "followed once": lambda model, ema, x, new: (
            adapt_grids(model, [x], averages=[ema]),
            adapt_grids(model, [1.6 * x]),
            ema.update_parameters(model),
            ema,
        )[-1],
        "another state": lambda model, ema, x, new: (
            adapt_grids(new.module, [x]),
            model.load_state_dict(new.module.state_dict()),
            ema.update_parameters(model),
            ema,
        )[-1],
        "set knots": lambda model, ema, x, new: (
            randomize(model),
            [write_knots(layer, "set", 1, uneven=True) for layer in kan_layers(model)],
            ema.update_parameters(model),
            ema,
        )[-1],
        "copied": lambda model, ema, x, new: (
            adapt_grids(model, [x]),
            ema.update_parameters(model),
            deepcopy(ema),
        )[-1],
        "pickled": lambda model, ema, x, new: (
            adapt_grids(model, [x]),
            ema.update_parameters(model),
            saved_whole(ema.module),
        )[-1],
    }

    @pytest.mark.parametrize("how", LEFT_BEHIND.values(), ids=LEFT_BEHIND.keys())
    def test_that_were_left_behind_are_refused_however_it_came_to_it(self, model, how):
        ema, new = self.ema(model), self.ema(model)
        for _ in range(2):
            ema.update_parameters(model)
        left = how(model, ema, self.x, new)
        with pytest.raises(RuntimeError, match="averaged over a change of its grid"):
            left(self.x)
        with pytest.raises(RuntimeError, match="averaged over a change of its grid"):
            left(self.x)  # nor is it forgotten

    def test_written_through_data_are_refused_too(self, model):
        copy = deepcopy(model)

        def update():
            for ours, theirs in zip(copy.parameters(), model.parameters(), strict=True):
                ours.data.mul_(0.9).add_(theirs.data, alpha=0.1)
            for ours, theirs in zip(copy.buffers(), model.buffers(), strict=True):
                ours.data.copy_(theirs)

        randomize(model)
        update()
        adapt_grids(model, [self.x])
        update()
        with pytest.raises(RuntimeError, match="averaged over a change of its grid"):
            copy(self.x)

    def test_a_copy_that_averages_the_one_it_was_made_of_is_found_either_way_round(self, model):
        student = deepcopy(model)
        for _ in range(2):
            for ours, theirs in zip(model.parameters(), student.parameters(), strict=True):
                ours.data.lerp_(theirs.data, 0.1)
        adapt_grids(student, [self.x])
        for ours, theirs in zip(model.buffers(), student.buffers(), strict=True):
            ours.copy_(theirs)
        with pytest.raises(RuntimeError, match="averaged over a change of its grid"):
            model(self.x)

    def test_what_is_no_average_is_not_refused(self, model):
        own = deepcopy(model)
        randomize(own)  # as training does
        adapt_grids(model, [self.x])
        torch.func.functional_call(own, dict(model.state_dict()), (self.x,))
        for layer in kan_layers(own):
            write_knots(layer, "set", 2, uneven=True)
        own(self.x)
        for of_own, of_model in ((own.parameters(), model.parameters()), (own.buffers(), model.buffers())):
            for ours, theirs in zip(of_own, of_model, strict=True):
                ours.detach().copy_(theirs)
        assert torch.equal(own(self.x), model(self.x))
        own.to("meta").to_empty(device="cpu")

    def test_of_a_part_or_of_another_network_are_left_to_themselves_by_callbacks(self, model):
        grid_callbacks = pytest.importorskip("convkan.training.grids", reason="the extra train is not installed")

        class Module(nn.Module):
            def __init__(self):
                super().__init__()
                self.model, self.part = model, AveragedModel(model[:1])

        class Trainer:
            callbacks = ()

        assert grid_callbacks._averages(Trainer, Module()) == []

    def test_within_the_model_are_not_taken_for_parts_of_it(self, model):
        model.ema = AveragedModel(nn.Sequential(model[0], model[1]))
        changes = adapt_grids(nn.Sequential(model[0], model[1]), [self.x], averages=[model.ema])
        assert changes.keys() == {"0", "1.activation"}
        assert torch.equal(model.ema.module[0].grid, model[0].grid)

    def test_a_refinement_without_them_is_told(self, model, caplog):
        ema = self.ema(model)
        ema.update_parameters(model)
        refine_grids(model, 10)
        assert "keep their grid: one that averages" in caplog.text

    def test_that_are_refused_stay_so_in_another_precision(self, model):
        ema = self.ema(model)
        for _ in range(2):
            ema.update_parameters(model)
        adapt_grids(model, [self.x])
        ema.double()
        ema(self.x.double())
        ema.float().update_parameters(model)
        with pytest.raises(RuntimeError, match="averaged over a change"):
            ema(self.x)

    def test_copies_that_go_their_own_way_are_not_refused(self, model):
        copies = [deepcopy(model) for _ in range(2)]
        for copy in copies:
            randomize(copy)  # as training does
        copies[0].load_state_dict(model.state_dict())
        adapt_grids(model, [self.x])
        refine_grids(model, 10)
        adapt_grids(copies[1], [self.x])
        for copy in copies:
            copy(self.x)
            copy.load_state_dict(model.state_dict())
            assert torch.equal(copy(self.x), model(self.x))

    def test_that_lack_a_layer_are_refused(self, model):
        for change in (
            lambda a: adapt_grids(model, [self.x], averages=a),
            lambda a: refine_grids(model, 10, averages=a),
        ):
            with pytest.raises(ValueError, match="averages must have the layers of the model, got one without '1.act"):
                change([model[:1]])
        assert spline_layers(model)["0"].basis.grid_size == 5

    @pytest.mark.parametrize("create", [torch.optim.AdamW, torch.optim.LBFGS, torch.optim.RMSprop])
    def test_a_state_of_another_size_under_a_live_optimizer_is_named(self, create):
        layer, finer = KANLinear(2, 3), KANLinear(2, 3, basis=BSpline(10))
        optimizer = create(layer.parameters())

        def step():
            optimizer.zero_grad()
            loss = layer(torch.ones(4, 2)).square().mean()
            loss.backward()
            return loss

        optimizer.step(step)
        optimizer.step(step)
        layer.load_state_dict(finer.state_dict())
        for _ in range(2):
            with pytest.raises(RuntimeError, match=r"state \(.*another grid size.*load the optimiser's state"):
                optimizer.step(step)
        other = create(finer.parameters())
        other.step(lambda: finer(torch.ones(4, 2)).square().mean())
        again = create(layer.parameters())
        again.step(step)

    @pytest.mark.parametrize("create", [torch.optim.AdamW, torch.optim.LBFGS])
    def test_loading_the_optimizer_state_too_goes_on(self, create):
        layer, finer = (KANLinear(2, 3, basis=BSpline(size), dtype=torch.float64) for size in (5, 10))
        ours, theirs = create(layer.parameters()), create(finer.parameters())
        x = torch.randn(4, 2, dtype=torch.float64)

        def step(net, optimizer):
            def closure():
                optimizer.zero_grad()
                loss = net(x).square().mean()
                loss.backward()
                return loss

            optimizer.step(closure)

        step(layer, ours)
        step(finer, theirs)
        layer.load_state_dict(finer.state_dict())
        ours.load_state_dict(deepcopy(theirs.state_dict()))
        step(layer, ours)
        step(finer, theirs)
        assert_agree(layer(x), finer(x))

    def test_every_size_before_is_known_to_every_optimizer(self):
        layer, x = KANLinear(2, 3), torch.ones(4, 2)
        optimizers = [torch.optim.Adam(layer.parameters()) for _ in range(2)]

        def step(optimizer):
            optimizer.zero_grad()
            layer(x).square().mean().backward()
            optimizer.step()

        step(optimizers[0])
        for size in (10, 20):
            layer.load_state_dict(KANLinear(2, 3, basis=BSpline(size)).state_dict())
        step(optimizers[1])
        with pytest.raises(RuntimeError, match="another grid size was loaded"):
            step(optimizers[0])


class TestConstants:
    """Masks and names are state, but no numbers."""

    @pytest.fixture
    def model(self):
        torch.manual_seed(1)
        model = randomize(nn.Sequential(KANConv2d(2, 3, 3), LowRankKANConv2d(3, 2, 3), nn.Flatten(), KANLinear(8, 2)))
        for layer in (model[0], model[1], model[3]):
            layer.mask_edges(torch.rand(layer.edge_shape) < 0.7)
        fix(model[3], (0, 1), "sin", (1.5, 0.2, 0.7, -0.1))
        fix(model[3], (1, 2), "gaussian", (0.8, 0.1, 0.5, 0.2))
        return model

    x = torch.randn(3, 2, 6, 6, generator=torch.Generator().manual_seed(5))

    def test_averages_with_buffers_keep_them(self, model):
        averages = [AveragedModel(model, use_buffers=buffers) for buffers in (False, True)]
        for average in averages:
            for _ in range(3):
                average.update_parameters(model)
            assert average.module[3].symbolic.functions == ("sin", "gaussian")
            assert_agree(average(self.x), model(self.x))

    def test_averages_of_every_entry_of_a_state_keep_them(self, model):
        average = randomize(deepcopy(model))
        for _ in range(2):
            for ours, theirs in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
                ours.copy_(0.0 * ours + 1.0 * theirs)
        assert average[3].symbolic.functions == ("sin", "gaussian")
        assert (average(self.x) - model(self.x)).norm() <= 1e-5 * model(self.x).norm()

    def test_are_no_buffers_but_in_the_state_and_move_along(self, model):
        assert {name.rpartition(".")[2] for name, _ in model.named_buffers()} == {"grid"}
        state = model.state_dict()
        assert {"0.edge_mask", "1.edge_mask", "3.edge_mask", "3.symbolic.names", "3.symbolic.edges"} <= state.keys()
        assert model.to("meta")[0].edge_mask.is_meta
        assert model[3].symbolic.names.dtype == torch.uint8

    def test_a_cast_of_everything_leaves_them(self, model):
        model.type(torch.float64)
        assert model[0].edge_mask.dtype == torch.bool
        assert model[3].symbolic.edges.dtype == torch.long

    def test_a_state_without_them_is_told_and_a_wrong_one_refused(self, model):
        state = model.state_dict()
        bare = {key: value for key, value in state.items() if not key.endswith("edge_mask")}
        with pytest.raises(RuntimeError, match='Missing key.*"0.edge_mask"'):
            model.load_state_dict(bare)
        model.load_state_dict(bare, strict=False)
        with pytest.raises(RuntimeError, match=r"0.edge_mask must have shape \(3, 2, 3, 3\) and be boolean, got"):
            model.load_state_dict(state | {"0.edge_mask": torch.ones(3, 2, 3, 3)})

    def test_a_functional_call_with_the_whole_state_is_the_same(self, model):
        assert_agree(torch.func.functional_call(model, dict(model.state_dict()), (self.x,)), model(self.x))


class NoFloat64(TorchFunctionMode):
    """As if tensors lay on a device that has no float64, until they are copied to the CPU by ``Tensor.cpu``."""

    def __init__(self):
        super().__init__()
        self.on_host = []  # kept alive: identities must not come back

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [a for a in (*args, *kwargs.values()) if isinstance(a, torch.Tensor)]
        tensors += [t for a in args if isinstance(a, list | tuple) for t in a if isinstance(t, torch.Tensor)]
        # What is in float64 cannot lie on the device.
        here = bool(tensors) and all(
            t.dtype == torch.float64 or any(t is known for known in self.on_host) for t in tensors
        )
        made = func(*args, **kwargs)
        if func is torch.Tensor.cpu:
            made, here = made.clone(), True
        for result in made if isinstance(made, list | tuple) else [made]:
            if not isinstance(result, torch.Tensor):
                continue
            if here or not tensors:
                self.on_host.append(result)
            elif result.dtype == torch.float64:
                raise TypeError("this device has no float64")
        return made


class TestDevicesWithoutFloat64:
    @every_class
    def test_do_all_that_training_does(self, case):
        layer, x = randomize(case()), case.input()
        twin, loaded = deepcopy(layer), randomize(case())
        with NoFloat64():
            layer(x)
            coverages(layer, [x])
            coverage(layer, x)
            adapt_grids(layer, [x])
            adapt_grid(layer, x)
            refine_grid(layer, 10)
            loaded.load_state_dict(layer.state_dict())
            loaded(x).sum().backward()
            loaded.half().float()
            repr(loaded)
        coverages(twin, [x])
        adapt_grids(twin, [x])
        adapt_grid(twin, x)
        refine_grid(twin, 10)
        assert torch.equal(
            loaded.state_dict()["grid" if "grid" in twin.state_dict() else "activation.grid"].half(),
            spline_layers(twin).popitem()[1].grid.half(),
        )
        assert torch.equal(layer(x), twin(x))

    def test_judge_classes_of_unequal_size(self):
        balance = pytest.importorskip("convkan.training.balance", reason="the extra train is not installed")
        with NoFloat64():
            accuracy = balance.BalancedAccuracy(3, validate_args=False)
            accuracy.update(torch.tensor([0, 1, 2, 2]), torch.tensor([0, 1, 1, 2]))
            assert accuracy.compute().item() == pytest.approx(5 / 6)

    def test_are_what_the_emulation_emulates(self):
        x = torch.randn(3)
        with NoFloat64():
            assert x.cpu().double().sum().dtype == torch.float64
            with pytest.raises(TypeError, match="no float64"):
                x.double()


REPARAMETRIZE = {
    "weight_norm": lambda layer, name: parametrizations.weight_norm(layer, name),
    "spectral_norm": lambda layer, name: parametrizations.spectral_norm(layer, name),
    "prune": lambda layer, name: prune.l1_unstructured(layer, name, 0.3),
    "hook": lambda layer, name: nn.utils.spectral_norm(layer, name),
}


@pytest.mark.filterwarnings("ignore:.*torch.nn.utils.(weight|spectral)_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize("reparametrize", REPARAMETRIZE.values(), ids=REPARAMETRIZE.keys())
@pytest.mark.parametrize("case", [LAYER_CLASSES["linear"], LAYER_CLASSES["conv2d"]], ids=["linear", "conv2d"])
def test_grids_of_layers_with_reparametrized_weights_are_refused_and_stay(case, reparametrize):
    layer, x = randomize(case()), case.input()
    reparametrize(layer, "basis_weight")
    layer.eval()
    layer(x)
    before, state = layer(x), deepcopy(layer.state_dict())
    changes = [
        lambda: adapt_grid(layer, x),
        lambda: adapt_grids(layer, [x]),
        lambda: refine_grid(layer, 10),
        lambda: refine_grids(layer, 10),
        lambda: layer.mask_edges(torch.ones(layer.edge_shape, dtype=torch.bool)),
        layer.reset_parameters,
    ]
    for change in changes:
        with pytest.raises(RuntimeError, match="basis_weight of .* cannot be changed: it is computed from other"):
            change()
    assert all(torch.equal(value, state[key]) for key, value in layer.state_dict().items())
    assert torch.equal(layer(x), before)


@pytest.mark.parametrize(
    "create", [lambda: KANLinear(1, 5), lambda: KANConv2d(1, 4, 3), lambda: LearnableActivation(1)]
)
def test_a_layer_of_one_input_is_fitted_refined_and_fitted_again(create):
    layer = create()
    x = torch.linspace(-1, 1, 90).reshape(-1, 1) if isinstance(layer, KANLinear) else torch.rand(5, 1, 6, 6)
    losses = []
    for size in (10, 20):
        optimizer = torch.optim.LBFGS(layer.parameters())

        def closure(optimizer=optimizer):
            optimizer.zero_grad()
            loss = (layer(x) - 0.3).square().mean()
            loss.backward()
            losses.append(loss.item())
            return loss

        optimizer.step(closure)
        refine_grid(layer, size)
        nn.utils.vector_to_parameters(nn.utils.parameters_to_vector(layer.parameters()), layer.parameters())
    assert losses[-1] < 1e-3 * losses[0]
