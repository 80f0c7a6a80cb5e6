"""How much every edge, tap and channel says, measured on data and carried back from the outputs."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, fx, nn
from torch.nn.modules import conv

from convkan.interpret.edges import kan_layers
from convkan.interpret.pruning.channels import ChannelGraph, Step
from convkan.interpret.pruning.graph import channel_graph
from convkan.interpret.pruning.moments import Measured, Moments, groups_of
from convkan.interpret.pruning.operations import tensors
from convkan.nn import EdgeLayer
from convkan.nn.recording import evaluating, input_of, undisturbed, watched

CANCELLED = 1e-4  # the least that a sum may vary, relative to its edges, for what they say not to be boundless


@dataclass(frozen=True)
class LayerImportance:
    """What a layer's edges say; float64.

    Attributes:
        edges: Share of each edge in the model's outputs: ``local``, relative to how its output varies, times how much
            that output matters. The same as ``local`` if nothing was propagated.
        local: σ(φ), the standard deviation of each edge over the data.
        inputs: What each input channel matters to this layer: the sum of its edges.
        outputs: What each output matters to the model; 1 if nothing was propagated.
    """

    edges: Float[Tensor, "out in_per_group *kernel"]
    local: Float[Tensor, "out in_per_group *kernel"]
    inputs: Float[Tensor, " in_channels"]
    outputs: Float[Tensor, " out"]

    @property
    def taps(self) -> Float[Tensor, "*kernel"]:
        """The sum over all edges of each tap."""
        return self.edges.sum((0, 1))

    @property
    def total(self) -> float:
        """The sum of all edges."""
        return float(self.edges.sum())


def importance(
    model: nn.Module, batches: Iterable[Tensor], *, propagate: bool = True, progress: bool = False
) -> dict[str, LayerImportance]:
    """Measure what each edge says, and carry it back from the model's outputs to its inputs.

    Outputs matter A = 1 each. The edge from i to o (of a convolution: by one tap) matters B = A[o]·σ(φ)/σ(y[o]), and
    an input A[i] = Σ B over its edges: the attribution of pykan (Liu et al., "KAN 2.0", arXiv 2408.10205, sec. 4.1).
    As there the σ of edges is divided by that of their sum, not by the sum of theirs, so scores grow with the number of
    edges that vary on their own; compare them within a layer. What is added to something else passes on its share
    σ(x)/σ(sum); normalisation, pooling and activations pass on what they are given. A plain layer's edges are w·x.

    The model is run in eval mode and left as it was: modes, running statistics, random numbers. Memory is bounded:
    every batch adds at most 1024 inputs of each channel, evenly spread.

    Args:
        model: A model that ``channel_graph`` can follow, or a single layer.
        batches: Inputs of the model; of a tuple or list, as loaders yield, the first is taken.
        propagate: Without, ``edges`` are ``local``, and any model that runs will do.
        progress: Show a bar; needs rich.

    Returns:
        For each layer by name, KAN or plain. Without ``propagate``, of those that were called.

    Raises:
        ValueError: Channels cannot be followed, there are no batches, or the inputs of a layer are not finite.

    Example:
        >>> from convkan import KANLinear
        >>> scores = importance(nn.Sequential(KANLinear(2, 5), KANLinear(5, 1)), [torch.rand(64, 2)])
        >>> scores["0"].edges.shape, scores["1"].inputs.shape
        (torch.Size([5, 2]), torch.Size([5]))
    """
    with evaluating(model):  # what depends on the mode is traced as it is in eval mode
        graph = channel_graph(model) if propagate else None
    layers = _layers(model) if graph is None else {str(s.name): _module(graph, s) for s in graph.layers()}
    measured = {name: Measured() for name in layers}
    summed: dict[fx.Node, list[Moments]] = {}
    run = model if graph is None else _Interpreter(graph, summed).run

    def take(name: str, layer: nn.Module, x: Tensor, y: Tensor) -> None:
        measured[name].take(layer, x, y)

    with watched(layers, take), torch.no_grad(), undisturbed(model), evaluating(model):
        for batch in _with_bar(batches, progress):
            run(input_of(batch))
    called = {name: found for name, found in measured.items() if found.outputs.count}
    if not called:
        raise ValueError("batches must hold at least one, and the model a layer that it calls")
    local = {name: found.edges(layers[name]) for name, found in called.items()}
    for name, scores in local.items():
        if not bool(scores.isfinite().all()):
            raise ValueError(f"inputs must be finite, but those of layer {name!r} make edges that are not")
    if graph is None:
        return {name: _scored(layers[name], edges, edges.new_ones(len(edges))) for name, edges in local.items()}
    varying = {name: found.outputs.deviation for name, found in called.items()}
    return _carried_back(graph, local, varying, summed)


class _Interpreter(fx.Interpreter):
    """Runs the traced graph, and notes how the terms of sums vary."""

    def __init__(self, graph: ChannelGraph, summed: dict[fx.Node, list[Moments]]) -> None:
        super().__init__(graph.root, graph=graph.graph)
        self.summed = summed
        summed.update({step.node: [Moments() for _ in range(3)] for step in graph.steps if step.mode == "sum"})

    def run_node(self, n: fx.Node) -> object:
        """Run an operation; of a sum, the terms first, as one of them may be written to."""
        if n not in self.summed:
            return super().run_node(n)
        terms = [self.env[argument] for argument in tensors(n)]
        for moments, term in zip(self.summed[n][:2], terms, strict=True):
            moments.add(term.movedim(1, 0).flatten(1), 1)
        total = super().run_node(n)
        self.summed[n][2].add(total.movedim(1, 0).flatten(1), 1)
        return total


def _carried_back(
    graph: ChannelGraph,
    local: dict[str, Tensor],
    varying: dict[str, Tensor],
    summed: dict[fx.Node, list[Moments]],
) -> dict[str, LayerImportance]:
    """Scores from the outputs back, step by step."""
    found: dict[str, LayerImportance] = {}
    example = next(iter(local.values()))
    scores = {_last(graph): example.new_ones(len(graph.output.owner or ()))}
    for step in reversed(graph.steps):
        score = scores.pop(step.node, None)
        if step.mode == "sum":
            if score is not None:
                *terms, total = (moments.deviation for moments in summed[step.node])
                for node, term in zip(tensors(step.node), terms, strict=True):
                    _give(scores, node, _quotient(score * term, total))
            continue
        if step.mode in ("layer", "function"):
            name = str(step.name)
            functions = len(local[name])
            copies = step.sources[0].stacked and len(step.sources[0].owner or ())  # channels that share functions
            if score is None:
                score = example.new_zeros(functions * (copies or 1))
            layer = _module(graph, step)
            outputs = score.view(functions, copies or 1).sum(1)
            found[name] = _scored(layer, local[name], outputs, varying[name])
            score = (score.view(functions, copies) * (local[name] > 0)).sum(0) if copies else found[name].inputs
        elif score is not None:
            features = len(step.sources[0].owner or ()) * max(1, step.sources[0].stacked)
            split = score.view(features, -1) if step.mode == "inner" else score.view(-1, features).mT
            score = split.sum(1)
        if score is not None:
            _give(scores, tensors(step.node)[0], score)
    return dict(reversed(found.items()))


def _scored(layer: nn.Module, local: Tensor, outputs: Tensor, varying: Tensor | None = None) -> LayerImportance:
    """B and A of a layer."""
    weights = (-1, *(1,) * (local.ndim - 1))
    edges = local
    if varying is not None:
        together = local.flatten(1).sum(1)
        # A function of one channel is all of its output; both were measured, but at different places.
        alone = isinstance(layer, EdgeLayer) and not layer.geometry.sums
        whole = together if alone else varying.maximum(CANCELLED * together)
        edges = _quotient(local * outputs.view(weights), whole.view(weights))
    inputs = edges.reshape(*edges.shape[:2], -1).sum(2).unflatten(0, (groups_of(layer), -1)).sum(1).flatten()
    return LayerImportance(edges, local, inputs, outputs)


def _quotient(share: Tensor, whole: Tensor) -> Tensor:
    """A share, 0 of nothing."""
    return torch.where(whole > 0, share / whole, 0.0)


def _give(scores: dict[fx.Node, Tensor], node: fx.Node, score: Tensor) -> None:
    scores[node] = scores[node] + score if node in scores else score


def _last(graph: ChannelGraph) -> fx.Node:
    """The node that the model returns."""
    return next(node for node in graph.graph.nodes if node.op == "output").all_input_nodes[0]


def _module(graph: ChannelGraph, step: Step) -> nn.Module:
    return graph.root.get_submodule(str(step.node.target))


def _layers(model: nn.Module) -> dict[str, nn.Module]:
    """KAN layers and plain ones, by name."""
    plain = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear | conv._ConvNd)}
    return {**kan_layers(model), **plain}


def _with_bar(batches: Iterable[Tensor], progress: bool) -> Iterable[Tensor]:
    if not progress:
        return batches
    from rich.progress import track

    return track(batches, description="importance")
