"""The layers."""

from convkan.nn.activation import LearnableActivation, LowRankKANConv2d
from convkan.nn.conv import KANConv1d, KANConv2d, KANConv3d
from convkan.nn.layer import KANLayer
from convkan.nn.linear import KANLinear
from convkan.nn.symbolic import SymbolicEdges

__all__ = [
    "KANConv1d",
    "KANConv2d",
    "KANConv3d",
    "KANLayer",
    "KANLinear",
    "LearnableActivation",
    "LowRankKANConv2d",
    "SymbolicEdges",
]
