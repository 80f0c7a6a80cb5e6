"""Operations through which channels can be followed."""

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.modules import conv, dropout, pooling

from convkan.nn import EdgeLayer, SharedActivation

# What treats every channel on its own and alike, so that one may be left out without a trace in the others.
CHANNELWISE: tuple[type[nn.Module], ...] = (
    *(nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus),
    *(nn.Tanh, nn.Sigmoid, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, SharedActivation),
    *(dropout._DropoutNd, pooling._MaxPoolNd, pooling._AvgPoolNd, pooling._LPPoolNd),
    *(pooling._AdaptiveAvgPoolNd, pooling._AdaptiveMaxPoolNd),
)
_POOLS = [f"{kind}_pool{dims}d" for kind in ("max", "avg", "adaptive_avg", "adaptive_max") for dims in (1, 2, 3)]
_ACTIVATIONS = [
    *("relu", "relu6", "leaky_relu", "elu", "selu", "gelu", "silu", "mish", "softplus"),
    *("hardtanh", "tanh", "sigmoid"),
]
_DROPOUTS = ["dropout", "dropout1d", "dropout2d", "dropout3d"]
FUNCTIONS: set[Any] = {getattr(F, name) for name in (*_POOLS, *_ACTIVATIONS, *_DROPOUTS)}
FUNCTIONS |= {torch.relu, torch.tanh, torch.sigmoid, torch.clamp, operator.neg}
METHODS = {"relu", "tanh", "sigmoid", "clamp", "contiguous", "clone", "detach"}
SCALED: set[Any] = {operator.mul, operator.imul, operator.truediv, torch.mul, torch.div, "mul", "div"}
SUMS: set[Any] = {operator.add, operator.iadd, operator.sub, torch.add, torch.sub, "add", "add_", "sub"}
ASIDE: set[Any] = {getattr, "size", "dim"}  # look at tensors only


def is_convolution(module: nn.Module) -> bool:
    """Whether a module is a convolution, plain or KAN, transposed or not."""
    return isinstance(module, conv._ConvNd) or (isinstance(module, EdgeLayer) and len(module.edge_shape) > 2)


def tensors(node: fx.Node) -> list[fx.Node]:
    """The arguments that are results of other nodes."""
    return [argument for argument in (*node.args, *node.kwargs.values()) if isinstance(argument, fx.Node)]


def arguments(node: fx.Node, **defaults: Any) -> list[Any]:
    """Arguments behind the first, by position or name."""
    given = dict(zip(defaults, node.args[1:], strict=False)) | node.kwargs
    return [given.get(name, default) for name, default in defaults.items()]
