"""Layers and models under the tools of torch, and in the hands, that people report trouble with."""

import copy
import gc
import warnings

import numpy as np
import pytest
import torch
import torch.distributed as dist
from cases import BASIS_CASES, diagonal
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.checkpoint import checkpoint

from convkan import KANConv2d, KANLinear, LearnableActivation, LowRankKANConv2d
from convkan.basis import BSpline
from convkan.grid import adapt_grid, adapt_grids, coverages, refine_grid, refine_grids
from convkan.interpret import auto, fix, importance, prune_edges
from convkan.ops import kernels, tiles
from convkan.ops.native import native_kernels
from convkan.ops.plan import PLANS
from convkan.testing import (
    LAYER_CLASSES,
    LAYERS,
    assert_agree,
    kan_layers,
    make_uneven,
    outputs_and_gradients,
    randomize,
    with_backend,
)

every_layer = pytest.mark.parametrize("case", LAYERS.values(), ids=LAYERS.keys())
every_class = pytest.mark.parametrize("case", LAYER_CLASSES.values(), ids=LAYER_CLASSES.keys())
spacing = pytest.mark.parametrize("uneven", [False, True], ids=["even", "uneven"])


def layer_of(case, uneven=False, **options):
    layer = randomize(case(**options))
    return make_uneven(layer) if uneven else layer


def gradients(y, layer, x):
    return torch.autograd.grad(y.square().sum(), (x, *layer.parameters()))


def small_network():
    torch.manual_seed(3)
    return nn.Sequential(
        KANConv2d(3, 4, 3, padding=1),
        nn.ReLU(inplace=True),
        KANConv2d(4, 4, 1),
        LearnableActivation(4),
        nn.ReLU(inplace=True),
        LowRankKANConv2d(4, 6, 3, groups=2, bias=True),
        nn.Flatten(),
        KANLinear(54, 5, bias=True),
    )


def trained(model, x, steps=2):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    return model


class TestAutograd:
    @pytest.mark.parametrize(("name", "uneven", "in_tiles"), diagonal(LAYERS, [False, True], [False, True], each=2))
    def test_what_follows_may_work_in_place(self, name, uneven, in_tiles, monkeypatch):
        case = LAYERS[name]
        if in_tiles:
            monkeypatch.setattr(tiles, "CPU_BYTES_PER_THREAD", 1)
        layer, x = layer_of(case, uneven), case.input(batch=7).requires_grad_()
        expected = gradients(layer(x).relu(), layer, x)
        for ours, theirs in zip(gradients(layer(x).relu_(), layer, x), expected, strict=True):
            assert torch.equal(ours, theirs)

    @pytest.mark.parametrize(("name", "uneven"), diagonal(LAYERS, [False, True]))
    def test_many_gradients_at_once_are_each_of_them(self, name, uneven):
        case = LAYERS[name]
        layer, x = layer_of(case, uneven), case.input().requires_grad_()
        y, inputs = layer(x), (x, *layer.parameters())
        directions = torch.randn(3, *y.shape)
        together = torch.autograd.grad(y, inputs, directions, is_grads_batched=True, retain_graph=True)
        for index, direction in enumerate(directions):
            alone = torch.autograd.grad(y, inputs, direction, retain_graph=True)
            for ours, theirs in zip(together, alone, strict=True):
                assert_agree(ours[index], theirs)

    @every_class
    @spacing
    def test_many_tangents_at_once_are_each_of_them(self, case, uneven):
        layer, x = layer_of(case, uneven).double(), case.input(dtype=torch.float64, batch=1)

        def y(x, weight):
            return torch.func.functional_call(layer, {name: weight}, (x,))

        name, weight = next(iter(layer.named_parameters()))
        jacobian = torch.autograd.functional.jacobian
        for inputs in (x, (x, weight.detach())):
            of = layer if inputs is x else y
            together, expected = jacobian(of, inputs, vectorize=True, strategy="forward-mode"), jacobian(of, inputs)
            for ours, theirs in zip(together, expected, strict=True):
                assert_agree(ours, theirs)

    @every_class
    def test_vectorized_second_derivatives_are_those_of_loops(self, case):
        layer, x = layer_of(case).double(), case.input(dtype=torch.float64, batch=1)

        def hessian(**options):
            return torch.autograd.functional.hessian(lambda x: layer(x).pow(3).sum(), x, **options)

        assert_agree(hessian(vectorize=True), hessian())
        assert_agree(hessian(vectorize=True, outer_jacobian_strategy="forward-mode"), hessian())

    def test_many_gradients_by_weights_that_depend_on_the_input_are_partial(self):
        layer, x = KANLinear(3, 2).double(), torch.randn(1, 3, dtype=torch.float64)

        def y(x):
            weights = {"basis_weight": layer.basis_weight * x.sum()}
            return torch.func.functional_call(layer, weights, (x,)).pow(3).sum()

        hessian = torch.autograd.functional.hessian
        assert_agree(hessian(y, x, vectorize=True), hessian(y, x))

    def test_frozen_parts_get_no_gradient_among_many(self):
        layer, x = KANLinear(3, 2), torch.randn(4, 3)
        layer.base_weight.requires_grad_(False)
        y = layer(x)
        (together,) = torch.autograd.grad(y, layer.basis_weight, torch.eye(8).view(8, 4, 2), is_grads_batched=True)
        assert_agree(together.sum(0), torch.autograd.grad(layer(x).sum(), layer.basis_weight)[0])

    @every_class
    @pytest.mark.parametrize("use_reentrant", [False, True])
    @pytest.mark.parametrize("autocast", [False, True])
    def test_checkpoints_change_nothing(self, case, use_reentrant, autocast):
        layer, x = layer_of(case), case.input().requires_grad_()
        found = []
        for call in (layer, lambda x: checkpoint(layer, x, use_reentrant=use_reentrant)):
            layer.zero_grad()
            x.grad = None
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                y = call(x)
            y.float().square().sum().backward()
            found.append([x.grad, *(parameter.grad for parameter in layer.parameters())])
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(*found, strict=True))

    @pytest.mark.parametrize("name", ["conv2d-grouped", "conv2d-depthwise", "lowrank", "activation"])
    def test_a_gradient_penalty_through_batch_norm_is_that_of_the_definition(self, name):
        case = LAYERS[name]
        layer, x = layer_of(case).double(), case.input(dtype=torch.float64, batch=5)
        weights, found = torch.randn_like(layer(x)), []
        for backend in ("dense", "reference"):
            model = nn.Sequential(with_backend(layer, backend), nn.BatchNorm2d(layer(x).shape[1]).double())
            y = model(x.requires_grad_())
            (slope,) = torch.autograd.grad((y * weights).sum(), x, create_graph=True)
            parameters = [
                parameter for key, parameter in model.named_parameters() if "bias" not in key
            ]  # the norm takes them out
            found.append(torch.autograd.grad((slope.flatten(1).norm(dim=1) - 1).square().mean(), parameters))
        for ours, theirs in zip(*found, strict=True):
            assert_agree(ours, theirs, factor=100)  # the norm subtracts what is nearly equal

    @every_class
    @pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled:UserWarning")
    def test_no_step_of_two_backward_passes_is_nan(self, case):
        for basis in BASIS_CASES:
            layer, x = layer_of(case, basis=basis), case.input().requires_grad_()
            with torch.autograd.detect_anomaly():
                (slope,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
                slope.square().sum().backward()

    def test_a_scaler_skips_the_step_that_an_infinite_input_spoils(self):
        model, x = small_network(), torch.randn(2, 3, 5, 5)
        before = copy.deepcopy(model.state_dict())
        optimizer, scaler = torch.optim.SGD(model.parameters(), lr=0.1), torch.amp.GradScaler("cpu", init_scale=2.0**10)
        for value, scale in ((float("inf"), 2.0**9), (0.5, 2.0**9)):
            x[0, 0, 0, 0] = value
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.float16):
                loss = model(x).float().square().mean()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            assert scaler.get_scale() == scale
            same = [torch.equal(now, before[key]) for key, now in model.state_dict().items() if "weight" in key]
            assert all(same) if value == float("inf") else not any(same)


class TestNumbers:
    @pytest.mark.parametrize("order", [0, 1, 3, 7])
    @pytest.mark.parametrize("base_activation", ["silu", None])
    @spacing
    def test_that_are_not_finite_or_huge_mean_the_same_to_every_backend(self, order, base_activation, uneven):
        x = torch.tensor([float("nan"), float("inf"), -float("inf"), 3e38, -3e38, 1e20, 0.3]).unsqueeze(1)
        for create, size in ((KANLinear, 5), (LearnableActivation, 5), (LearnableActivation, 60)):
            basis = BSpline(size, order)
            layer = layer_of(lambda c=create, **o: c(1, 1, **o), uneven, basis=basis, base_activation=base_activation)
            y, expected = layer(x).flatten(), with_backend(layer, "reference")(x).flatten()
            assert torch.equal(y.isnan(), expected.isnan())
            assert y[0].isnan()
            assert y[3:].isfinite().all()
            assert_agree(y[3:], expected[3:])

    def test_with_a_pending_sign_reach_compiled_code_with_it(self, monkeypatch):
        seen = []

        def uncompiled(function, expansion, dtype, device):
            def run(x, *others):
                seen.extend(other.is_neg() for other in (x, *others) if isinstance(other, torch.Tensor))
                return function(x, expansion, *others)

            return run

        monkeypatch.setattr(kernels, "_specialized", uncompiled)
        monkeypatch.setattr(kernels, "MIN_ENTRIES", 1)
        layer = LearnableActivation(3)
        x = torch.randn(4, 3, 2, 2, dtype=torch.complex64).conj().imag
        assert x.is_neg()
        with kernels.compiled_kernels(True), native_kernels(False):
            y = layer(x)
        assert seen
        assert not any(seen)
        assert_agree(y, layer(x.resolve_neg().clone()))

    @every_layer
    def test_that_were_never_written_are_never_read(self, case):
        layer, x = layer_of(case), case.input(batch=7)
        torch.use_deterministic_algorithms(True)  # fills fresh memory with NaN
        try:
            found = outputs_and_gradients(layer, x)
        finally:
            torch.use_deterministic_algorithms(False)
        expected = outputs_and_gradients(with_backend(layer, "reference"), x)
        for name, value in found.items():
            assert_agree(value, expected[name])

    @pytest.mark.parametrize(
        ("name", "uneven", "dtype"), diagonal(LAYER_CLASSES, [False, True], [torch.float64, torch.float16], each=2)
    )
    def test_do_not_depend_on_the_default_dtype(self, name, uneven, dtype):
        case = LAYER_CLASSES[name]
        layer, x = layer_of(case, uneven), case.input(batch=300).requires_grad_()
        results = []
        for default in (torch.float32, dtype):
            torch.set_default_dtype(default)
            try:
                model = copy.deepcopy(layer)
                adapt_grids(model, [x])
                refine_grids(model, 12)
                y = model(x)
                results.append([y, *gradients(y, model, x)])
            finally:
                torch.set_default_dtype(torch.float32)
        for ours, theirs in zip(*results, strict=True):
            assert ours.dtype == torch.float32
            assert torch.equal(ours, theirs)

    @every_class
    @spacing
    def test_stay_where_they_are_whatever_the_default_device(self, case, uneven):
        layer, x = layer_of(case, uneven), case.input().requires_grad_()
        results = []
        for default in (None, "meta"):
            torch.set_default_device(default)
            try:
                model = copy.deepcopy(layer)
                change = [adapt_grids(model, [x]), refine_grids(model, 12)]
                shares = [found.off_grid.tolist() for found in coverages(model, [x]).values()]
                y = model(x)
                results.append([change, shares, y.tolist(), [g.tolist() for g in gradients(y, model, x)]])
                kan_layers(model)[0].reset_parameters()
                model(x)
            finally:
                torch.set_default_device(None)
        assert results[0] == results[1]

    def test_of_interpretation_are_worked_on_whatever_the_default_device(self):
        torch.manual_seed(0)
        model, x = nn.Sequential(KANLinear(2, 3), KANLinear(3, 1)), torch.randn(64, 2)
        results = []
        for default in (None, "meta"):
            copied = copy.deepcopy(model)
            torch.set_default_device(default)
            try:
                scores = importance(copied, [x])
                alive = prune_edges(copied, scores, share=0.4)
                auto(copied, [x], threshold=0.9, library=["sin", "x^2", "tanh"])
                results.append([alive, copied[0].symbolic.functions, copied(x).tolist()])
            finally:
                torch.set_default_device(None)
        assert results[0] == results[1]


class TestState:
    def test_is_not_remembered_of_copies_that_are_gone(self):
        layer = KANLinear(2, 2)
        before = len(PLANS)
        for step in range(20):
            other = copy.deepcopy(layer)
            adapt_grid(other, torch.randn(9, 2) * (step + 1))
            other(torch.randn(3, 2))
        del other
        gc.collect()
        assert layer.touched_copies() == []
        assert len(layer._lineage._family) == 1
        assert len(PLANS) <= before + 1

    def test_grids_of_layers_that_share_weights_are_refused_and_stay(self):
        model, x = nn.Sequential(KANLinear(3, 3), KANLinear(3, 3)), torch.randn(20, 3)
        model[1].basis_weight = model[0].basis_weight
        before = copy.deepcopy(model.state_dict())
        for change in (lambda: adapt_grids(model, [x]), lambda: refine_grids(model, 10)):
            with pytest.raises(RuntimeError, match="layers '0' and '1' share their basis_weight.*Use one layer"):
                change()
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())

    def test_a_layer_used_twice_is_one_layer(self):
        layer, x = KANLinear(3, 3), torch.randn(200, 3)
        model = nn.Sequential(layer, nn.Tanh(), layer)
        optimizer = torch.optim.Adam(model.parameters())
        before = model(x)
        refine_grids(model, 10, optimizer)
        assert_agree(model(x), before)
        assert len(optimizer.param_groups[0]["params"]) == 2
        adapt_grids(model, [x])
        assert all(found.off_grid.max() == 0 for found in coverages(model, [x]).values())

    @every_class
    @spacing
    def test_masks_follow_the_weights_of_replicas(self, case, uneven):
        layer, x = layer_of(case, uneven), case.input()
        masked = layer if isinstance(layer, LowRankKANConv2d) else kan_layers(layer)[0]
        masked.mask_edges(torch.rand(masked.edge_shape) < 0.7)

        def replica_of(module, device):  # as ``torch.nn.DataParallel`` makes them, which needs several GPUs
            replica = module._replicate_for_data_parallel()
            for name, weight in module._parameters.items():
                setattr(replica, name, None if weight is None else weight.to(device))
            for name, buffer in module._buffers.items():
                replica._buffers[name] = None if buffer is None else buffer.to(device)
            for name, part in module._modules.items():
                replica._modules[name] = None if part is None else replica_of(part, device)
            return replica

        y = replica_of(layer, "cpu")(x)
        assert torch.equal(y, layer(x))
        y.sum().backward()
        assert all(parameter.grad is not None for parameter in layer.parameters())
        assert replica_of(layer, "meta")(x.to("meta")).is_meta

    def test_is_assigned_to_a_layer_without_memory_masks_and_names_included(self):
        layer, x = randomize(KANLinear(3, 2)), torch.randn(4, 3)
        layer.mask_edges(torch.tensor([[True, False, True], [True, True, False]]))
        fix(layer, (0, 0), "sin", (1.5, 0.2, 0.7, -0.1))
        empty = copy.deepcopy(layer).to("meta")
        empty.load_state_dict(layer.state_dict(), assign=True)
        assert torch.equal(empty(x), layer(x))

    @pytest.mark.parametrize("create", [lambda: KANLinear(3, 3), lambda: LearnableActivation(3)])
    def test_that_changed_in_inference_mode_is_trained_all_the_same(self, create):
        layer, x = create(), torch.randn(20, 3)
        with torch.inference_mode():
            layer(x)
            adapt_grid(layer, x)
            refine_grid(layer, 10)
            layer.set_grid(layer.grid * 1.01)
            layer.mask_edges(torch.ones(layer.edge_shape, dtype=torch.bool))
            expected = layer(x)
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        y = layer(x)
        assert torch.equal(y, expected)
        y.square().sum().backward()
        optimizer.step()
        assert not torch.equal(layer(x), expected)

    @pytest.mark.parametrize(
        "create",
        [
            lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, fused=True),
            lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
            lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True, foreach=True),
            lambda p: torch.optim.NAdam(p, lr=0.01),
        ],
        ids=["fused-sgd", "fused-adamw", "foreach-adam", "nadam"],
    )
    def test_of_every_optimizer_goes_on_after_refinement(self, create):
        model, x = small_network().to(memory_format=torch.channels_last), torch.randn(2, 3, 5, 5)
        optimizer = create(model.parameters())
        for step in range(4):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
            if step == 1:
                refine_grids(model, 10, optimizer)
        assert all(parameter in optimizer.state for parameter in model.parameters())

    def test_an_interruption_leaves_a_model_as_it_was(self):
        model = nn.Sequential(KANLinear(3, 3), nn.BatchNorm1d(3), KANLinear(3, 2))
        before = copy.deepcopy(model.state_dict())

        def batches():
            yield torch.randn(10, 3)
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            adapt_grids(model, batches())
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
        assert not any(module._forward_pre_hooks for module in model.modules())

    @every_layer
    def test_goes_through_safetensors_into_a_model(self, case, tmp_path):
        safetensors = pytest.importorskip("safetensors.torch")
        layer, other, x = layer_of(case, uneven=True), case(), case.input()
        refine_grids(layer, 9)
        safetensors.save_model(layer, tmp_path / "model.safetensors")
        safetensors.load_model(other, tmp_path / "model.safetensors")
        assert torch.equal(other(x), layer(x))

    def test_sizes_may_be_numpys(self):
        two, three = np.int64(2), np.int32(3)
        for create in (KANConv2d, LowRankKANConv2d):
            layer = create(two, three, three, two, padding=(np.int64(1), 1), groups=np.int64(1))
            assert repr(layer) == repr(create(2, 3, 3, 2, padding=1))
        assert repr(KANLinear(two, three)) == repr(KANLinear(2, 3))
        assert repr(LearnableActivation(three)) == repr(LearnableActivation(3))
        with pytest.raises(TypeError, match="kernel_size must be an integer"):
            KANConv2d(2, 3, np.float64(3))

    def test_batch_norm_is_folded_into_a_low_rank_layer(self):
        layer, norm, x = LowRankKANConv2d(3, 4, 3).eval(), nn.BatchNorm2d(4).eval(), torch.randn(2, 3, 8, 8)
        layer.mask_edges(torch.rand(4, 3, 3, 3) < 0.7)
        norm.running_mean.normal_()
        norm.running_var.uniform_(1, 2)
        assert_agree(fuse_conv_bn_eval(layer, norm)(x), norm(layer(x)))


@pytest.mark.parametrize("options", ["V2", "V3", "V3 one by one"])
def test_averages_of_timm_follow(options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        timm = pytest.importorskip("timm.utils")
    model, x = small_network(), torch.randn(4, 3, 5, 5)
    model[0].mask_edges(torch.rand(model[0].edge_shape) < 0.7)
    create = timm.ModelEmaV2 if options == "V2" else timm.ModelEmaV3
    average = create(model, decay=0.9, **({"foreach": False} if "one" in options else {}))
    average.update(model)
    adapt_grids(model, [x], averages=[average])
    refine_grids(model, 10, averages=[average])
    average.update(model)
    model.eval()
    assert (average.module(x) - model(x)).norm() <= 1e-5 * model(x).norm()


class TestProcesses:
    x = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(2))

    @pytest.fixture
    def process_group(self, tmp_path):
        dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
        yield
        dist.destroy_process_group()

    @pytest.mark.parametrize("options", [{}, {"static_graph": True}, {"gradient_as_bucket_view": True}])
    @pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
    def test_data_parallel_training_is_training(self, process_group, options, memory_format):
        expected = trained(small_network(), self.x)
        model = small_network().to(memory_format=memory_format)
        trained(nn.parallel.DistributedDataParallel(model, **options), self.x)
        for ours, theirs in zip(model.parameters(), expected.parameters(), strict=True):
            assert_agree(ours, theirs)

    def test_gradients_are_laid_out_as_their_parameters(self):
        for model in (small_network(), small_network().to(memory_format=torch.channels_last)):
            model(self.x).sum().backward()
            assert all(parameter.grad.stride() == parameter.stride() for parameter in model.parameters())

    def test_sharded_training_is_training_and_grids_are_left_alone(self, process_group):
        model, expected = small_network(), small_network()
        for each in (model, expected):
            torch.manual_seed(4)
            each[0].mask_edges(torch.rand(each[0].edge_shape) < 0.7)
        mesh = init_device_mesh("cpu", (1,))
        for part in model:
            if next(part.parameters(), None) is not None:
                fully_shard(part, mesh=mesh)
        fully_shard(model, mesh=mesh)
        trained(model, self.x)
        trained(expected, self.x)
        state = model.state_dict()
        for name, theirs in expected.state_dict().items():
            ours = state[name]
            ours = ours.full_tensor() if hasattr(ours, "full_tensor") else ours
            assert torch.equal(ours, theirs) if theirs.dtype == torch.bool else (ours - theirs).abs().max() <= 1e-6
        for change in (lambda: adapt_grids(model, [self.x]), lambda: refine_grids(model, 10)):
            with pytest.raises(
                RuntimeError, match="grids cannot be changed within FSDPModule: .*, then wrap the model"
            ):
                change()
        for change in (lambda: adapt_grid(model[0], self.x), model[7].reset_parameters):
            with pytest.raises(RuntimeError, match="cannot be changed: it is sharded"):
                change()
