"""Looking inside a trained model."""

from convkan.interpret.attribution import (
    Attribution,
    attribute,
    feature_contributions,
    gradient_times_input,
    integrated_gradients,
)
from convkan.interpret.contributions import Contributions, contributions, edge_contributions
from convkan.interpret.curves import Curves, curves
from convkan.interpret.edges import Edges, edges_of, kan_layers, layer_inputs
from convkan.interpret.flows import ChannelGraph
from convkan.interpret.formula import formula, formula_error, latex
from convkan.interpret.graph import channel_graph
from convkan.interpret.importance import LayerImportance, importance
from convkan.interpret.pruning import prune_channels, prune_edges, prune_inputs, prune_nodes
from convkan.interpret.suggestions import Suggestion, suggest
from convkan.interpret.symbolic import auto, fix

__all__ = [
    "Attribution",
    "ChannelGraph",
    "Contributions",
    "Curves",
    "Edges",
    "LayerImportance",
    "Suggestion",
    "attribute",
    "auto",
    "channel_graph",
    "contributions",
    "curves",
    "edge_contributions",
    "edges_of",
    "feature_contributions",
    "fix",
    "formula",
    "formula_error",
    "gradient_times_input",
    "importance",
    "integrated_gradients",
    "kan_layers",
    "latex",
    "layer_inputs",
    "prune_channels",
    "prune_edges",
    "prune_inputs",
    "prune_nodes",
    "suggest",
]
