"""Which inputs speak for an output: exactly in one layer, by a rule through a whole model.

``transposed`` hands weights of a layer's outputs back to its inputs, edge by edge. By it, ``contributions`` takes an
output of one layer apart, and ``rescale`` hands differences back through all modules of a model. ``methods`` attributes
logits to pixels by that rule, and by two older ones.
"""

from convkan.interpret.attribution.contributions import Contributions, contributions, edge_contributions
from convkan.interpret.attribution.methods import (
    Attribution,
    attribute,
    feature_contributions,
    gradient_times_input,
    integrated_gradients,
)

__all__ = [
    "Attribution",
    "Contributions",
    "attribute",
    "contributions",
    "edge_contributions",
    "feature_contributions",
    "gradient_times_input",
    "integrated_gradients",
]
