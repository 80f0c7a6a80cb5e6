"""What convolutions of other libraries do around the functions: zeros around features, and a second branch."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convkan.basis import get_activation
from convkan.nn import KANConv1d, KANConv2d, KANConv3d

CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


class FeaturePadded(nn.Module):
    """A KAN convolution with zeros around its *features*: a tap on the padding contributes 0, not φ(0).

    y = layer(x) − the sum of φ[o,c,tap](0) over taps on the padding. That sum is one convolution of a single plane, 1
    on the padding and 0 within, and follows the layer's weights while they train.

    Args:
        layer: The convolution, with explicit amounts of zeros as its padding.

    Raises:
        ValueError: The padding is a word, or of anything but zeros.

    Shape:
        (batch, in_channels, …) → (batch, out_channels, …), as of the layer.

    Example:
        >>> layer = FeaturePadded(KANConv2d(2, 3, 3, padding=1))
        >>> layer(torch.zeros(1, 2, 5, 5)).shape
        torch.Size([1, 3, 5, 5])
    """

    def __init__(self, layer: KANConv1d | KANConv2d | KANConv3d) -> None:
        super().__init__()
        if isinstance(layer.padding, str) or layer.padding_mode != "zeros":
            raise ValueError(
                f"layer must be padded by numbers of zeros, got {layer.padding!r} with mode {layer.padding_mode!r}"
            )
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Take away what the padding contributed."""
        y: Tensor = self.layer(x)
        padding = self.layer.padding
        assert not isinstance(padding, str)
        if not any(padding):
            return y
        amounts = [amount for one in reversed(padding) for amount in (one, one)]
        outside = F.pad(y.new_zeros(1, 1, *x.shape[2:]), amounts, value=1.0)
        weight = self.at_zero().sum(1, keepdim=True)
        return y - CONVOLUTIONS[x.ndim - 2](outside, weight, stride=self.layer.stride, dilation=self.layer.dilation)

    def at_zero(self) -> Tensor:
        """φ[o,c,tap](0), shape (out, in/groups, …)."""
        layer = self.layer
        zero = layer.basis_weight.new_zeros(1, layer.in_channels)
        values = layer.basis.evaluate(zero, layer.grid)[0].mT  # (in, K)
        values = values.unflatten(0, (layer.groups, -1)).repeat_interleave(layer.out_channels // layer.groups, dim=0)
        functions = torch.einsum("oik...,oik->oi...", layer.coefficients, values)
        activation = get_activation(layer.base_activation)
        if activation is None or layer.base_weight is None:
            return functions
        return functions + layer.base_weight * activation.value(zero[0, 0])


class TwoBranches(nn.Module):
    """functions(x) + base(b(x)), where the functions see another input, or their sums go on by themselves.

    Args:
        functions: The branch of the functions.
        base: The linear branch.
        base_activation: Name of b.

    Raises:
        ValueError: No activation has the name.

    Example:
        >>> TwoBranches(nn.Identity(), nn.Conv2d(2, 2, 1), "silu")(torch.zeros(1, 2, 4, 4)).shape
        torch.Size([1, 2, 4, 4])
    """

    def __init__(self, functions: nn.Module, base: nn.Module, base_activation: str) -> None:
        super().__init__()
        get_activation(base_activation)
        self.functions, self.base, self.base_activation = functions, base, base_activation

    def forward(self, x: Tensor) -> Tensor:
        """Add the two branches."""
        activation = get_activation(self.base_activation)
        assert activation is not None
        y: Tensor = self.functions(x) + self.base(activation.value(x))
        return y

    def extra_repr(self) -> str:
        """The option that no submodule shows."""
        return f"base_activation={self.base_activation!r}"
