"""Looking inside a trained model.

``edges`` evaluates any layer edge by edge, and ``curves`` samples what edges compute. Three wings stand on them, each
apart from the others: ``attribution`` (which inputs speak for an output), ``pruning`` (which edges and channels matter,
and models without the rest) and ``symbolic`` (named functions in place of splines, and formulas). ``plot`` draws.
"""

from convkan.interpret.attribution import (
    Attribution,
    Contributions,
    attribute,
    contributions,
    edge_contributions,
    feature_contributions,
    gradient_times_input,
    integrated_gradients,
)
from convkan.interpret.curves import Curves, curves
from convkan.interpret.edges import Edges, edges_of, kan_layers, layer_inputs
from convkan.interpret.pruning import (
    ChannelGraph,
    LayerImportance,
    channel_graph,
    importance,
    prune_channels,
    prune_edges,
    prune_inputs,
    prune_nodes,
)
from convkan.interpret.symbolic import (
    FormulaPlan,
    Suggestion,
    auto,
    fix,
    formula,
    formula_error,
    latex,
    plan_formula,
    suggest,
)

__all__ = [
    "Attribution",
    "ChannelGraph",
    "Contributions",
    "Curves",
    "Edges",
    "FormulaPlan",
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
    "plan_formula",
    "prune_channels",
    "prune_edges",
    "prune_inputs",
    "prune_nodes",
    "suggest",
]
