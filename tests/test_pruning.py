import json
import sys
from copy import deepcopy
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from cases import NARROW, diagonal
from commands import finished
from torch import nn

from convkan import KANConv2d, KANConvTranspose2d, KANLinear, LearnableActivation, LowRankKANConv2d
from convkan.basis import BSpline
from convkan.interpret import (
    channel_graph,
    edges_of,
    importance,
    kan_layers,
    prune_channels,
    prune_edges,
    prune_inputs,
    prune_nodes,
)
from convkan.models import Description, create_model, list_models, load_classifier
from convkan.nn import EdgeLayer, SymbolicEdges
from convkan.ops.transposed import by_output, by_plane
from convkan.testing import randomize
from convkan.training import parameter_groups
from experiments import prune
from experiments.common import cli

KINDS = ("full", "lowrank", "shared", "depthwise", "bottleneck")
SMALL = {"width": 8, "head": "kan", "rank": 2}
IMAGES = (4, 1, 28, 28)
MODELS = {
    "kan_cnn": lambda: create_model("kan_cnn", widths=(4, 6)),
    "kan_cnn-lowrank": lambda: create_model("kan_cnn", widths=(4, 6), rank=2),
    **{f"kan_vgg-{kind}": lambda kind=kind: create_model("kan_vgg", kind=kind, **SMALL) for kind in KINDS},
    **{f"kan_resnet8-{kind}": lambda kind=kind: create_model("kan_resnet8", kind=kind, **SMALL) for kind in KINDS},
    "plain_cnn": lambda: create_model("plain_cnn", widths=(4, 6)),
    "vgg": lambda: create_model("vgg", width=4),
    "resnet8": lambda: create_model("resnet8", width=4),
    "kan_mobilenet": lambda: create_model("kan_mobilenet", width=4, depths=[1, 2]),
    "mobilenet": lambda: create_model("mobilenet", width=4, depths=[1, 2]),
    "kan_resnet18": lambda: create_model("kan_resnet18", width=4),
    **{name: lambda name=name: create_model(name) for name in ("kkan_small", "kanc_mlp_big", "ckan_bn", "cnn_bn")},
}
SHAPES = {
    "dense": (lambda: nn.Sequential(KANLinear(4, 6, bias=True), KANLinear(6, 5), nn.Linear(5, 3)), (30, 4)),
    "grouped": (
        lambda: nn.Sequential(
            KANConv2d(1, 6, 3),
            nn.ReLU(),
            KANConv2d(6, 12, 3, groups=2, bias=True),
            nn.Conv2d(12, 12, 3, padding=1, padding_mode="reflect", groups=4),
            LearnableActivation(12, 2),
            KANConv2d(24, 48, 3, groups=24),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.BatchNorm1d(192),
            KANLinear(192, 3),
        ),
        (4, 1, 12, 12),
    ),
    "transposed": (
        lambda: nn.Sequential(
            KANConvTranspose2d(2, 6, 3, 2, 1, bias=True),
            nn.ReLU(),
            KANConvTranspose2d(6, 12, (2, 3), groups=2, dilation=2),
            nn.ConvTranspose2d(12, 8, 3, padding=1, output_padding=0, groups=4),
            nn.BatchNorm2d(8),
            KANConvTranspose2d(8, 16, 2, 2, groups=8),  # depthwise, two functions a channel
            nn.ConvTranspose2d(16, 6, 2, 3, 0, 1),
            KANConv2d(6, 3, 3),
        ),
        (4, 2, 5, 4),
    ),
}
CASES = {name: (create, IMAGES) for name, create in MODELS.items()} | SHAPES
every_model = pytest.mark.parametrize("name", CASES)


def drawn(name):
    """A model in float64 with random weights and running statistics, in eval mode, and an input."""
    create, shape = CASES[name]
    model = randomize(create().double().eval())
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return model, torch.randn(shape, dtype=torch.float64)


def dense(*widths):
    return nn.Sequential(*(KANLinear(*pair) for pair in pairwise(widths)))


def is_transposed(layer):
    return isinstance(layer, nn.ConvTranspose2d)


def without_edges(model, kept):
    """A copy in which the edges out of, and into, all other channels are masked."""
    model, graph = deepcopy(model), channel_graph(model)
    for step in graph.steps:
        if step.mode != "layer":
            continue
        layer = model.get_submodule(step.name)
        shape = edges_of(layer).shape if isinstance(layer, EdgeLayer) else layer.weight.shape
        if is_transposed(layer):
            shape = by_output(layer.weight, layer.groups).shape
        alive = torch.ones(shape, dtype=torch.bool)
        groups = len(step.sources[0].owner) // shape[1]
        if step.result.space in kept:
            gone = torch.ones(shape[0], dtype=torch.bool)
            gone[step.result.kept(kept[step.result.space])] = False
            alive[gone] = False
        if step.sources[0].space in kept:
            gone = torch.ones(groups * shape[1], dtype=torch.bool)
            gone[step.sources[0].kept(kept[step.sources[0].space])] = False
            alive[gone.view(groups, -1).repeat_interleave(shape[0] // groups, dim=0)] = False
        if isinstance(layer, EdgeLayer):
            layer.mask_edges(alive)
        else:
            layer.weight.data *= by_plane(alive, layer.groups) if is_transposed(layer) else alive
    return model


@every_model
@torch.no_grad()
def test_smaller_model_is_the_masked_one(name, monkeypatch):
    model, x = drawn(name)
    chosen = {}
    cut = prune.prune_channels.__globals__["without"]
    monkeypatch.setitem(
        prune.prune_channels.__globals__,
        "without",
        lambda model, graph, kept: chosen.update(kept) or cut(model, graph, kept),
    )
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    small = prune_channels(model, importance(model, [x]), 0.5)
    expected, whole = without_edges(model, chosen)(x), model(x)
    scale = expected.abs().max()
    assert (small(x) - expected).abs().max() < 1e-9 * scale
    assert (whole - expected).abs().max() > 1e-3 * scale, "nothing was removed"
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
    assert {type(m) for m in small.modules()} == {type(m) for m in model.modules()}
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    graph, narrow = channel_graph(model), channel_graph(small)
    for index, space in graph.spaces.items():
        size = space.channels // space.blocks
        left = size - size // 2 if index in chosen else size
        assert narrow.spaces[index].channels == left * space.blocks


SIDE_BY_SIDE = {"densenet", "kan_densenet", "tiny", "kan_tiny"}  # concatenate channels, some of them split ones


@pytest.mark.parametrize("name", sorted(SIDE_BY_SIDE))
def test_channels_side_by_side_are_refused_by_name(name):
    with pytest.raises(ValueError, match="cannot follow channels through (cat|getitem): it is not known which"):
        channel_graph(create_model(name))


@pytest.mark.parametrize("name", sorted(set(list_models(task="classification")) - SIDE_BY_SIDE))
def test_every_model_can_be_followed(name):
    graph = channel_graph(create_model(name, **NARROW.get(name, {})))
    assert graph.spaces[graph.input].channels == 1
    assert graph.output.owner == tuple(range(10))
    assert len(graph.layers()) >= 3


def test_edges_of_models_that_cannot_be_followed_are_measured_without_following_channels():
    model, x = create_model("kan_unet", width=4), torch.randn(1, 1, 28, 28)
    with pytest.raises(ValueError, match="cannot follow channels through (cat|getitem)"):
        importance(model, [x])
    scores = importance(model, [x], propagate=False)
    assert all(scores[name].edges.shape == layer.edge_shape for name, layer in kan_layers(model).items())
    assert scores["up.0.convolution"].edges.shape[2:] == (2, 2)  # of the plain transposed convolution, too


def test_residual_additions_tie_channels():
    model = create_model("kan_resnet8", width=4)
    graph = channel_graph(model)
    by_name = {step.name: step for step in graph.layers()}
    tied = {by_name[name].result.space for name in ("stem", "blocks.0.units.1.1")}
    assert len(tied) == 1
    assert {step.name for step in graph.consumers(tied.pop())} == {
        "blocks.0.units.0.1",
        "blocks.1.shortcut.1",
        "blocks.1.units.0.1",
    }


class Odd(nn.Module):
    """A model with an operation of choice in the middle."""

    def __init__(self, operation):
        super().__init__()
        self.first, self.last, self.operation = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 2, 3), operation

    def forward(self, x):
        return self.last(self.operation(self.first(x)))


@pytest.mark.parametrize(
    ("operation", "words"),
    [
        (lambda x: torch.cat([x, x], 1), "cat"),
        (lambda x: x.view(1, 4, 5, -1), "view"),
        (lambda x: x * x, "mul: it multiplies channels"),
        (lambda x: x + x.transpose(1, 2), "transpose"),
        (lambda x: x + torch.ones(4, 1, 1), "add: its argument is not a tensor of channels"),
        (lambda x: torch.add(x, x, alpha=2), "add: it scales what it adds"),
        (lambda x: x.mean(1, keepdim=True), "mean: it must be over space"),
        (lambda x: x.flatten(2), "flatten: it must flatten all"),
        (lambda x: x if x.sum() > 0 else -x, "Odd: not traceable"),
    ],
)
def test_what_cannot_be_followed_is_named(operation, words):
    with pytest.raises(ValueError, match="cannot follow channels through ") as refused:
        channel_graph(Odd(operation))
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (nn.Softmax(1), "1 (Softmax)"),
        (nn.Linear(4, 4), "1 (Linear): its input has other dimensions"),
        (nn.BatchNorm2d(3), "1 (BatchNorm2d): it takes 3 features, and is given 4"),
    ],
)
def test_layer_that_cannot_be_followed_is_named(module, words):
    with pytest.raises(ValueError, match="cannot follow") as refused:
        channel_graph(nn.Sequential(nn.Conv2d(1, 4, 3), module))
    assert words in str(refused.value)


def test_layer_called_twice_is_refused():
    layer = KANLinear(3, 3)
    with pytest.raises(ValueError, match="called more than once"):
        channel_graph(nn.Sequential(layer, layer))


def test_channels_normalized_together_are_not_removed():
    model = create_model("kan_vgg", width=8, normalization="group")
    scores = importance(model, [torch.randn(IMAGES)])
    with pytest.raises(ValueError, match="GroupNorm.* normalises them together"):
        prune_channels(model, scores, 0.3)


def edge_alone(layer, output, input_, x):
    """φ of one edge of a dense layer, from a copy that has no other."""
    layer, others = deepcopy(layer), torch.ones(layer.out_features, layer.in_features, dtype=torch.bool)
    others[output, input_] = False
    layer.coefficients.mul_(~others.unsqueeze(2))
    layer.base_weight.mul_(~others)
    return layer(x)[:, output]


@torch.no_grad()
def brute_force(model, x):
    """Edge scores of a dense net, written out."""
    activations = [x]
    for layer in model:
        activations.append(layer(activations[-1]))
    outputs, found = [1.0] * activations[-1].shape[1], []
    for layer, given, made in reversed(list(zip(model, activations, activations[1:], strict=False))):
        edges = torch.zeros(made.shape[1], given.shape[1], dtype=x.dtype)
        for o in range(edges.shape[0]):
            for i in range(edges.shape[1]):
                varying = edge_alone(layer, o, i, given).std(correction=0)
                edges[o, i] = outputs[o] * varying / made[:, o].std(correction=0)
        outputs = edges.sum(0).tolist()
        found.append(edges)
    return found[::-1]


def test_importance_of_a_dense_net_is_that_written_out():
    model = randomize(dense(3, 4, 2).double())
    x = torch.randn(90, 3, dtype=torch.float64)
    scores = importance(model, [x[:20], (x[20:65], None), [x[65:]]])
    for name, expected in zip("01", brute_force(model, x), strict=True):
        torch.testing.assert_close(scores[name].edges, expected)
        torch.testing.assert_close(scores[name].inputs, expected.sum(0))
        assert scores[name].total == pytest.approx(float(expected.sum()))
    torch.testing.assert_close(scores["0"].outputs, scores["1"].inputs)
    assert scores["1"].outputs.tolist() == [1, 1]


@pytest.mark.parametrize(
    "layer",
    [
        KANConv2d(2, 3, 2, padding=1),
        KANConv2d(4, 6, (2, 3), groups=2),
        KANConv2d(3, 6, 2, groups=3, padding_mode="circular", padding=1),
        LowRankKANConv2d(2, 3, 2, padding=1, rank=2),
        nn.Conv2d(2, 3, 2, padding=1, padding_mode="reflect"),
        nn.Conv2d(4, 6, 2, groups=2),
        KANConvTranspose2d(4, 6, (2, 3), 2, 1, groups=2),
        nn.ConvTranspose2d(4, 6, (2, 3), 2, 1, groups=2),
    ],
    ids=lambda layer: str(layer).split(", basis")[0],
)
@torch.no_grad()
def test_importance_of_a_convolution_is_that_written_out(layer):
    layer = randomize(layer.double())
    x = torch.randn(3, layer.in_channels, 4, 5, dtype=torch.float64)
    [scores] = importance(layer, [x]).values()
    if isinstance(layer, EdgeLayer):
        points = edges_of(layer).inputs(x).mT
        values = edges_of(layer).at(points)  # (out, in, points, *kernel)
    else:
        mode = {"zeros": "constant"}.get(layer.padding_mode, layer.padding_mode)
        padded = x if is_transposed(layer) else F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
        weight = by_output(layer.weight, layer.groups) if is_transposed(layer) else layer.weight
        points = padded.movedim(1, 0).flatten(1)
        seen = points.unflatten(0, (layer.groups, -1)).repeat_interleave(len(weight) // layer.groups, dim=0)
        values = weight.unsqueeze(2) * seen[..., None, None]
    local = values.std(2, correction=0)
    edges = local / layer(x).movedim(1, 0).flatten(1).std(1, correction=0).view(-1, 1, 1, 1)
    torch.testing.assert_close(scores.local, local)
    torch.testing.assert_close(scores.edges, edges)
    torch.testing.assert_close(scores.taps, edges.sum((0, 1)))
    torch.testing.assert_close(scores.inputs.sum(), edges.sum())
    outputs_per_group = layer.out_channels // layer.groups
    first = edges[:outputs_per_group, 0].sum()  # what the first channel is taken in by
    torch.testing.assert_close(scores.inputs[0], first)


def test_terms_of_a_sum_pass_on_their_share():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.inner, self.last = KANLinear(2, 3), KANLinear(3, 3), KANLinear(3, 1)

        def forward(self, x):
            y = self.first(x)
            return self.last(y + self.inner(y))

    model = randomize(Residual().double())
    x = torch.randn(50, 2, dtype=torch.float64)
    scores = importance(model, [x])
    with torch.no_grad():
        y = model.first(x)
        z = model.inner(y)
    whole = scores["last"].inputs / (y + z).std(0, correction=0)
    torch.testing.assert_close(scores["inner"].outputs, whole * z.std(0, correction=0))
    torch.testing.assert_close(scores["first"].outputs, whole * y.std(0, correction=0) + scores["inner"].inputs)


def test_branch_that_nothing_comes_of_does_not_matter():
    model = randomize(nn.Sequential(KANLinear(2, 4), KANLinear(4, 3), KANLinear(3, 1)))
    alive = torch.ones(3, 4, dtype=torch.bool)
    alive[:, 2] = False
    model[1].mask_edges(alive)
    model[2].mask_edges(torch.tensor([[True, False, True]]))
    scores = importance(model, [torch.randn(40, 2)])
    assert scores["0"].outputs[2] == 0
    assert (scores["0"].edges[2] == 0).all()
    assert (scores["0"].local[2] > 0).all()
    assert (scores["1"].edges[1] == 0).all()
    assert (scores["0"].outputs[[0, 1, 3]] > 0).all()


def test_importance_leaves_the_model_as_it_was():
    model = create_model("kan_vgg", width=4, unit_dropout=0.3, dropout=0.3).train()
    model.head.eval()
    before, random = deepcopy(model.state_dict()), torch.get_rng_state()
    importance(model, [torch.full(IMAGES, 0.5)])
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert model.training
    assert not model.head.training
    assert not any(module._forward_hooks for module in model.modules())


def test_importance_does_without_the_graph():
    model = Odd(lambda x: torch.cat([x[:, :2], x[:, 2:]], 1))
    scores = importance(model, [torch.randn(2, 1, 6, 6)], propagate=False)
    assert set(scores) == {"first", "last"}
    assert torch.equal(scores["last"].edges, scores["last"].local)


def test_importance_needs_finite_batches():
    with pytest.raises(ValueError, match="batches must hold at least one"):
        importance(dense(2, 1), [])
    with pytest.raises(ValueError, match="inputs must be finite"):
        importance(dense(2, 1), [torch.tensor([[0.0, float("nan")]])])


def test_importance_shows_a_bar_if_asked(capsys):
    importance(dense(2, 1), [torch.randn(5, 2)], progress=True)
    assert "importance" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("share", "name"),
    diagonal([0.0, 0.3, 0.5, 0.9], ["kan_cnn", "kan_vgg-depthwise", "kan_resnet8-lowrank", "dense"], each=2),
)
def test_share_of_edges_is_pruned(name, share):
    model, x = drawn(name)
    scores = importance(model, [x])
    alive = prune_edges(model, scores, share=share)
    sizes = {key: edges_of(layer).shape for key, layer in kan_layers(model).items() if key in alive}
    counts = {key: torch.Size(shape).numel() for key, shape in sizes.items()}
    outputs = sum(shape[0] for shape in sizes.values())
    left = sum(alive[key] * count for key, count in counts.items())
    assert (1 - share) * sum(counts.values()) - 1 <= left <= (1 - share) * sum(counts.values()) + 1 + outputs
    again = prune_edges(model, importance(model, [x]), share=share)
    assert all(again[key] >= alive[key] - 0.05 for key in alive), "edges that are masked count"


def test_every_output_keeps_its_strongest_edge():
    model = randomize(dense(5, 4, 3))
    scores = importance(model, [torch.randn(30, 5)])
    alive = prune_edges(model, scores, threshold=1e9)
    assert alive == {"0": 1 / 5, "1": 1 / 4}
    for name, layer in model.named_children():
        assert torch.equal(layer.edge_mask.int().argmax(1), scores[name].edges.argmax(1))


def test_one_layer_is_pruned_by_its_scores():
    layer = randomize(KANConv2d(2, 3, 3))
    [scores] = importance(layer, [torch.randn(2, 2, 6, 6)]).values()
    cut = float(scores.edges.median())
    prune_edges(layer, scores, threshold=cut)
    assert (layer.edge_mask | (scores.edges <= cut)).all()
    assert layer.edge_mask[scores.edges > cut].all()


@torch.no_grad()
def test_named_functions_go_with_their_edges():
    layer = randomize(KANLinear(3, 2))
    layer.add_symbolic().replace(
        torch.tensor([[0, 1], [1, 2]]), ["sin", "exp"], torch.tensor([[1.0, 0, 50, 0], [1, 0, 1e-6, 0]])
    )
    fixed = torch.ones(2, 3, dtype=torch.bool)
    fixed[0, 1] = fixed[1, 2] = False  # what they compute instead of their splines
    layer.mask_edges(fixed)
    x = torch.randn(40, 3)
    scores = importance(layer, [x])
    assert scores[""].local[0].argmax() == 1
    assert prune_edges(layer, scores, share=1 / 3) == {"": pytest.approx(4 / 6)}
    assert layer.symbolic.functions == ("sin",)
    assert prune_edges(layer, importance(layer, [x]), threshold=1e9) == {"": pytest.approx(2 / 6)}
    torch.testing.assert_close(layer(x)[:, 0], 50 * x[:, 1].sin())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "one of share and threshold"),
        ({"share": 0.5, "threshold": 0.1}, "one of share and threshold"),
        ({"share": 1.0}, r"share must lie in \[0, 1\), got 1.0"),
        ({"threshold": -1.0}, "threshold must not be negative, got -1.0"),
    ],
)
def test_what_edges_to_prune_must_be_clear(arguments, words):
    model = dense(2, 2)
    with pytest.raises(ValueError, match=words):
        prune_edges(model, importance(model, [torch.randn(5, 2)]), **arguments)


def test_scores_must_be_of_the_model():
    model, other = dense(2, 3, 1), dense(2, 4, 1)
    scores = importance(other, [torch.randn(5, 2)])
    with pytest.raises(ValueError, match=r"must have shape \(3, 2\), got \(4, 2\)"):
        prune_edges(model, scores, share=0.5)
    with pytest.raises(ValueError, match="none of '1'"):
        prune_edges(model, {"0": importance(model, [torch.randn(5, 2)])["0"]}, share=0.5)
    with pytest.raises(ValueError, match="none of '1'"):
        prune_channels(model, {"0": scores["0"]}, 0.5)
    with pytest.raises(ValueError, match="KAN layers"):
        prune_edges(nn.Linear(2, 2), scores, share=0.5)


@pytest.mark.parametrize("name", ["kan_cnn", "kan_cnn-lowrank"])
def test_pruned_edges_stay_zero(name, tmp_path):
    model = MODELS[name]().train()
    x = torch.randn(IMAGES)
    prune_edges(model, importance(model, [x]), share=0.6)
    masks = {key: layer.edge_mask.clone() for key, layer in kan_layers(model).items()}
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.1), lr=0.05)
    for _ in range(4):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    torch.save(model.state_dict(), tmp_path / "state.pt")
    loaded = MODELS[name]()
    loaded.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for one in (model, loaded):
        for key, layer in kan_layers(one).items():
            assert torch.equal(layer.edge_mask, masks[key])
            dead = edges_of(layer).weight.movedim(2, -1)[~masks[key]]
            stored = layer.weight if isinstance(layer, LowRankKANConv2d) else layer.basis_weight
            assert dead.numel() > 0
            assert (dead == 0).all()
            assert (stored == 0).double().mean().item() == pytest.approx(float((~masks[key]).double().mean()))
    torch.testing.assert_close(loaded.eval()(x), model.eval()(x))


def test_smaller_model_keeps_masks_grids_and_named_functions():
    model = randomize(nn.Sequential(KANLinear(2, 4, bias=True), KANLinear(4, 3, basis=BSpline(8)), KANLinear(3, 1)))
    model[1].set_grid(model[1].basis.knots(4) * torch.tensor([[1.0], [2.0], [3.0], [4.0]], device="cpu"))
    symbolic: SymbolicEdges = model[1].add_symbolic()
    symbolic.replace(torch.tensor([[0, 3], [2, 1], [1, 0]]), ["sin", "exp", "sin"], torch.rand(3, 4) + 0.5)
    model[1].mask_edges(torch.rand(3, 4) > 0.3)
    model[1].basis_weight.requires_grad_(False)
    x = torch.randn(30, 2)
    small = prune_channels(model, importance(model, [x]), 0.3)
    assert small[1].basis_weight.shape == (3, 3 * 11)
    assert not small[1].basis_weight.requires_grad
    assert small[1].edge_mask.shape == (3, 3)
    kept = [channel for channel in range(4) if model[1].grid[channel, 0] in small[1].grid[:, 0]]
    space = channel_graph(model).layers()[0].result.space
    torch.testing.assert_close(small(x), masked_with_functions(model, space, kept)(x))


def masked_with_functions(model, space, kept):
    """``without_edges``, named functions included."""
    found = without_edges(model, {space: kept})
    symbolic = found[1].symbolic
    rows = [row for row, (_, input_) in enumerate(symbolic.edges.tolist()) if input_ in kept]
    symbolic.replace(symbolic.edges[rows], [symbolic.functions[row] for row in rows], symbolic.affine[rows].detach())
    return found


def test_training_goes_on_in_the_smaller_model():
    model = create_model("kan_resnet8", width=4).train()
    small = prune_channels(model, importance(model, [torch.randn(IMAGES)]), 0.5)
    assert small.training
    small(torch.randn(IMAGES)).sum().backward()
    assert all(parameter.grad is not None for parameter in small.parameters())


def test_single_layer_has_no_channels_to_remove():
    layer = KANLinear(3, 2)
    with pytest.raises(ValueError, match="single KANLinear"):
        prune_channels(layer, importance(layer, [torch.randn(5, 3)]), 0.5)


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_share_of_channels_must_be_one(share):
    model = dense(2, 3, 1)
    with pytest.raises(ValueError, match=f"got {share}"):
        prune_channels(model, importance(model, [torch.randn(5, 2)]), share)


@torch.no_grad()
def test_nodes_without_edges_go_and_nothing_changes():
    model = randomize(dense(2, 6, 5, 1).double())
    alive = torch.ones(6, 2, dtype=torch.bool)
    alive[1] = False  # nothing comes in
    model[0].mask_edges(alive)
    alive = torch.ones(1, 5, dtype=torch.bool)
    alive[0, [0, 3]] = False  # nothing goes out
    model[2].mask_edges(alive)
    alive = torch.ones(5, 6, dtype=torch.bool)
    alive[:, 1] = False
    model[1].mask_edges(alive)
    x = torch.randn(40, 2, dtype=torch.float64)
    for propagate in (True, False):
        small = prune_nodes(model, importance(model, [x], propagate=propagate), threshold=1e-9)
        assert [(layer.in_features, layer.out_features) for layer in small] == [(2, 5), (5, 3), (3, 1)]
        torch.testing.assert_close(small(x), model(x))
    smallest = prune_nodes(model, importance(model, [x]), threshold=1e9)
    assert [(layer.in_features, layer.out_features) for layer in smallest] == [(2, 1), (1, 1), (1, 1)]


@torch.no_grad()
@pytest.mark.parametrize("flat", [True, False])
def test_inputs_that_do_not_matter_go(flat):
    first = KANLinear(4, 5) if flat else KANConv2d(4, 5, 3)
    rest = [] if flat else [nn.ReLU(), nn.Flatten()]
    model = randomize(nn.Sequential(first, *rest, KANLinear(5 if flat else 5 * 9, 2))).double()
    alive = torch.ones(edges_of(first).shape, dtype=torch.bool)
    alive[:, [0, 2]] = False
    first.mask_edges(alive)
    x = torch.randn(30, 4, *(() if flat else (5, 5)), dtype=torch.float64)
    small, kept = prune_inputs(model, importance(model, [x]), threshold=1e-9)
    assert kept == [1, 3]
    torch.testing.assert_close(small(x[:, kept]), model(x))


@torch.no_grad()
def test_pixels_that_do_not_matter_go():
    model = randomize(nn.Sequential(nn.Flatten(), KANLinear(16, 5), KANLinear(5, 2))).double()
    alive = torch.rand(16) > 0.5
    model[1].mask_edges(alive.expand(5, -1))
    x = torch.randn(30, 1, 4, 4, dtype=torch.float64)
    small, kept = prune_inputs(model, importance(model, [x]), threshold=1e-9)
    assert kept == alive.nonzero()[:, 0].tolist()
    torch.testing.assert_close(small(x.flatten(1)[:, kept]), model(x))


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    """The script's folder, of a tiny run on digits."""
    torch.set_num_threads(1)
    flags = ("--model_options.widths", "[3,6]", "--epochs", 2, "--threads", 1, "--train_fraction", 0.3)
    folder = finished(tmp_path_factory.mktemp("runs") / "tiny", *flags)
    record = prune.prune(prune.PruneConfig(run=str(folder), quick=True))
    return folder / "pruned", record


def test_script_leaves_record_table_and_models(pruned):
    folder, record = pruned
    assert json.loads((folder / "prune.json").read_text()) == record
    assert set(record["rows"]) == {"trained", "unpruned, trained on", "edges", "channels"}
    assert prune.markdown(record) in (folder / "prune.md").read_text()
    for name, row in record["rows"].items():
        assert 0 <= row["test_accuracy"] <= 1
        assert row["milliseconds"] > 0
        assert ("right_after" in row) == (name in ("edges", "channels"))
    trained, edges, channels = (record["rows"][name] for name in ("trained", "edges", "channels"))
    assert edges["nonzero"] < 0.6 * trained["nonzero"]
    assert channels["parameters"] < 0.7 * trained["parameters"]
    assert channels["multiply_adds"] < 0.8 * trained["multiply_adds"]
    for name, options in (("edges", {"widths": [3, 6]}), ("channels", {"widths": [2, 4]})):
        model, description = load_classifier(folder / f"{name}.safetensors")
        assert description.options == options
        assert sum(p.numel() for p in model.parameters()) == record["rows"][name]["parameters"]


def test_script_speaks_of_a_folder_that_is_no_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["prune", "--run", str(tmp_path), "--quick"])
    with pytest.raises(SystemExit):
        cli.run(prune.main)
    assert "is not the folder of a run" in capsys.readouterr().err


@pytest.mark.parametrize("share", [0.25, 1 / 3, 0.5])
@pytest.mark.parametrize("name", ["kan_vgg", "kan_resnet8", "kan_resnet18", "kan_cnn"])
def test_narrow_options_make_the_pruned_model(name, share):

    classes, options = [str(digit) for digit in range(10)], NARROW.get(name, {})
    description = Description(name, 1, (28, 28), classes, [0.0], [1.0], options)
    model = description.create()
    small = prune_channels(model, importance(model, [torch.randn(1, 1, 8, 8)]), share)
    options = prune.narrow_options(description, share)
    create_model(name, **options).load_state_dict(small.state_dict())


def test_ties_do_not_go_together():
    layer = KANLinear(4, 4)
    with torch.no_grad():
        layer.basis_weight.fill_(1.0)
        layer.base_weight.fill_(1.0)
    x = torch.rand(50, 1).expand(-1, 4)
    alive = prune_edges(layer, importance(layer, [x]), share=0.25)
    assert alive[""] == 13 / 16  # four would go, all of them of the first output, which keeps one


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_masked_edges_are_saved_as_zero_though_momentum_moves_them(optimizer):
    layer = KANConv2d(2, 2, 3)
    steps = (
        torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
        if optimizer == "sgd"
        else torch.optim.AdamW(layer.parameters(), lr=0.1)
    )
    alive = torch.rand(2, 2, 3, 3) > 0.5
    for step in range(6):
        if step == 3:
            layer.mask_edges(alive)
        steps.zero_grad()
        layer(torch.rand(2, 2, 5, 5)).square().mean().backward()
        steps.step()
    state = layer.state_dict()
    assert not state["base_weight"][~alive].any()
    assert not edges_of(layer).weight.movedim(2, -1)[~alive].any()
    layer.reset_parameters()
    assert not layer.base_weight[~alive].any()
