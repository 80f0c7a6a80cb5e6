"""Leaving out what hardly matters: edges by a mask, channels and inputs by making the model smaller."""

from collections.abc import Mapping
from copy import deepcopy

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from convkan.interpret.edges import edges_of, kan_layers
from convkan.interpret.pruning.channels import ChannelGraph, Step
from convkan.interpret.pruning.graph import channel_graph
from convkan.interpret.pruning.importance import LayerImportance
from convkan.interpret.pruning.smaller import narrowed
from convkan.nn import EdgeLayer

Scores = Mapping[str, LayerImportance]


@torch.no_grad()
def prune_edges(
    model: nn.Module,
    importance: Scores | LayerImportance,
    *,
    share: float | None = None,
    threshold: float | None = None,
) -> dict[str, float]:
    """Mask the edges that matter least, for good: see ``KANLayer.mask_edges``. Named functions go with their edges.

    Edges of all layers are ranked together, each by its share in the variation of its output: σ(φ) of the edge over
    the root of Σσ(φ)² of the output's edges. Every output keeps its strongest edge. Learnable activations are left
    alone: their functions are not summed.

    Args:
        model: A model, or one KAN layer.
        importance: What ``importance`` found for it.
        share: How many of all edges to mask, in [0, 1); those that are masked already count.
        threshold: Or: mask edges whose ``edges`` score is no greater than this.

    Returns:
        For each layer, the share of edges that are alive.

    Raises:
        ValueError: Not one of ``share`` and ``threshold`` is given, one is out of range, or scores are missing or of
            another shape.
    """
    if (share is None) == (threshold is None):
        raise ValueError(f"one of share and threshold must be given, got share={share} and threshold={threshold}")
    if share is not None and not 0 <= share < 1:
        raise ValueError(f"share must lie in [0, 1), got {share}")
    if threshold is not None and not threshold >= 0:
        raise ValueError(f"threshold must not be negative, got {threshold}")
    layers = {name: layer for name, layer in kan_layers(model).items() if layer.geometry.sums}
    if not layers:
        raise ValueError(f"model must have KAN layers whose edges are summed, got {type(model).__name__}")
    scores = {"": importance} if isinstance(importance, LayerImportance) else importance
    found = {name: _scores_of(scores, name, layer) for name, layer in layers.items()}
    if threshold is not None:
        cut: float = threshold
        ranks = {name: one.edges for name, one in found.items()}
    else:
        assert share is not None
        ranks = {name: _share_of_variation(one.local) for name, one in found.items()}
        order = torch.cat([rank.flatten() for rank in ranks.values()]).argsort(stable=True)
        places = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        split = places.split([rank.numel() for rank in ranks.values()])  # so that ties do not go together
        ranks = {name: part.view_as(ranks[name]) for name, part in zip(ranks, split, strict=True)}
        cut = round(share * len(order)) - 1
    alive = {}
    for name, layer in layers.items():
        rank = ranks[name].flatten(1)
        strongest = torch.zeros_like(rank, dtype=torch.bool).scatter_(1, rank.argmax(1, keepdim=True), True)
        alive[name] = _keep(layer, (strongest | (rank > cut)).view_as(ranks[name]))
    return alive


def _keep(layer: EdgeLayer, kept: Bool[Tensor, "out in_per_group *kernel"]) -> float:
    """Mask other edges, and drop the named functions among them; returns the share that is alive."""
    layer.mask_edges(kept)
    assert layer.edge_mask is not None
    alive = layer.edge_mask.clone()
    symbolic = layer.named_edges
    if symbolic is not None:
        rows = kept[tuple(symbolic.edges.mT)].nonzero()[:, 0].tolist()
        alive[tuple(symbolic.edges[rows].mT)] = True
        if not rows:
            layer.functions.symbolic = None
        elif len(rows) < len(symbolic.functions):
            functions = [symbolic.functions[row] for row in rows]
            symbolic.replace(symbolic.edges[rows], functions, symbolic.affine[rows])
    return float(alive.double().mean())


def prune_channels(model: nn.Module, importance: Scores, share: float) -> nn.Module:
    """A smaller model, without the channels that matter least.

    Wherever channels can be removed, ``share`` of them go, rounded down; those that additions tie together go together,
    and layers with groups lose equally many of each. A channel matters by its shares of what the layers that take it in
    are given (``inputs``), summed over these layers. Inputs of the model and its outputs stay.

    What a removed channel added to the next layers is dropped, its mean too: the model computes what it would with the
    edges out of these channels masked. Normalisation behind makes up for a shifted mean once it is trained again.

    Args:
        model: A model that ``channel_graph`` can follow; it is left as it is.
        importance: What ``importance`` found for it.
        share: Of the channels, in [0, 1).

    Returns:
        A deep copy with smaller layers of the same kinds.

    Raises:
        ValueError: ``share`` is out of range, scores are missing, channels cannot be followed, or GroupNorm normalises
            them together.
    """
    if not 0 <= share < 1:
        raise ValueError(f"share must lie in [0, 1), got {share}")
    graph = channel_graph(model)
    kept = {}
    for index in _removable(graph):
        space = graph.spaces[index]
        matters = _matters(graph, importance, index, relative=True).view(space.blocks, -1)
        going = int(share * matters.shape[1])
        order = matters.argsort(dim=1, stable=True)
        kept[index] = _positions(order[:, going:], matters.shape[1])
    return without(model, graph, kept)


def prune_nodes(model: nn.Module, importance: Scores, threshold: float = 1e-2) -> nn.Module:
    """A smaller model, without the nodes (or channels) of which nothing comes in, or nothing goes out.

    A node goes if its greatest incoming or its greatest outgoing ``edges`` score is no greater than the threshold: the
    rule of the KAN paper (Liu et al., arXiv 2404.19756, sec. 2.5.1), which takes mean |φ| for a score; it is nearest to
    scores measured with ``propagate=False``. Where all would go, the strongest stays; layers with groups lose equally
    many of each. A node that goes is dropped, its mean too, as in ``prune_channels``.

    Args:
        model: See ``prune_channels``.
        importance: See there.
        threshold: θ.

    Returns:
        A deep copy with smaller layers of the same kinds.

    Raises:
        ValueError: The threshold is negative; otherwise as in ``prune_channels``.
    """
    if not threshold >= 0:
        raise ValueError(f"threshold must not be negative, got {threshold}")
    graph = channel_graph(model)
    kept = {}
    for index in _removable(graph):
        space = graph.spaces[index]
        incoming = _greatest(graph, importance, index, graph.producers(index), outputs=True)
        outgoing = _greatest(graph, importance, index, graph.consumers(index), outputs=False)
        matters = torch.minimum(incoming, outgoing).view(space.blocks, -1)
        going = min(int((matters <= threshold).sum(1).min()), matters.shape[1] - 1)
        kept[index] = _positions(matters.argsort(dim=1, stable=True)[:, going:], matters.shape[1])
    return without(model, graph, kept)


def prune_inputs(model: nn.Module, importance: Scores, threshold: float = 1e-2) -> tuple[nn.Module, list[int]]:
    """A model of fewer inputs, without those that hardly matter.

    Args:
        model: See ``prune_channels``; inputs are its channels, of a flattened input its features.
        importance: See there.
        threshold: Inputs go whose score, the sum of ``inputs`` over the layers that take them in, is no greater.

    Returns:
        The model, to be called with ``x[:, kept]``, and the inputs kept. One always is.

    Raises:
        ValueError: The threshold is negative, or inputs are outputs too; otherwise as in ``prune_channels``.
    """
    if not threshold >= 0:
        raise ValueError(f"threshold must not be negative, got {threshold}")
    graph = channel_graph(model)
    if graph.input == graph.output.space:
        raise ValueError("inputs cannot be removed: they are added to the outputs")
    _check_separate(graph, graph.input)
    matters = _matters(graph, importance, graph.input, relative=False)
    blocks = matters.view(graph.spaces[graph.input].blocks, -1)
    going = min(int((blocks <= threshold).sum(1).min()), blocks.shape[1] - 1)
    kept = _positions(blocks.argsort(dim=1, stable=True)[:, going:], blocks.shape[1])
    return without(model, graph, {graph.input: kept}), kept


def without(model: nn.Module, graph: ChannelGraph, kept: Mapping[int, list[int]]) -> nn.Module:
    """A copy of a model that has only some channels of its spaces.

    Args:
        model: The model.
        graph: Its channels.
        kept: For spaces by index, the channels that stay, increasing; all of other spaces.
    """
    if graph.root is not model:
        raise ValueError(f"model must have channels between layers, got a single {type(model).__name__}")
    small = deepcopy(model)
    everything = {index: list(range(space.channels or 0)) for index, space in graph.spaces.items()} | dict(kept)
    for step in graph.steps:
        source, result = step.sources[0], step.result
        changed = {source.space, result.space} & set(kept)
        if step.name is not None and changed and not source.stacked:
            features = [flow.kept(everything[flow.space]) for flow in (source, result)]
            small.set_submodule(step.name, narrowed(small.get_submodule(step.name), *features))
    return small


def _removable(graph: ChannelGraph) -> list[int]:
    """The spaces between inputs and outputs.

    Raises:
        ValueError: The channels of one cannot be removed.
    """
    inner = [index for index in graph.spaces if index not in (graph.input, graph.output.space)]
    for index in inner:
        _check_separate(graph, index)
    return inner


def _check_separate(graph: ChannelGraph, space: int) -> None:
    reason = graph.spaces[space].mixed
    if reason is not None:
        raise ValueError(f"channels cannot be removed: {reason}")


def _matters(graph: ChannelGraph, scores: Scores, space: int, *, relative: bool) -> Float[Tensor, " channels"]:
    """What each channel of a space matters to the layers that take it in."""
    matters = torch.zeros(graph.spaces[space].channels or 0, dtype=torch.float64, device="cpu")
    for step in graph.consumers(space):
        inputs = _of(scores, step).inputs.cpu()
        if relative:
            inputs = inputs / inputs.sum().clamp_min(torch.finfo(inputs.dtype).tiny)
        matters.index_add_(0, torch.tensor(step.sources[0].owner, device="cpu"), inputs)
    return matters


def _greatest(
    graph: ChannelGraph, scores: Scores, space: int, steps: list[Step], *, outputs: bool
) -> Float[Tensor, " channels"]:
    """For each channel of a space, the greatest score of an edge into it, or out of it."""
    greatest = torch.zeros(graph.spaces[space].channels or 0, dtype=torch.float64, device="cpu")
    for step in steps:
        edges = _of(scores, step).edges.cpu().reshape(*_of(scores, step).edges.shape[:2], -1).amax(2)
        if outputs:
            best, owner = edges.amax(1), step.result.owner
        else:
            groups = len(step.sources[0].owner or ()) // edges.shape[1]
            best, owner = edges.unflatten(0, (groups, -1)).amax(1).flatten(), step.sources[0].owner
        greatest.scatter_reduce_(0, torch.tensor(owner, device="cpu"), best, "amax")
    return greatest


def _positions(places: Tensor, block: int) -> list[int]:
    """Channels from their places within blocks."""
    first = torch.arange(len(places), device=places.device).unsqueeze(1) * block
    return sorted((places + first).flatten().tolist())


def _share_of_variation(local: Tensor) -> Tensor:
    """σ(φ) relative to the variation of an output whose edges vary independently."""
    whole = local.flatten(1).norm(dim=1).view(-1, *(1,) * (local.ndim - 1))
    return local / whole.clamp_min(torch.finfo(local.dtype).tiny)


def _of(scores: Scores, step: Step) -> LayerImportance:
    if step.name not in scores:
        raise ValueError(f"importance must have scores of every layer, got none of {step.name!r}")
    return scores[str(step.name)]


def _scores_of(scores: Scores, name: str, layer: nn.Module) -> LayerImportance:
    """A layer's scores, which must fit it."""
    if name not in scores:
        raise ValueError(f"importance must have scores of every layer, got none of {name!r}")
    shape = edges_of(layer).shape
    if scores[name].edges.shape != shape:
        raise ValueError(f"importance of {name!r} must have shape {shape}, got {tuple(scores[name].edges.shape)}")
    return scores[name]
