"""Channels on their way through a model: what ``graph`` finds."""

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from torch import fx, nn

Mode = Literal["layer", "function", "inner", "outer", "sum"]


@dataclass(frozen=True)
class Flow:
    """What the features of a tensor are: channels of a space, some perhaps several times.

    Attributes:
        space: Index of the space. Tensors that are added share one.
        owner: The channel that each feature belongs to; None while it is not known how many there are.
        dims: Dimensions behind the channels; None if not known.
        flattened: Each entry of ``owner`` stands for a block of features, of a size that the next layer tells.
        stacked: Functions of each channel in a dimension in front of the channels; 0 without that dimension.
    """

    space: int
    owner: tuple[int, ...] | None
    dims: int | None
    flattened: bool = False
    stacked: int = 0

    def kept(self, channels: list[int]) -> list[int]:
        """The features that belong to these channels."""
        wanted = set(channels)
        return [feature for feature, channel in enumerate(self.owner or ()) if channel in wanted]


@dataclass(frozen=True)
class Step:
    """One operation.

    Attributes:
        node: In the traced graph.
        mode: "layer": sums of edges. "function": edges, each out of one channel and into the same. "inner": each
            feature becomes one or several next to each other. "outer": all features, several times over. "sum": the
            sources are added.
        sources: What goes in, with every feature known.
        result: What comes out.
        name: Of the module, or None.
    """

    node: fx.Node
    mode: Mode
    sources: tuple[Flow, ...]
    result: Flow
    name: str | None = None


@dataclass
class Space:
    """Channels that stay together.

    Attributes:
        channels: How many; None while not known.
        mixed: What makes them depend on each other, or None.
        blocks: Of how many equal blocks equally many must be removed, because of groups.
    """

    channels: int | None
    mixed: str | None = None
    blocks: int = 1


@dataclass
class ChannelGraph:
    """See ``channel_graph``.

    Attributes:
        root: The module that ``graph`` is of: the model, or a container of the one layer that it is.
        graph: The traced graph.
        steps: Its operations in order.
        spaces: By index.
        input: Index of the model's input space.
        output: What the model returns.
    """

    root: nn.Module
    graph: fx.Graph
    steps: list[Step] = field(default_factory=list)
    spaces: dict[int, Space] = field(default_factory=dict)
    input: int = 0
    output: Flow = field(default_factory=lambda: Flow(0, None, None))

    def layers(self) -> list[Step]:
        """The steps that are layers of edges."""
        return [step for step in self.steps if step.mode in ("layer", "function")]

    def consumers(self, space: int) -> list[Step]:
        """Layers that sum over a space's channels."""
        return [step for step in self.steps if step.mode == "layer" and step.sources[0].space == space]

    def producers(self, space: int) -> list[Step]:
        """Layers whose sums are a space's channels."""
        return [step for step in self.steps if step.mode == "layer" and step.result.space == space]


class Spaces:
    """Spaces while they are being found; those that are tied become one."""

    def __init__(self) -> None:
        self.found: list[Space] = []
        self.parent: list[int] = []  # a forest, the roots of which stand for all behind them

    def new(self, channels: int | None) -> int:
        """The index of a new space."""
        self.parent.append(len(self.parent))
        self.found.append(Space(channels))
        return self.parent[-1]

    def find(self, space: int) -> int:
        """The space that stands for all it is tied to."""
        while self.parent[space] != space:
            space = self.parent[space]
        return space

    def of(self, flow: Flow) -> Space:
        """The space of a flow."""
        return self.found[self.find(flow.space)]

    def tie(self, first: int, second: int) -> str | None:
        """Make two spaces one, or say why that cannot be."""
        first, second = self.find(first), self.find(second)
        if first == second:
            return None
        kept, gone = self.found[first], self.found[second]
        if kept.channels != gone.channels:
            return f"it adds spaces of {kept.channels} and {gone.channels} channels"
        kept.mixed, kept.blocks = kept.mixed or gone.mixed, math.lcm(kept.blocks, gone.blocks)
        self.parent[second] = first
        return None

    def settled(self, flow: Flow) -> Flow:
        """``flow`` with the space that stands for its own, and its channels if they are known by now."""
        space = self.find(flow.space)
        channels = self.found[space].channels
        owner = tuple(range(channels)) if flow.owner is None and channels is not None else flow.owner
        return replace(flow, space=space, owner=owner)

    def standing(self) -> dict[int, Space]:
        """Those that stand for all, by index."""
        return {index: space for index, space in enumerate(self.found) if self.parent[index] == index}
