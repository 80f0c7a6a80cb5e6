"""convkan: convolutional Kolmogorov-Arnold networks for vision."""

from convkan.basis import RBF, BSpline, Chebyshev
from convkan.interop import convert, simplify
from convkan.kan import KAN
from convkan.nn import (
    KANConv1d,
    KANConv2d,
    KANConv3d,
    KANConvTranspose1d,
    KANConvTranspose2d,
    KANConvTranspose3d,
    KANLinear,
    LazyKANConv1d,
    LazyKANConv2d,
    LazyKANConv3d,
    LazyKANConvTranspose1d,
    LazyKANConvTranspose2d,
    LazyKANConvTranspose3d,
    LazyKANLinear,
    LazyLearnableActivation,
    LazyLowRankKANConv2d,
    LearnableActivation,
    LowRankKANConv2d,
    SharedActivation,
)

__version__ = "0.1.0"

__all__ = [
    "KAN",
    "RBF",
    "BSpline",
    "Chebyshev",
    "KANConv1d",
    "KANConv2d",
    "KANConv3d",
    "KANConvTranspose1d",
    "KANConvTranspose2d",
    "KANConvTranspose3d",
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
    "SharedActivation",
    "convert",
    "simplify",
]
