"""torch-conv-kan's layers, defined once more: the same function here, or a refusal that says why."""

import math

import pytest
import torch
import torch.nn.functional as F
from oracle import scipy_bsplines
from scipy.special import eval_jacobi
from torch import nn

from convkan.basis import Morlet, ReLUKAN
from convkan.interop import (
    SOURCES,
    ActivatedGram,
    FeaturePadded,
    OneWavelet,
    ScatteredReLU,
    TwoBranches,
    load_peer,
    simplify,
)
from convkan.interpret import fix
from convkan.nn import KANConv2d
from convkan.testing import assert_agree, check_basis

CONVS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
F64 = torch.float64


def name(source):
    return f"torch-conv-kan {source}ConvNDLayer"


class Peer:
    """A layer of theirs: random weights under their keys, and the function by its definition, group by group."""

    def __init__(self, dims=2, inputs=4, outputs=6, kernel=3, groups=1, stride=1, padding=0, dilation=1):
        self.window = {"stride": stride, "padding": padding, "dilation": dilation}
        self.dims, self.groups, self.inputs, self.outputs = dims, groups, inputs // groups, outputs // groups
        self.kernel = (kernel,) * dims
        self.config = {
            **self.window,
            "groups": groups,
            "input_dim": inputs,
            "output_dim": outputs,
            "kernel_size": kernel,
        }
        self.state = {}

    def draw(self, key, *shape):
        self.state[key] = torch.randn(shape, dtype=F64) / math.sqrt(max(1, math.prod(shape[1:])))

    def lists(self, **planes):
        """Module lists of convolutions, of so many planes."""
        for key, count in planes.items():
            for g in range(self.groups):
                self.draw(f"{key}.{g}.weight", self.outputs, count * self.inputs, *self.kernel)
        return self

    def conv(self, planes, weight):
        return CONVS[self.dims](planes, weight, **self.window)

    def grouped(self, x, compute):
        return torch.cat([compute(g, part) for g, part in enumerate(x.split(self.inputs, dim=1))], dim=1)


def channel_major(x, functions):
    return torch.stack(functions, dim=2).flatten(1, 2)


def instance_norm(y):
    space = tuple(range(2, y.ndim))
    return (y - y.mean(space, keepdim=True)) / (y.var(space, unbiased=False, keepdim=True) + 1e-5).sqrt()


def kan(**sizes):
    peer = Peer(**sizes).lists(base_conv=1, spline_conv=4 + 2)
    for g in range(peer.groups):
        peer.state[f"prelus.{g}.weight"] = torch.rand(1, dtype=F64)
    knots = -2 + torch.arange(9, dtype=F64) * 0.75 - 1.5
    peer.config |= {"grid_size": 4, "spline_order": 2, "grid_range": (-2, 1)}

    def group(g, x):
        splines = torch.tensor(scipy_bsplines(x.detach().numpy(), knots.numpy(), 2)).unbind(-1)
        y = peer.conv(F.gelu(x), peer.state[f"base_conv.{g}.weight"])
        y = y + peer.conv(channel_major(x, splines), peer.state[f"spline_conv.{g}.weight"])
        y = instance_norm(y)
        return torch.where(y > 0, y, peer.state[f"prelus.{g}.weight"] * y)

    return peer, group


def fast(**sizes):
    peer = Peer(**sizes).lists(base_conv=1, spline_conv=5)
    peer.state["rbf.grid"] = torch.linspace(-2, 2, 5, dtype=F64)
    peer.config |= {"grid_size": 5}

    def group(g, x):
        bumps = [torch.exp(-((instance_norm(x) - c) ** 2)) for c in (-2, -1, 0, 1, 2)]
        y = peer.conv(F.silu(x), peer.state[f"base_conv.{g}.weight"])
        return y + peer.conv(channel_major(x, bumps), peer.state[f"spline_conv.{g}.weight"])

    return peer, group


def gram_functions(peer, x):
    """SiLU of their polynomials, by the recurrence with what it learned."""
    t = x.tanh()
    values = [torch.ones_like(t), t]
    for m in range(2, peer.config["degree"] + 1):
        n = m - 1
        beta = ((m + n) * (m - n) * n**2) / (m**2 / (4 * n**2 - 1)) * peer.state["beta_weights"][n]
        values.append(t * values[-1] - beta * values[-2])
    return F.silu(torch.cat(values, dim=1))


def gram(**sizes):
    peer = Peer(**sizes).lists(base_conv=1)
    peer.config |= {"degree": 3}
    peer.draw("poly_weights", peer.groups, peer.outputs, 4 * peer.inputs, *peer.kernel)
    peer.state["beta_weights"] = 0.1 * torch.randn(4, dtype=F64)

    def group(g, x):
        y = peer.conv(F.silu(x), peer.state[f"base_conv.{g}.weight"])
        return F.silu(instance_norm(y + peer.conv(gram_functions(peer, x), peer.state["poly_weights"][g])))

    return peer, group


def gram_v2(**sizes):
    peer, _ = gram(**{**sizes, "groups": 1})
    theirs = dict(peer.state)
    peer.state = theirs | {
        "base_conv.weight": theirs["base_conv.0.weight"],
        "poly_conv.weight": theirs["poly_weights"][0],
    }

    def alike(g, x):
        y = peer.conv(F.silu(x), peer.state["base_conv.weight"])
        return F.silu(instance_norm(y + peer.conv(gram_functions(peer, x), peer.state["poly_conv.weight"])))

    del peer.state["base_conv.0.weight"], peer.state["poly_weights"]
    return peer, alike


def bottleneck(**sizes):
    peer = Peer(**sizes).lists(base_conv=1)
    peer.config |= {"degree": 2, "dim_reduction": 4}
    ones = (1,) * peer.dims
    for g in range(peer.groups):
        peer.draw(f"inner_proj.{g}.weight", 3, peer.inputs, *ones)
        peer.draw(f"out_proj.{g}.weight", peer.outputs, 3, *ones)
    peer.draw("poly_weights", peer.groups, 3, 3 * 3, *peer.kernel)
    peer.state["beta_weights"] = 0.1 * torch.randn(3, dtype=F64)

    def group(g, x):
        inner = CONVS[peer.dims](x, peer.state[f"inner_proj.{g}.weight"])
        y = peer.conv(gram_functions(peer, inner), peer.state["poly_weights"][g])
        y = CONVS[peer.dims](y, peer.state[f"out_proj.{g}.weight"])
        return F.silu(instance_norm(y + peer.conv(F.silu(x), peer.state[f"base_conv.{g}.weight"])))

    return peer, group


def chebyshev(**sizes):
    peer = Peer(**sizes).lists(poly_conv=4)
    peer.state["arange"] = torch.arange(4).view(1, 1, -1, *(1,) * peer.dims)
    peer.config |= {"degree": 3}

    def group(g, x):
        angle = x.tanh().clamp(-1 + 1e-7, 1 - 1e-7).acos()
        functions = [(n * angle).cos() for n in range(4)]
        return instance_norm(peer.conv(channel_major(x, functions), peer.state[f"poly_conv.{g}.weight"]))

    return peer, group


def bernstein(**sizes):
    peer = Peer(**sizes).lists(base_conv=1)
    peer.draw("poly_weights", peer.groups, peer.outputs, 4 * peer.inputs, *peer.kernel)
    peer.config |= {"degree": 3}

    def group(g, x):
        s = x.sigmoid()
        values = [torch.ones_like(s) for _ in range(4)]
        for j in range(1, 4):
            for k in range(4 - j):
                values[k] = values[k] * (1 - s) + values[k + 1] * s
        y = peer.conv(x, peer.state[f"base_conv.{g}.weight"])
        return F.silu(instance_norm(y + peer.conv(channel_major(x, values), peer.state["poly_weights"][g])))

    return peer, group


def jacobi(**sizes):
    peer = Peer(**sizes).lists(base_conv=1)
    peer.draw("poly_weights", peer.groups, peer.outputs, 4 * peer.inputs, *peer.kernel)
    peer.config |= {"degree": 3, "a": 0.5, "b": 1.0}

    def group(g, x):
        values = [torch.tensor(eval_jacobi(n, 0.5, 1.0, x.detach().tanh().numpy())) for n in range(4)]
        y = peer.conv(x, peer.state[f"base_conv.{g}.weight"])
        return F.silu(instance_norm(y + peer.conv(torch.cat(values, dim=1), peer.state["poly_weights"][g])))

    return peer, group


def relu_kan(**sizes):
    peer = Peer(**sizes).lists(base_conv=1, relukan_conv=3 + 2)
    peer.config |= {"g": 3, "k": 2, "train_ab": True}
    shape = (1, peer.inputs, 5, *(1,) * peer.dims)
    low = (torch.arange(-2, 3, dtype=F64) / 3).view(1, 1, 5, *(1,) * peer.dims).expand(shape).clone()
    peer.state |= {"phase_low": low, "phase_high": low + 1}

    def group(g, x):
        wide = x.unsqueeze(2)
        bumps = (wide - peer.state["phase_low"]).relu() * (peer.state["phase_high"] - wide).relu() * 4 * 9 / 9
        y = peer.conv(F.silu(x), peer.state[f"base_conv.{g}.weight"])
        y = y + peer.conv((bumps * bumps).flatten(1, 2), peer.state[f"relukan_conv.{g}.weight"])
        return F.silu(instance_norm(y))

    return peer, group


def mother(kind, u):
    gauss = torch.exp(-u * u / 2)
    hat = 2 / (math.sqrt(3) * math.pi**0.25) * (u * u - 1)
    return {"mexican_hat": hat, "morlet": torch.cos(5 * u), "dog": -u}[kind] * gauss


def wavelet(kind="mexican_hat", version="fast", **sizes):
    peer = Peer(**sizes).lists(base_conv=1)
    peer.config |= {"wavelet_type": kind, "wav_version": version}
    ones = (1,) * peer.dims
    edges = {}
    for g in range(peer.groups):
        prefix = f"wavelet_conv.{g}."
        peer.state[f"{prefix}scale"] = torch.full((1, peer.outputs, peer.inputs, *ones), 1.5, dtype=F64)
        peer.state[f"{prefix}translation"] = torch.full((1, peer.outputs, peer.inputs, *ones), 0.25, dtype=F64)
        peer.draw(f"{prefix}wavelet_out.weight", peer.outputs, peer.outputs, *ones)
        edges[g] = torch.randn(peer.outputs, peer.inputs, *peer.kernel, dtype=F64) / 5
        match version:
            case "fast":
                peer.state[f"{prefix}wavelet_weights.weight"] = edges[g]
            case "fast_plus_one":
                peer.state[f"{prefix}wavelet_weights.weight"] = edges[g].unsqueeze(1)
            case "base":
                peer.state |= {f"{prefix}wavelet_weights.{o}.weight": edges[g][o : o + 1] for o in range(peer.outputs)}
        norm = f"layer_norm.{g}."
        peer.state |= {f"{norm}{key}": torch.rand(peer.outputs, dtype=F64) + 0.5 for key in ("weight", "running_var")}
        peer.state |= {f"{norm}{key}": torch.randn(peer.outputs, dtype=F64) for key in ("bias", "running_mean")}
        peer.state[f"{norm}num_batches_tracked"] = torch.tensor(7)

    def group(g, x):
        summed = peer.conv(mother(kind, (x - 0.25) / 1.5), edges[g])
        y = CONVS[peer.dims](summed, peer.state[f"wavelet_conv.{g}.wavelet_out.weight"])
        y = y + peer.conv(F.silu(x), peer.state[f"base_conv.{g}.weight"])
        norm = [peer.state[f"layer_norm.{g}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(y, *norm)

    return peer, group


PEERS = {
    name("KAN"): kan,
    name("FastKAN"): fast,
    name("KAGN"): gram,
    name("KAGN") + "V2": gram_v2,
    name("BottleNeckKAGN"): bottleneck,
    name("KACN"): chebyshev,
    name("KABN"): bernstein,
    name("KAJN"): jacobi,
    name("ReLUKAN"): relu_kan,
    name("WavKAN"): wavelet,
}
SHAPES = {
    "plain": {},
    "grouped": {"groups": 2, "padding": 1, "stride": 2},
    "1d": {"dims": 1, "kernel": 2, "padding": 2, "dilation": 2},
    "3d": {"dims": 3, "inputs": 2, "outputs": 2, "kernel": 2, "padding": 1},
}
every_peer = pytest.mark.parametrize("source", PEERS)


def image(peer):
    return torch.randn(2, peer.inputs * peer.groups, *(6, 5, 4)[: peer.dims], dtype=F64)


def test_every_source_is_loaded_or_refused():
    assert {source for source in SOURCES if "torch-conv-kan" in source} == {*PEERS, name("KALN")}


@every_peer
@pytest.mark.parametrize("sizes", SHAPES.values(), ids=SHAPES)
def test_computes_what_theirs_is_defined_to(source, sizes):
    peer, group = PEERS[source](**sizes)
    model = load_peer(source, peer.state, **peer.config, dropout=0.3).eval()
    x = image(peer)
    assert_agree(model(x), peer.grouped(x, group), factor=1e3 if source == name("KACN") else 10)


@every_peer
def test_what_is_loaded_trains_and_owns_its_tensors(source):
    peer, _ = PEERS[source](padding=1)
    single = {key: value.float() if value.is_floating_point() else value for key, value in peer.state.items()}
    before = {key: value.clone() for key, value in single.items()}
    model = load_peer(source, single, **{key: peer.config[key] for key in ("padding",)}, **needed(source, peer))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    model(image(peer).float()).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor.zero_()
    assert all(torch.equal(single[key], before[key]) for key in single)
    loaded = load_peer(source, before, **peer.config)
    model.load_state_dict(loaded.state_dict())
    x = image(peer).float()
    assert torch.equal(model.eval()(x), loaded.eval()(x))


def needed(source, peer):
    """The arguments that no state tells."""
    keys = {name("KAN"): ("spline_order", "grid_range"), name("ReLUKAN"): ("g", "k"), name("KAJN"): ("a", "b")}
    return {key: peer.config[key] for key in keys.get(source, ())}


@pytest.mark.parametrize("kind", ["mexican_hat", "morlet", "dog"])
@pytest.mark.parametrize("version", ["base", "fast", "fast_plus_one"])
def test_wavelets_are_read_in_all_versions(kind, version):
    peer, group = wavelet(kind, version, groups=2)
    model = load_peer(name("WavKAN"), peer.state, **peer.config).eval()
    assert model[1].num_batches_tracked == 7
    x = image(peer)
    assert_agree(model(x), peer.grouped(x, group), factor=10)


def test_phases_that_learned_for_all_channels_alike_are_kept():
    peer, group = relu_kan()
    assert load_peer(name("ReLUKAN"), peer.state, **peer.config)[0].layer.basis == ReLUKAN(3, 2, (0, 1))
    peer.state["phase_low"][:, :, 1] -= 0.1
    x = image(peer)
    assert_agree(load_peer(name("ReLUKAN"), peer.state, **peer.config)(x), peer.grouped(x, group), factor=10)


def test_a_norm_that_learns_is_in_the_state():
    peer, _ = jacobi(groups=2)
    for g in range(2):
        peer.state |= {f"layer_norm.{g}.{key}": torch.rand(3, dtype=F64) for key in ("weight", "bias")}
    config = {**peer.config, "norm_layer": nn.InstanceNorm2d, "affine": True, "eps": 0.5}
    norm = load_peer(name("KAJN"), peer.state, **config)[1]
    assert (norm.eps, norm.affine) == (0.5, True)
    assert torch.equal(norm.bias, torch.cat([peer.state[f"layer_norm.{g}.bias"] for g in range(2)]))


@pytest.mark.parametrize(
    ("source", "build", "channels", "classes"),
    [
        (name("KAN"), kan, 3, [nn.InstanceNorm2d]),
        (name("FastKAN"), fast, 2, [nn.InstanceNorm2d, nn.BatchNorm2d]),
        (name("KAGN"), gram, 3, [nn.InstanceNorm2d, nn.BatchNorm2d]),
    ],
)
def test_running_statistics_are_those_of_the_norm_that_is_named(source, build, channels, classes):
    peer, _ = build(groups=2)
    for g in range(2):
        theirs = nn.BatchNorm2d(channels, dtype=F64)  # of an instance norm that learns and tracks, too
        theirs.running_mean += torch.randn(channels)
        peer.state |= {f"layer_norm.{g}.{key}": value for key, value in theirs.state_dict().items()}
    for kind in classes:
        given = {} if len(classes) == 1 else {"norm_layer": kind}
        model = load_peer(source, peer.state, **peer.config, **given, eps=0.5, affine=True, track_running_stats=True)
        (norm,) = (module for module in model.modules() if isinstance(module, nn.InstanceNorm2d | nn.BatchNorm2d))
        assert (type(norm), norm.eps, norm.affine) == (kind, 0.5, True)
        assert torch.equal(norm.running_mean, torch.cat([peer.state[f"layer_norm.{g}.running_mean"] for g in range(2)]))
        assert model(image(peer)).isfinite().all()
    if len(classes) > 1:
        with pytest.raises(ValueError, match="norm_layer must be given: the state has running statistics, which Batch"):
            load_peer(source, peer.state, **peer.config)


@pytest.mark.parametrize(
    "basis",
    [ActivatedGram((0.2, -0.1, 0.3)), ScatteredReLU((-1.0, 0.2), (0.5, 3.0), 0.7), OneWavelet(Morlet(), 1.5, 0.2)],
    ids=repr,
)
def test_bases_of_checkpoints_obey_the_laws(basis):
    check_basis(basis, layers=False)


def test_features_of_the_padding_are_zero():
    layer = FeaturePadded(KANConv2d(2, 4, 3, 2, (1, 2), groups=2, base_activation="sigmoid", dtype=F64))
    inner = layer.layer
    x = torch.randn(2, 2, 5, 4, dtype=F64)
    y = 0
    knots = inner.grid[0].numpy()
    features = torch.tensor(scipy_bsplines(x.numpy(), knots, 3)).movedim(-1, 2)  # (batch, channels, K, height, width)
    for k in range(inner.basis.num_functions):
        y = y + F.conv2d(features[:, :, k], inner.coefficients[:, :, k], None, 2, (1, 2), 1, 2)
    assert_agree(layer(x), y + F.conv2d(x.sigmoid(), inner.base_weight, None, 2, (1, 2), 1, 2))
    with pytest.raises(ValueError, match="layer must be padded by numbers of zeros, got 'same'"):
        FeaturePadded(KANConv2d(1, 1, 3, padding="same"))


def test_named_and_masked_edges_count_at_the_padding_too():
    layer, bare = (KANConv2d(2, 4, 3, padding=amount, groups=2, dtype=F64) for amount in (3, 0))
    fix(layer, (1, 0, 0, 0), "cos", (1.0, 0.5, 2.0, 3.0))
    fix(layer, (3, 0, 2, 1), "exp", (2.0, 0.0, -1.0, 0.0))
    alive = torch.ones(layer.edge_shape, dtype=torch.bool)
    alive[0, 0, 0, 0] = False
    layer.mask_edges(alive)
    bare.load_state_dict(layer.state_dict())
    padded = FeaturePadded(layer)
    values = padded.at_zero()
    assert_agree(values[1, 0, 0, 0], torch.tensor(2 * math.cos(0.5) + 3, dtype=F64))
    assert (values[0, 0, 0, 0], values[3, 0, 2, 1]) == (0, -1)
    y = padded(torch.zeros(1, 2, 1, 1, dtype=F64))  # around the 3×3 positions that see the pixel, all see padding
    assert_agree(y[..., 1:4, 1:4].sum((2, 3)), bare(torch.zeros(1, 2, 3, 3, dtype=F64)).flatten(1))
    assert_agree(F.pad(y[..., 1:4, 1:4], (1, 1, 1, 1)), y)
    y.square().sum().backward()
    assert not layer.base_weight.grad[0, 0, 0, 0]
    assert not layer.basis_weight.grad[0, :, 0, 0].any()
    assert layer.symbolic.affine.grad[:, 1:].all()


@pytest.mark.parametrize(
    ("source", "build", "key"),
    [
        (name("KAGN"), gram, "beta_weights"),
        (name("BottleNeckKAGN"), bottleneck, "beta_weights"),
        (name("ReLUKAN"), relu_kan, "phase_low"),
        (name("WavKAN"), wavelet, "wavelet_conv.0.scale"),
        (name("FastKAN"), fast, "rbf.grid"),
    ],
)
def test_states_for_other_numbers_of_the_basis_are_refused(source, build, key):
    peer, _ = build()
    states = (peer.state | {key: peer.state[key] + change} for change in (0.05, 0.15))
    one, other = (load_peer(source, state, **peer.config) for state in states)
    before = {key: value for key, value in one.state_dict().items() if not key.endswith("basis_numbers")}
    one.load_state_dict({key: value.half() for key, value in one.state_dict().items()})
    one.load_state_dict(before)  # as states were before they had the numbers
    with pytest.raises(RuntimeError, match=r"basis_numbers must be \[.*, with which the functions of this layer were"):
        one.load_state_dict(other.state_dict())


def test_feature_padding_is_a_leaf_and_takes_single_images():
    layer = FeaturePadded(KANConv2d(2, 3, 3, padding=(1, 2), stride=2))
    x = torch.randn(2, 2, 6, 5)
    assert_agree(layer(x[0]), layer(x)[0])
    for model in (layer, nn.Sequential(layer, nn.ReLU())):
        traced = torch.fx.symbolic_trace(model)
        assert torch.equal(traced(x), model(x))


@pytest.mark.parametrize(("padding", "becomes"), [(0, nn.Conv2d), (1, KANConv2d)])
def test_simplify_leaves_what_features_are_padded_around(padding, becomes):
    state = {"base_conv.0.weight": torch.randn(4, 2, 3, 3), "poly_weights": torch.randn(1, 4, 8, 3, 3)}
    model, x = load_peer(name("KABN"), state, padding=padding), torch.randn(1, 2, 6, 6)
    found = simplify(model, [x])
    assert type(found.model[0].layer) is becomes
    assert_agree(found.model(x), model(x), factor=100)


def test_two_branches_need_an_activation():
    with pytest.raises(ValueError, match="base_activation must be the name of an activation, got None"):
        TwoBranches(nn.Identity(), nn.Identity(), None)


def changed(build, key, value):
    peer, _ = build()
    peer.state[key] = value(peer.state[key])
    return peer


def spread(tensor):
    tensor = tensor.clone()
    tensor.view(-1)[0] += 0.5
    return tensor


@pytest.mark.parametrize(
    ("source", "make", "config", "message"),
    [
        (name("KALN"), kan, {}, "depends on its neighbours"),
        (name("KAGN") + "V2", gram_v2, {"groups": 2}, "reach the outputs of another"),
        (
            name("ReLUKAN"),
            lambda: (changed(relu_kan, "phase_low", spread), 0),
            {},
            "phase_low must be the same for all",
        ),
        (
            name("WavKAN"),
            lambda: (changed(wavelet, "wavelet_conv.0.scale", spread), 0),
            {},
            "not linear in their scale",
        ),
        (name("WavKAN"), wavelet, {"wavelet_type": "shannon"}, "a window over the channels"),
        (name("WavKAN"), wavelet, {"wav_version": "slow"}, "wav_version must be one of base, fast, fast_plus_one"),
        (name("KAGN"), gram, {"norm_layer": nn.LayerNorm}, "norm_layer must be InstanceNorm2d, BatchNorm2d"),
        (name("KAGN"), gram, {"degree": 4}, "degree must be 3"),
        (name("KAJN"), jacobi, {"groups": 3}, "groups must be 1"),
        (name("KAJN"), jacobi, {"a": -2}, "^a must be finite and greater than -1, got -2"),
        (name("KAJN"), jacobi, {"input_dim": 3}, "input_dim must be 4"),
        (name("KABN"), bernstein, {"kernel_size": 5}, r"kernel_size must be \(3, 3\)"),
        (name("KAN"), kan, {"grid_size": 5}, "grid_size must be 4"),
        (name("KAN"), kan, {"base_activation": "mish"}, "base_activation must be one of"),
        (name("FastKAN"), lambda: (changed(fast, "base_conv.0.weight", lambda w: w[0, 0]), 0), {}, "1 to 3 dimensions"),
    ],
)
def test_what_cannot_be_represented_is_refused_with_the_reason(source, make, config, message):
    peer, _ = make()
    options = {key: value for key, value in (peer.config | config).items() if source != name("KALN") or key == "groups"}
    with pytest.raises(ValueError, match=message):
        load_peer(source, peer.state, **options)
