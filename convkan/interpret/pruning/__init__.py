"""How much edges and channels matter, and models without those that hardly do.

``channels`` are what a model's tensors consist of, and ``operations`` those they can be followed through; ``graph``
follows them from input to output. ``importance`` measures the edges of every layer with ``moments``, and carries scores
back along that graph. By these, ``prune`` masks edges in place and returns the shares that are alive, or returns a copy
with layers of fewer channels, which ``smaller`` makes; without inputs, the copy and which inputs it still takes.
"""

from convkan.interpret.pruning.channels import ChannelGraph
from convkan.interpret.pruning.graph import channel_graph
from convkan.interpret.pruning.importance import LayerImportance, importance
from convkan.interpret.pruning.prune import prune_channels, prune_edges, prune_inputs, prune_nodes

__all__ = [
    "ChannelGraph",
    "LayerImportance",
    "channel_graph",
    "importance",
    "prune_channels",
    "prune_edges",
    "prune_inputs",
    "prune_nodes",
]
