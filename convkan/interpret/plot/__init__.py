"""Pictures. The only part that imports matplotlib."""

from convkan.interpret.plot.atlas import STRAIGHT, plot_atlas
from convkan.interpret.plot.edges import plot_edges
from convkan.interpret.plot.images import plot_contributions, plot_features
from convkan.interpret.plot.layers import plot_layers
from convkan.interpret.plot.network import plot_network
from convkan.interpret.plot.style import AMBER, BLUE, GREEN, GREY, IMPORTANCE, ORANGE, PALETTE, SKY, new_figure
from convkan.interpret.plot.training import plot_confusion, plot_learning_curves

__all__ = [
    "AMBER",
    "BLUE",
    "GREEN",
    "GREY",
    "IMPORTANCE",
    "ORANGE",
    "PALETTE",
    "SKY",
    "STRAIGHT",
    "new_figure",
    "plot_atlas",
    "plot_confusion",
    "plot_contributions",
    "plot_edges",
    "plot_features",
    "plot_layers",
    "plot_learning_curves",
    "plot_network",
]
