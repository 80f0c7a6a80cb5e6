"""Checkpoints of other libraries: the same function here, or a refusal that says why."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convkan import KANConv2d, KANLinear
from convkan.basis import ACTIVATIONS, RBF, BSpline
from convkan.interop import SOURCES as ALL_SOURCES
from convkan.interop import NormalizedKANLinear, ScatteredRBF, load_peer
from convkan.interop.peers import PEERS
from convkan.interop.state import ACTIVATION_FUNCTIONS, ACTIVATION_MODULES, activation_name
from convkan.testing import assert_agree, relative_error

# Those with reference vectors; torch-conv-kan's layers are tested on their definition.
SOURCES = [source for source in ALL_SOURCES if not source.startswith("torch-conv-kan")]
GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.npz"))

LINEAR = "efficient-kan KANLinear"
NETWORK = "efficient-kan KAN"
KERNELS = "Convolutional-KANs KAN_Convolutional_Layer"
CONV = "StarostinV ConvKAN"
CHEBY = "ChebyKAN ChebyKANLayer"
FAST = "fast-kan FastKANLayer"
PYKAN = "pykan KANLayer"

EXAMPLES = {
    LINEAR: "efficient_kan_linear",
    NETWORK: "efficient_kan_network",
    KERNELS: "convolutional_kans_layer",
    CONV: "convkan_plain",
    CHEBY: "chebykan_layer",
    FAST: "fastkan_layer",
    PYKAN: "pykan_kan_layer",
}
SIZE_ARGUMENTS = {
    LINEAR: {"in_features": 8, "out_features": 4, "grid_size": 6, "spline_order": 2},
    NETWORK: {"layers_hidden": [7, 5, 3], "grid_size": 6, "spline_order": 2},
    KERNELS: {"in_channels": 5, "out_channels": 3, "kernel_size": (2, 2), "grid_size": 6, "spline_order": 2},
    CONV: {
        "in_channels": 5,
        "out_channels": 3,
        "kernel_size": 5,
        "groups": 2,
        "grid_size": 6,
        "spline_order": 2,
    },
    CHEBY: {"input_dim": 8, "output_dim": 4, "degree": 5},
    FAST: {"input_dim": 8, "output_dim": 4, "num_grids": 7},
    PYKAN: {"in_dim": 8, "out_dim": 4, "num": 6, "k": 2},
}
LAYER_KEYS = ("base_weight", "spline_weight", "spline_scaler", "grid")
CONTRADICTIONS = [(s, name, value) for s, wrong in SIZE_ARGUMENTS.items() for name, value in wrong.items()]


def vectors(name: str) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Tensor]]:
    """State, constructor arguments and reference vectors of a stored peer."""
    with np.load(Path(__file__).parent / "golden" / f"{name}.npz") as stored:
        arrays = {key: torch.from_numpy(stored[key]) for key in stored.files if key != "config"}
        config = json.loads(str(stored["config"]))
    state = {k.removeprefix("state/"): v for k, v in arrays.items() if k.startswith("state/")}
    return state, config, {k: v for k, v in arrays.items() if not k.startswith("state/")}


def example(source: str) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Tensor]]:
    """Likewise for one vector of each source, without ``source`` among the arguments."""
    state, config, arrays = vectors(EXAMPLES[source])
    assert config.pop("source") == source
    return state, config, arrays


def outputs(model: nn.Module, arrays: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    x = arrays["x"].clone().requires_grad_()
    y = model(x)
    (gx,) = torch.autograd.grad((y * arrays["cot"]).sum(), x)
    return y, gx


def assert_reproduces(model: nn.Module, arrays: dict[str, Tensor]) -> None:
    y, gx = outputs(model, arrays)
    assert relative_error(y, arrays["y"]) < 1e-10
    assert relative_error(gx, arrays["gx"]) < 1e-10


def test_every_source_has_a_reference_vector():
    assert {vectors(path.stem)[1]["source"] for path in GOLDEN} == set(SOURCES) == set(EXAMPLES)


@pytest.mark.parametrize("name", [path.stem for path in GOLDEN])
def test_reference_vectors_are_reproduced(name):
    state, config, arrays = vectors(name)
    source = config.pop("source")
    assert_reproduces(load_peer(source, state, **config), arrays)


@pytest.mark.parametrize("source", SOURCES)
def test_arguments_that_the_state_tells_may_be_omitted(source):
    state, config, arrays = example(source)
    needed = {"in_channels", "padding"} if source in (KERNELS, CONV) else set()
    assert_reproduces(load_peer(source, state, **{k: v for k, v in config.items() if k in needed}), arrays)


@pytest.mark.parametrize("source", SOURCES)
def test_arguments_without_effect_on_the_function_are_accepted(source):
    state, config, arrays = example(source)
    config |= {name: config.get(name, object()) for name in PEERS[source].irrelevant}
    assert_reproduces(load_peer(source, state, **config), arrays)


@pytest.mark.parametrize("source", SOURCES)
def test_result_has_dtype_of_state(source):
    state, config, arrays = example(source)
    state = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    model = load_peer(source, state, **config)
    tensors = [*model.parameters(), *model.buffers()]
    assert {tensor.dtype for tensor in tensors} == {torch.float32}
    y, gx = outputs(model, {k: v.float() for k, v in arrays.items()})
    assert_agree(y, arrays["y"].float(), "output")
    assert_agree(gx, arrays["gx"].float(), "input gradient", factor=3)


@pytest.mark.parametrize("source", SOURCES)
def test_result_shares_no_memory_with_state_and_draws_no_random_numbers(source):
    state, config, _ = example(source)
    before, generator = {k: v.clone() for k, v in state.items()}, torch.get_rng_state()
    model = load_peer(source, state, **config)
    assert torch.equal(torch.get_rng_state(), generator)
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor.zero_()
    assert all(torch.equal(state[key], before[key]) for key in state)


@pytest.mark.parametrize("source", SOURCES)
def test_result_trains(source):
    state, config, arrays = example(source)
    model = load_peer(source, state, **config)
    model(arrays["x"]).square().mean().backward()
    assert all(p.requires_grad and p.grad is not None and p.grad.any() for p in model.parameters())


def fresh(source: str) -> nn.Module:
    double = {"dtype": torch.float64}
    match source:
        case "efficient-kan KAN":
            return nn.Sequential(KANLinear(7, 6, **double), KANLinear(6, 3, **double))
        case "Convolutional-KANs KAN_Convolutional_Layer":
            return KANConv2d(3, 4, 3, **double)
        case "StarostinV ConvKAN":
            return KANConv2d(4, 6, 3, padding=1, **double)
        case "ChebyKAN ChebyKANLayer":
            return KANLinear(7, 5, basis="chebyshev", base_activation=None, **double)
        case "fast-kan FastKANLayer":
            state, _, _ = example(FAST)
            basis = ScatteredRBF(tuple(state["rbf.grid"].tolist()), 4 / 7)
            return NormalizedKANLinear(7, 5, basis=basis, **double)
        case _:
            return KANLinear(7, 5, basis=BSpline(grid_size=3), **double)


@pytest.mark.parametrize("source", SOURCES)
def test_result_round_trips_through_a_checkpoint(source, tmp_path):
    state, config, arrays = example(source)
    torch.save(load_peer(source, state, **config).state_dict(), tmp_path / "state.pt")
    model = fresh(source)
    model.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert_reproduces(model, arrays)


def test_results_are_layers_of_this_library():
    kinds = {source: type(load_peer(source, *example(source)[:1], **example(source)[1])) for source in SOURCES}
    assert kinds == {
        LINEAR: KANLinear,
        NETWORK: nn.Sequential,
        KERNELS: KANConv2d,
        CONV: KANConv2d,
        CHEBY: KANLinear,
        FAST: NormalizedKANLinear,
        PYKAN: KANLinear,
    }


# What the state decides.


def test_adapted_grids_are_kept_knot_for_knot():
    state, config, arrays = vectors("efficient_kan_linear_adapted_grid")
    layer = load_peer(config.pop("source"), state, **config)
    assert torch.equal(layer.grid, state["grid"])
    assert not layer.uniform_knots
    assert_reproduces(layer, arrays)


@pytest.mark.parametrize("source", [LINEAR, PYKAN])
def test_uniform_grids_are_recognised(source):
    state, config, _ = example(source)
    layer = load_peer(source, state, **config)
    assert layer.uniform_knots
    assert layer.basis.grid_range == tuple(config["grid_range"])


@pytest.mark.parametrize(("source", "prefix"), [(LINEAR, ""), (CONV, "kan_layer.")])
def test_scaler_is_folded_or_absent(source, prefix):
    state, config, arrays = example(source)
    state[f"{prefix}spline_weight"] *= state.pop(f"{prefix}spline_scaler").unsqueeze(-1)
    assert_reproduces(load_peer(source, state, **config), arrays)
    assert_reproduces(load_peer(source, state, **config, enable_standalone_scale_spline=False), arrays)


def test_kernels_without_scaler_are_loaded():
    state, config, arrays = example(KERNELS)
    for key in [key for key in state if key.endswith("spline_scaler")]:
        state[key.replace("scaler", "weight")] *= state.pop(key).unsqueeze(-1)
    assert_reproduces(load_peer(KERNELS, state, **config), arrays)


def test_layers_of_a_network_may_have_different_grids():
    first, second = torch.randn(2, 3, 4 + 2), torch.randn(1, 2, 8 + 3)
    state = {
        "layers.0.base_weight": torch.randn(2, 3),
        "layers.0.spline_weight": first,
        "layers.0.grid": torch.linspace(-1, 1, 4 + 5).repeat(3, 1),
        "layers.1.base_weight": torch.randn(1, 2),
        "layers.1.spline_weight": second,
        "layers.1.grid": torch.linspace(-3, 1, 8 + 7).repeat(2, 1),
    }
    network = load_peer(NETWORK, state)
    assert [(layer.basis.grid_size, layer.basis.order) for layer in network] == [(4, 2), (8, 3)]
    for n, layer in enumerate(network):
        alone = {k.removeprefix(f"layers.{n}."): v for k, v in state.items() if k.startswith(f"layers.{n}.")}
        assert torch.equal(layer.basis_weight, load_peer(LINEAR, alone).basis_weight)


def test_mixed_dtypes_are_promoted():
    state, config, _ = example(LINEAR)
    state["grid"] = state["grid"].float()
    layer = load_peer(LINEAR, state, **config)
    assert layer.grid.dtype == layer.basis_weight.dtype == torch.float64
    assert torch.equal(layer.grid, state["grid"].double())


# What the single peers do.


@pytest.mark.parametrize("dilation", [1, 3])
@pytest.mark.parametrize(("kernel", "stride"), [((2, 4), 1), ((3, 6), 2)])
def test_same_padding_of_convkan_is_symmetric_and_rounded_down(kernel, stride, dilation):
    count = 2 * kernel[0] * kernel[1]
    state = {
        "kan_layer.base_weight": torch.randn(1, 3, count),
        "kan_layer.spline_weight": torch.randn(1, 3, count, 8),
        "kan_layer.grid": torch.linspace(-2, 2, 12).repeat(1, count, 1),
    }
    layer = load_peer(
        CONV, state, kernel_size=list(kernel), stride=stride, dilation=dilation, padding="same", bias=False
    )
    assert layer.padding == tuple(dilation * (k - 1) // 2 for k in kernel)
    assert layer.bias is None


def test_valid_and_constant_padding_of_convkan_have_torchs_meaning():
    state, config, arrays = example(CONV)
    assert_reproduces(load_peer(CONV, state, **config, padding_mode="constant"), arrays)
    valid = load_peer(CONV, state, **config | {"padding": "valid"})(arrays["x"])
    assert_agree(valid, arrays["y"][..., 1:-1, 1:-1])


def test_kernel_lists_need_only_one_of_the_channel_counts():
    state, config, arrays = example(KERNELS)
    outs = config.pop("out_channels")
    assert_reproduces(load_peer(KERNELS, state, **config), arrays)
    config.pop("in_channels")
    assert_reproduces(load_peer(KERNELS, state, **config, out_channels=outs), arrays)
    with pytest.raises(ValueError, match=r"in_channels must be given.*12"):
        load_peer(KERNELS, state, **config)
    single = {k: v for k, v in state.items() if k.startswith("convs.0.")}
    assert load_peer(KERNELS, single)(arrays["x"][:, :1]).shape == (2, 1, 7, 6)


def test_chebykan_index_buffer_is_ignored():
    state, config, arrays = example(CHEBY)
    assert_reproduces(load_peer(CHEBY, {"cheby_coeffs": state["cheby_coeffs"]}, **config), arrays)


def fast_kan_spline(state: dict[str, Tensor], x: Tensor, width: float) -> Tensor:
    bumps = torch.exp(-(((x.unsqueeze(-1) - state["rbf.grid"]) / width) ** 2))
    return bumps.flatten(-2) @ state["spline_linear.weight"].T


def test_fast_kan_without_norm_is_a_single_layer():
    state, config, arrays = example(FAST)
    state = {k: v for k, v in state.items() if not k.startswith("layernorm")}
    x = arrays["x"]
    base = F.linear(F.silu(x), state["base_linear.weight"], state["base_linear.bias"])
    for arguments in (config | {"use_layernorm": False}, {}):
        layer = load_peer(FAST, state, **arguments)
        assert isinstance(layer, KANLinear)
        assert_agree(layer(x), fast_kan_spline(state, x, 4 / 7) + base)


@pytest.mark.parametrize("norm", [True, False])
def test_fast_kan_without_base_has_no_bias(norm):
    state, _, arrays = example(FAST)
    dropped = ("base_linear",) if norm else ("base_linear", "layernorm")
    state = {k: v for k, v in state.items() if not k.startswith(dropped)}
    model, x = load_peer(FAST, state, use_base_update=False), arrays["x"]
    u = F.layer_norm(x, (7,), state["layernorm.weight"], state["layernorm.bias"]) if norm else x
    assert_agree(model(x), fast_kan_spline(state, u, 4 / 7))
    assert not any(name.startswith("base") or name == "bias" for name, _ in model.named_parameters())


@pytest.mark.parametrize("arguments", [{"grid_min": -1.2, "grid_max": 3.1}, {}])
def test_fast_kan_with_even_centres_has_the_ordinary_basis(arguments):
    state, _, arrays = example(FAST)
    state["rbf.grid"] = torch.linspace(-1.2, 3.1, 8, dtype=torch.float64)
    model, x = load_peer(FAST, state, **arguments), arrays["x"]
    assert isinstance(model.spline.basis, RBF)
    u = F.layer_norm(x, (7,), state["layernorm.weight"], state["layernorm.bias"])
    assert_agree(model.spline(u), fast_kan_spline(state, u, 4.3 / 7))


def test_fast_kan_in_float32_keeps_its_rounded_centres_in_float64():
    state, _, arrays = example(FAST)
    state["rbf.grid"] = torch.linspace(-1.2, 3.1, 8).double()
    model, x = load_peer(FAST, state, grid_min=-1.2, grid_max=3.1), arrays["x"]
    u = F.layer_norm(x, (7,), state["layernorm.weight"], state["layernorm.bias"])
    assert_agree(model.spline(u), fast_kan_spline(state, u, 4.3 / 7))


def test_scattered_centres_agree_with_even_ones_and_have_the_right_derivative():
    even, x = RBF(5, (-1.0, 2.0)), torch.linspace(-3, 3, 41, dtype=torch.float64).reshape(-1, 1)
    centers = tuple(even.center_range[0] + even.spacing * n for n in range(5))
    scattered = ScatteredRBF(centers, even.spacing)
    assert_agree(scattered.evaluate(x), even.evaluate(x))
    assert_agree(scattered.derivative(x), even.derivative(x))
    assert scattered.resized(5, None) is scattered
    for sizes in ((6, None), (5, 9)):
        with pytest.raises(ValueError, match="5 fixed centres"):
            scattered.resized(*sizes)
    with pytest.raises(ValueError, match="width must be positive"):
        ScatteredRBF((0.0,), 0.0)
    with pytest.raises(ValueError, match="centers must not be empty"):
        ScatteredRBF((), 1.0)


def test_pykan_zero_and_identity_are_bases():
    state, config, arrays = example(PYKAN)
    zero = load_peer(PYKAN, state, **config | {"base_fun": "Zero"})
    assert zero.base_weight is None
    linear = arrays["x"] @ (state["mask"] * state["scale_base"])
    for identity in ("identity", nn.Identity, nn.Identity()):
        layer = load_peer(PYKAN, state, **config | {"base_fun": identity})
        assert_agree(layer(arrays["x"]) - zero(arrays["x"]), linear, factor=10)


def test_pykan_mask_multiplies_the_edge():
    state, config, arrays = example(PYKAN)
    state["mask"] = torch.zeros_like(state["mask"])
    state["mask"][2, 3] = 0.5
    y = load_peer(PYKAN, state, **config)(arrays["x"])
    assert y[:, 3].any()
    assert not y[:, [0, 1, 2, 4]].any()
    state["mask"][2, 3] = 1
    assert_agree(2 * y, load_peer(PYKAN, state, **config)(arrays["x"]))


# Activations.


@pytest.mark.parametrize("spelling", ["SiLU", "silu", "SILU", nn.SiLU, nn.SiLU(), F.silu])
@pytest.mark.parametrize("source", [s for s in SOURCES if s != CHEBY])
def test_activations_may_be_class_module_function_or_name(source, spelling):
    state, config, arrays = example(source)
    argument = "base_fun" if source == PYKAN else "base_activation"
    assert_reproduces(load_peer(source, state, **config | {argument: spelling}), arrays)


def test_every_activation_of_ours_is_recognised_in_every_spelling():
    x = torch.linspace(-3, 3, 101, dtype=torch.float64)
    assert set(ACTIVATION_MODULES.values()) == set(ACTIVATIONS)
    for module, name in ACTIVATION_MODULES.items():
        for spelling in (module, module(), module.__name__, name.upper()):
            assert activation_name("base_activation", spelling) == name
        assert_agree(module()(x), ACTIVATIONS[name].value(x))
    for function, name in ACTIVATION_FUNCTIONS.items():
        assert activation_name("base_activation", function) == name
        assert_agree(function(x), ACTIVATIONS[name].value(x))


class LouderSiLU(nn.SiLU):
    pass


@pytest.mark.parametrize("activation", ["swash", "", nn.ELU, nn.ELU(), LouderSiLU, LouderSiLU(), torch.sin, int])
def test_unknown_activations_are_refused_with_the_names_there_are(activation):
    state, config, _ = example(LINEAR)
    with pytest.raises(ValueError, match=r"base_activation must be one of .*gelu.*silu.*got"):
        load_peer(LINEAR, state, **config | {"base_activation": activation})


@pytest.mark.parametrize(
    "activation", [nn.GELU(approximate="tanh"), nn.Softplus(beta=2), nn.SiLU(inplace=True), nn.ReLU(True)]
)
def test_activations_with_settings_of_their_own_are_refused(activation):
    state, config, _ = example(LINEAR)
    with pytest.raises(ValueError, match="base_activation must have the default settings"):
        load_peer(LINEAR, state, **config | {"base_activation": activation})


@pytest.mark.parametrize("activation", [None, 3, ["silu"]])
def test_activations_of_other_types_are_refused(activation):
    state, config, _ = example(LINEAR)
    with pytest.raises(TypeError, match="base_activation must be a class, module, function or name"):
        load_peer(LINEAR, state, **config | {"base_activation": activation})


# Refusals.


@pytest.mark.parametrize("source", ["efficient-kan", "pykan kanlayer", "", None, ["pykan KANLayer"]])
def test_unknown_source_is_refused_with_the_names_there_are(source):
    with pytest.raises(ValueError, match=r"source must be one of 'efficient-kan KANLinear', .*; got"):
        load_peer(source, {})


def test_state_that_is_no_mapping_is_refused():
    with pytest.raises(TypeError, match=r"state_dict must be a mapping.*list"):
        load_peer(LINEAR, [])


@pytest.mark.parametrize("source", SOURCES)
def test_unknown_argument_is_refused_with_the_names_there_are(source):
    state, config, _ = example(source)
    known = next(iter(config))
    with pytest.raises(TypeError, match=rf"config of '{source}' must be among .*{known}.*got also width"):
        load_peer(source, state, **config, width=3)


@pytest.mark.parametrize(("source", "argument", "value"), CONTRADICTIONS)
def test_argument_that_contradicts_the_state_is_refused(source, argument, value):
    state, config, _ = example(source)
    with pytest.raises(ValueError, match=f"{argument}.* must .*got"):
        load_peer(source, state, **config | {argument: value})


REQUIRED = [
    (source, key)
    for source in SOURCES
    for key in example(source)[0]
    if key != "arange" and (source == KERNELS or not key.endswith("spline_scaler"))
    if source != KERNELS or key in ("convs.3.conv.grid", "convs.11.conv.base_weight")
]


@pytest.mark.parametrize(("source", "key"), REQUIRED)
def test_missing_key_is_refused(source, key):
    state, config, _ = example(source)
    del state[key]
    with pytest.raises(ValueError, match=f"state_dict must have the keys .*missing are .*{key}"):
        load_peer(source, state, **config)


@pytest.mark.parametrize("source", SOURCES)
def test_unexpected_key_is_refused(source):
    state, config, _ = example(source)
    state["momentum"] = torch.zeros(3)
    with pytest.raises(ValueError, match=r"state_dict must have only the keys .*; got also momentum"):
        load_peer(source, state, **config)


@pytest.mark.parametrize("source", SOURCES)
def test_empty_state_is_refused(source):
    with pytest.raises(ValueError, match="missing are"):
        load_peer(source, {})


@pytest.mark.parametrize(("argument", "key"), [("use_layernorm", "layernorm"), ("use_base_update", "base_linear")])
def test_fast_kan_branch_that_contradicts_the_state_is_refused(argument, key):
    state, config, _ = example(FAST)
    with pytest.raises(ValueError, match=f"got also {key}.weight, {key}.bias"):
        load_peer(FAST, state, **config | {argument: False})
    state = {k: v for k, v in state.items() if not k.startswith(key)}
    with pytest.raises(ValueError, match=f"missing are {key}.weight, {key}.bias"):
        load_peer(FAST, state, **config | {argument: True})


@pytest.mark.parametrize(("source", "key"), REQUIRED)
def test_tensor_that_is_not_finite_is_refused(source, key):
    for value in (torch.nan, torch.inf):
        state, config, _ = example(source)
        state[key].view(-1)[-1] = value
        with pytest.raises(ValueError, match=f"{key} must be finite, got 1 "):
            load_peer(source, state, **config)


@pytest.mark.parametrize(("source", "key"), REQUIRED)
def test_tensor_of_another_shape_is_refused(source, key):
    state, config, _ = example(source)
    tensor = state[key]
    for wrong in (tensor.unsqueeze(0), tensor[..., :0], tensor.flatten()[0]):
        with pytest.raises(ValueError, match=f"{key} must have the dimensions"):
            load_peer(source, state | {key: wrong}, **config)
    with pytest.raises(ValueError, match="must"):
        load_peer(source, state | {key: torch.cat([tensor, tensor[:1]])}, **config)


@pytest.mark.parametrize("value", [torch.ones(5, 7, dtype=torch.int64), [1.0], None])
def test_value_that_is_no_floating_point_tensor_is_refused(value):
    state, config, _ = example(LINEAR)
    with pytest.raises(TypeError, match="base_weight must be a floating point tensor"):
        load_peer(LINEAR, state | {"base_weight": value}, **config)


def test_state_on_several_devices_is_refused():
    state, _, _ = example(LINEAR)

    class Elsewhere(torch.Tensor):
        device = torch.device("cuda", 1)

    state["grid"] = state["grid"].as_subclass(Elsewhere)
    with pytest.raises(ValueError, match="state_dict must lie on one device, got"):
        load_peer(LINEAR, state)


def test_network_whose_layers_do_not_fit_is_refused():
    state, _, _ = example(NETWORK)
    state = state | {k: v[:, :5] for k, v in state.items() if k.startswith("layers.1.") and "grid" not in k}
    with pytest.raises(ValueError, match=r"layers\.1\.base_weight must have the dimensions .*width1 = 6"):
        load_peer(NETWORK, state)


def test_grid_that_differs_between_taps_is_refused():
    state, config, _ = vectors("convkan_grouped")
    source = config.pop("source")
    state["kan_layer.grid"][1, 17] += 1e-9
    with pytest.raises(ValueError, match=r"kan_layer.grid\[1, 17\] must equal kan_layer.grid\[1, 15\].*; got \["):
        load_peer(source, state, **config)
    state, config, _ = example(KERNELS)
    state["convs.5.conv.grid"][7] += 1e-9
    with pytest.raises(ValueError, match=r"convs.5.conv.grid\[7\] must equal convs.2.conv.grid\[0\].*; got \["):
        load_peer(KERNELS, state, **config)


def test_grid_that_differs_between_output_kernels_is_refused():
    state, config, _ = example(KERNELS)
    state["convs.7.conv.grid"] *= 1.5
    with pytest.raises(ValueError, match=r"convs.7.conv.grid\[0\] must equal convs.1.conv.grid\[0\]"):
        load_peer(KERNELS, state, **config)


def test_grids_may_differ_between_input_channels():
    state, config, arrays = example(KERNELS)
    for out in range(4):
        state[f"convs.{3 * out + 1}.conv.grid"] *= 1.5
    layer = load_peer(KERNELS, state, **config)
    assert torch.equal(layer.grid[1], 1.5 * layer.grid[0])
    alone = {f"convs.{o}.conv.{k}": state[f"convs.{3 * o + 1}.conv.{k}"] for o in range(4) for k in LAYER_KEYS}
    isolated = torch.zeros_like(arrays["x"])
    isolated[:, 1] = arrays["x"][:, 1]
    single = load_peer(KERNELS, alone, in_channels=1)
    difference = layer(isolated) - layer(torch.zeros_like(isolated))
    expected = single(isolated[:, 1:2]) - single(torch.zeros_like(isolated[:, 1:2]))
    assert_agree(difference, expected, factor=10)


def test_kernels_that_are_not_square_are_refused():
    state, config, _ = example(KERNELS)
    with pytest.raises(ValueError, match=r"kernel_size must be square.*\(1, 9\)"):
        load_peer(KERNELS, state, **config | {"kernel_size": (1, 9)})


def test_convkan_from_before_groups_is_refused():
    state, config, _ = example(CONV)
    old = {key: tensor[0] for key, tensor in state.items()}
    with pytest.raises(ValueError, match=r"base_weight must have the dimensions \(groups, out, inputs\)"):
        load_peer(CONV, old, **config)


@pytest.mark.parametrize(("source", "key"), [(LINEAR, "grid"), (PYKAN, "grid"), (CONV, "kan_layer.grid")])
def test_knots_that_coincide_or_decrease_are_refused(source, key):
    for step in (0.0, -0.1):
        state, config, _ = example(source)
        state[key][..., 4] = state[key][..., 3] + step
        with pytest.raises(ValueError, match=f"{key} must strictly increase along each channel, got"):
            load_peer(source, state, **config)


def test_order_zero_is_refused():
    state = {"base_weight": torch.ones(1, 1), "spline_weight": torch.ones(1, 1, 3)}
    with pytest.raises(ValueError, match=r"grid must have grid_size.* got 4 knots for 3 functions"):
        load_peer(LINEAR, state | {"grid": torch.arange(4.0).unsqueeze(0)})


def test_centres_that_have_no_width_are_refused():
    state = {"rbf.grid": torch.zeros(1), "spline_linear.weight": torch.ones(3, 2)}
    with pytest.raises(ValueError, match=r"rbf.grid must hold at least two centres"):
        load_peer(FAST, state)
    state, config, _ = example(FAST)
    with pytest.raises(ValueError, match=r"\(grid_min, grid_max\) must be finite with low < high"):
        load_peer(FAST, state, **config | {"grid_min": 2.0})


def test_planes_that_the_centres_do_not_divide_are_refused():
    state, config, _ = example(FAST)
    state["spline_linear.weight"] = state["spline_linear.weight"][:, :-1]
    with pytest.raises(ValueError, match=r"spline_linear.weight must have 8 columns for each input.*55"):
        load_peer(FAST, state, **config)


@pytest.mark.parametrize(
    ("argument", "value", "error"),
    [
        ("padding_mode", "mirror", ValueError),
        ("padding", "full", ValueError),
        ("stride", 0, ValueError),
        ("dilation", (1, 2, 3), TypeError),
        ("kernel_size", "3", TypeError),
    ],
)
def test_geometry_that_no_convolution_has_is_refused(argument, value, error):
    state, config, _ = example(CONV)
    with pytest.raises(error, match=f"{argument} must"):
        load_peer(CONV, state, **config | {argument: value})
    if argument != "padding_mode":
        state, config, _ = example(KERNELS)
        with pytest.raises((ValueError, TypeError), match=f"{argument} must"):
            load_peer(KERNELS, state, **config | {argument: value})


def test_layer_of_a_model_is_picked_out_by_its_prefix():
    state = {"cheby_coeffs": torch.randn(4, 3, 6)}
    within = {"layers.0.norm.weight": torch.ones(4)} | {f"layers.1.{name}": value for name, value in state.items()}
    sizes = {"input_dim": 4, "output_dim": 3, "degree": 5}
    layer = load_peer("ChebyKAN ChebyKANLayer", within, prefix="layers.1.", **sizes)
    x = torch.randn(2, 4)
    assert torch.equal(layer(x), load_peer("ChebyKAN ChebyKANLayer", state, **sizes)(x))
    with pytest.raises(
        ValueError, match=r"prefix must begin some key of the state, got 'head.' for layers.0.norm.weight,"
    ):
        load_peer("ChebyKAN ChebyKANLayer", within, prefix="head.", **sizes)
