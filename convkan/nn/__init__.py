"""The layers."""

from convkan.nn.activation import LearnableActivation
from convkan.nn.conv import KANConv1d, KANConv2d, KANConv3d
from convkan.nn.layer import EdgeLayer, KANLayer
from convkan.nn.linear import KANLinear
from convkan.nn.lowrank import LowRankKANConv2d
from convkan.nn.named_edges import SymbolicEdges

__all__ = [
    "EdgeLayer",
    "KANConv1d",
    "KANConv2d",
    "KANConv3d",
    "KANLayer",
    "KANLinear",
    "LearnableActivation",
    "LowRankKANConv2d",
    "SymbolicEdges",
]
