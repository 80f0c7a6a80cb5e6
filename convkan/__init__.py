"""convkan: convolutional Kolmogorov-Arnold networks for vision."""

from convkan.nn import KANConv1d, KANConv2d, KANConv3d, KANLinear, LearnableActivation, LowRankKANConv2d

__version__ = "0.1.0"

__all__ = [
    "KANConv1d",
    "KANConv2d",
    "KANConv3d",
    "KANLinear",
    "LearnableActivation",
    "LowRankKANConv2d",
]
