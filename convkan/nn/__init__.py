"""The layers."""

from convkan.nn.activation import LearnableActivation
from convkan.nn.conv import KANConv1d, KANConv2d, KANConv3d
from convkan.nn.layer import EdgeLayer, KANLayer
from convkan.nn.lazy import (
    LazyKANConv1d,
    LazyKANConv2d,
    LazyKANConv3d,
    LazyKANConvTranspose1d,
    LazyKANConvTranspose2d,
    LazyKANConvTranspose3d,
    LazyKANLinear,
    LazyLearnableActivation,
    LazyLowRankKANConv2d,
)
from convkan.nn.linear import KANLinear
from convkan.nn.lowrank import LowRankKANConv2d
from convkan.nn.multiplication import Multiplication
from convkan.nn.named_edges import SymbolicEdges
from convkan.nn.rational import RationalActivation
from convkan.nn.shared import SharedActivation
from convkan.nn.swapping import layer_in_place_of, linear_weight, plain_in_place_of
from convkan.nn.transposed import KANConvTranspose1d, KANConvTranspose2d, KANConvTranspose3d

__all__ = [
    "EdgeLayer",
    "KANConv1d",
    "KANConv2d",
    "KANConv3d",
    "KANConvTranspose1d",
    "KANConvTranspose2d",
    "KANConvTranspose3d",
    "KANLayer",
    "KANLinear",
    "LazyKANConv1d",
    "LazyKANConv2d",
    "LazyKANConv3d",
    "LazyKANConvTranspose1d",
    "LazyKANConvTranspose2d",
    "LazyKANConvTranspose3d",
    "LazyKANLinear",
    "LazyLearnableActivation",
    "LazyLowRankKANConv2d",
    "LearnableActivation",
    "LowRankKANConv2d",
    "Multiplication",
    "RationalActivation",
    "SharedActivation",
    "SymbolicEdges",
    "layer_in_place_of",
    "linear_weight",
    "plain_in_place_of",
]
