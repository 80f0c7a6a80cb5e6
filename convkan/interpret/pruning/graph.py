"""How channels flow through a model: which layer's outputs are which layer's inputs."""

import math
from dataclasses import replace
from typing import Any, NoReturn

import torch
from torch import fx, nn
from torch.nn.modules import batchnorm

from convkan.interpret.pruning.channels import ChannelGraph, Flow, Mode, Spaces, Step
from convkan.interpret.pruning.operations import (
    ASIDE,
    CHANNELWISE,
    FUNCTIONS,
    METHODS,
    SCALED,
    SUMS,
    arguments,
    is_convolution,
    tensors,
)
from convkan.nn import EdgeLayer, KANLinear, LearnableActivation, Multiplication


def channel_graph(model: nn.Module) -> ChannelGraph:
    """Follow channels from the input of a model to its output.

    Followed are layers of edges (KAN and plain), grouped and depthwise ones too, normalisation, pooling, dropout,
    elementwise activations, means over space, flattening, and additions, whose operands then share channels; transposed
    convolutions as others. Not followed are channels that are put side by side, and those that gates multiply.

    Args:
        model: Takes one tensor with channels (or features) in dimension 1, and returns one.

    Raises:
        ValueError: It has an operation of another kind, or cannot be traced; the message names it.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 10))
        >>> [(step.name, step.mode) for step in channel_graph(model).steps]
        [('0', 'layer'), ('1', 'inner'), ('2', 'inner'), ('3', 'layer')]
    """
    model = getattr(model, "_orig_mod", model)  # of a compiled model, which cannot be traced
    root = nn.Sequential(model) if _Tracer().is_leaf_module(model, "") else model
    try:
        graph = _Tracer().trace(root)
    except (fx.proxy.TraceError, TypeError) as error:
        raise ValueError(f"cannot follow channels through {type(model).__name__}: not traceable, {error}") from error
    return _Follower(ChannelGraph(root, graph), wrapped=root is not model).followed()


class _Tracer(fx.Tracer):
    """Takes KAN layers, and those of torch, as a whole."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, EdgeLayer) or super().is_leaf_module(m, module_qualified_name)


class _Follower:
    """Goes through the traced graph once."""

    def __init__(self, found: ChannelGraph, wrapped: bool) -> None:
        self.found, self.wrapped = found, wrapped
        self.flows: dict[fx.Node, Flow] = {}
        self.spaces = Spaces()
        self.seen: set[nn.Module] = set()

    def followed(self) -> ChannelGraph:
        """The graph with everything in it."""
        for node in self.found.graph.nodes:
            self.follow(node)
        known = self.found
        settled = self.spaces.settled
        known.steps = [
            replace(step, sources=tuple(map(settled, step.sources)), result=settled(step.result))
            for step in known.steps
        ]
        known.output, known.input = settled(known.output), self.spaces.find(known.input)
        known.spaces = self.spaces.standing()
        return known

    def follow(self, node: fx.Node) -> None:
        """Note one operation."""
        target: Any = node.target
        if node.op == "placeholder":
            if not self.flows:
                self.flows[node] = Flow(self.spaces.new(None), None, None)
        elif node.op == "output":
            if not isinstance(node.args[0], fx.Node):
                self.refuse(node, "it must return one tensor")
            self.found.output = self.flow(node, node.args[0])
        elif node.op == "call_module":
            self.module(node, self.found.root.get_submodule(target))
        elif node.op == "get_attr" or target in ASIDE:
            return
        elif target in (torch.flatten, "flatten"):
            self.flatten(node, *arguments(node, start_dim=0, end_dim=-1))
        elif target in (torch.mean, "mean"):
            self.mean(node, *arguments(node, dim=None, keepdim=False))
        elif target in SUMS | SCALED:
            self.arithmetic(node, target in SUMS)
        elif target in FUNCTIONS | METHODS:
            self.step(node, "inner", self.flow(node), self.flow(node))
        else:
            self.refuse(node, "it is not known which channels it makes")

    def module(self, node: fx.Node, module: nn.Module) -> None:
        """Note a module's call."""
        flow = self.flow(node)
        if isinstance(module, CHANNELWISE):
            self.step(node, "inner", flow, flow)
            return
        if module in self.seen:
            self.refuse(node, "it is called more than once")
        self.seen.add(module)
        if isinstance(module, nn.Flatten):
            self.flatten(node, module.start_dim, module.end_dim)
        elif isinstance(module, nn.Unflatten):
            self.unflatten(node, module)
        elif isinstance(module, LearnableActivation):
            self.activation(node, module)
        elif isinstance(module, KANLinear | nn.Linear):
            source = self.known(node, flow, module.in_features, dims=0)
            self.step(node, "layer", source, self.fresh(module.out_features, 0))
        elif is_convolution(module):
            self.convolution(node, module)
        elif isinstance(module, batchnorm._NormBase | nn.GroupNorm):
            features = module.num_channels if isinstance(module, nn.GroupNorm) else module.num_features
            source = self.known(node, flow, features)
            if isinstance(module, nn.GroupNorm):
                self.spaces.of(source).mixed = f"{self.name(node)} (GroupNorm) normalises them together"
            self.step(node, "inner", source, source)
        elif isinstance(module, Multiplication):
            self.refuse(node, "a product needs all of its factors; prune_edges masks edges, products or not")
        else:
            self.refuse(node, "it is not known which channels it makes")

    def convolution(self, node: fx.Node, layer: Any) -> None:
        """A convolution: new channels, or if it is depthwise, the same ones."""
        dims = len(layer.kernel_size)
        source = self.known(node, self.flow(node), layer.in_channels, dims=dims)
        owner = source.owner or ()
        if layer.groups == layer.in_channels > 1:
            copies = layer.out_channels // layer.groups
            result = replace(source, owner=tuple(channel for channel in owner for _ in range(copies)))
            self.step(node, "function", source, result)
        else:
            result = self.fresh(layer.out_channels, dims)
            if layer.groups > 1 and owner != tuple(range(len(owner))):
                self.refuse(node, "its groups do not follow the channels")
            for flow in (source, result):
                self.spaces.of(flow).blocks = math.lcm(self.spaces.of(flow).blocks, layer.groups)
            self.step(node, "layer", source, result)

    def activation(self, node: fx.Node, layer: LearnableActivation) -> None:
        """Learnable functions of each channel, next to each other, or shared by all channels."""
        source = self.flow(node)
        if source.stacked:
            if (source.stacked, layer.num_channels) != (1, 1):
                self.refuse(node, "its channels are not those of the model")
            self.step(node, "function", source, replace(source, stacked=layer.num_functions))
            return
        source = self.known(node, source, layer.num_channels)
        owner = tuple(channel for channel in source.owner or () for _ in range(layer.num_functions))
        self.step(node, "function", source, replace(source, owner=owner))

    def flatten(self, node: fx.Node, start: int, end: int) -> None:
        """Blocks of features for channels, or functions and channels side by side."""
        source = self.flow(node)
        if source.stacked:
            if (start, end) != (1, 2):
                self.refuse(node, "it must join functions and channels, dimensions 1 and 2")
            owner = (source.owner or ()) * source.stacked
            self.step(node, "outer", source, replace(source, owner=owner, stacked=0))
            return
        if start != 1 or end not in (-1, None if source.dims is None else source.dims + 1):
            self.refuse(node, f"it must flatten all dimensions from 1 on, got {start} to {end}")
        self.step(node, "inner", source, replace(source, dims=0, flattened=source.flattened or source.dims != 0))

    def unflatten(self, node: fx.Node, module: nn.Unflatten) -> None:
        """A dimension of size 1 in front of the channels, for functions that all share."""
        size = tuple(int(part) for part in module.unflattened_size)
        if module.dim != 1 or len(size) != 2 or size[0] != 1:
            self.refuse(node, f"it must put a dimension of size 1 in front of the channels, got {size}")
        source = self.known(node, self.flow(node), size[1])
        self.step(node, "inner", source, replace(source, stacked=1))

    def mean(self, node: fx.Node, dim: Any, keepdim: bool) -> None:
        """A mean over space."""
        source = self.flow(node)
        over = () if dim is None else tuple(dim) if isinstance(dim, tuple | list) else (dim,)
        places = {place if place >= 0 or source.dims is None else place + source.dims + 2 for place in over}
        if source.dims is None or not places or not places <= set(range(2, source.dims + 2)):
            self.refuse(node, f"it must be over space, got dim={dim}")
        self.step(node, "inner", source, replace(source, dims=source.dims - (0 if keepdim else len(places))))

    def arithmetic(self, node: fx.Node, adds: bool) -> None:
        """Scaling, shifting, or the addition of two tensors."""
        flows = [self.flow(node, argument) for argument in tensors(node)]
        if len(flows) == 1:
            self.step(node, "inner", flows[0], flows[0])
        elif not adds:
            self.refuse(node, "it multiplies channels")
        elif "alpha" in node.kwargs:
            self.refuse(node, "it scales what it adds")
        else:
            self.add(node, flows)

    def add(self, node: fx.Node, flows: list[Flow]) -> None:
        """An addition: the operands' channels become the same."""
        first, second = flows
        if None in (first.owner, second.owner) and first.owner is not second.owner:  # the input, as yet unknown
            owner = first.owner or second.owner or ()
            first, second = (self.known(node, flow, len(owner), flow.dims) for flow in flows)
        if (first.owner, first.flattened, first.stacked) != (second.owner, second.flattened, second.stacked):
            self.refuse(node, "what is added has different channels")
        reason = self.spaces.tie(first.space, second.space)
        if reason is not None:
            self.refuse(node, reason)
        self.found.steps.append(Step(node, "sum", (first, second), first))
        self.flows[node] = first

    def known(self, node: fx.Node, flow: Flow, features: int, dims: int | None = None) -> Flow:
        """``flow``, once a layer has said how many features it has."""
        space = self.spaces.of(flow)
        owner = flow.owner
        if owner is None:
            space.channels = features if space.channels is None else space.channels
            owner = tuple(range(space.channels))
        block = features // len(owner) if flow.flattened else 1
        if flow.stacked or len(owner) * block != features:
            self.refuse(node, f"it takes {features} features, and is given {len(owner)} channels")
        if None not in (dims, flow.dims) and dims != flow.dims:
            self.refuse(node, "its input has other dimensions than channels and those it works on")
        spread = tuple(channel for channel in owner for _ in range(block))
        return replace(flow, owner=spread, flattened=False, dims=flow.dims if dims is None else dims)

    def step(self, node: fx.Node, mode: Mode, source: Flow, result: Flow) -> None:
        """Note a step with one source."""
        name = self.name(node) if node.op == "call_module" else None
        self.found.steps.append(Step(node, mode, (source,), result, name))
        self.flows[node] = result

    def fresh(self, channels: int, dims: int) -> Flow:
        """The flow of new channels."""
        return Flow(self.spaces.new(channels), tuple(range(channels)), dims)

    def flow(self, node: fx.Node, argument: Any = None) -> Flow:
        """The flow of an argument, by default the first."""
        argument = next(iter(tensors(node)), None) if argument is None else argument
        if not isinstance(argument, fx.Node) or argument not in self.flows:
            self.refuse(node, "its argument is not a tensor of channels")
        return self.flows[argument]

    def name(self, node: fx.Node) -> str:
        """A module's name in the model that was given."""
        return "" if self.wrapped else str(node.target)

    def refuse(self, node: fx.Node, reason: str) -> NoReturn:
        """Say what cannot be followed."""
        if node.op == "call_module":
            what = f"{node.target} ({type(self.found.root.get_submodule(str(node.target))).__name__})"
        else:
            what = node.op if node.op == "output" else getattr(node.target, "__name__", str(node.target))
        raise ValueError(f"cannot follow channels through {what}: {reason}")
