"""Looking inside a trained model."""

from convkan.interpret.curves import Curves, curves
from convkan.interpret.edges import Edges, edges_of, kan_layers

__all__ = ["Curves", "Edges", "curves", "edges_of", "kan_layers"]
