"""Convolutional KAN layers in one, two and three dimensions."""

from collections.abc import Sequence
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from convkan.basis import Basis, BSpline
from convkan.nn.layer import EdgeLayer, KANLayer
from convkan.nn.memory import in_memory_format, keeps_channels_last
from convkan.nn.padding import PaddedConvolution, PaddingMode
from convkan.nn.plain import LINEAR, convolution_arguments, silence, take_over, where
from convkan.nn.sizes import check_channels
from convkan.nn.tracing import call_as_leaf
from convkan.ops import Plan, evaluate


def convolve(
    x: Tensor,
    base_weight: Tensor | None,
    basis_weight: Tensor,
    grid: Tensor | None,
    bias: Tensor | None,
    plan: Plan,
    convolution: PaddedConvolution,
    backend: str,
) -> Tensor:
    """Sum the edges of every tap and input channel at each output position: what layers and functions both call."""
    convolution.check_input(x)
    unbatched = x.ndim == convolution.dims + 1
    if unbatched:
        x = x.unsqueeze(0)
    channels_last = keeps_channels_last(x) or keeps_channels_last(basis_weight)
    if convolution.padding_mode != "zeros":
        x = convolution.pad(x)
    y = evaluate(x, base_weight, basis_weight, grid, plan, backend)
    if bias is not None:
        y = y + bias.to(y.dtype).view(-1, *(1,) * convolution.dims)
    y = in_memory_format(y, channels_last)
    return y.squeeze(0) if unbatched else y


class SpatialLayer(EdgeLayer):
    """A layer over (batch, channels, *space), or (channels, *space)."""

    dims: ClassVar[int]

    def as_batch(self, x: Tensor) -> Tensor:
        """An input, or an output, with a batch dimension."""
        return x.unsqueeze(0) if x.ndim == self.dims + 1 else x

    def batch_shape(self, x: Tensor) -> torch.Size:
        """(batch,), or nothing for a single image."""
        return x.shape[: -self.dims - 1]


class ConvolutionLayer(SpatialLayer):
    """What all convolutional layers share: arguments, input shapes and padding."""

    def _take_arguments(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int],
        padding: int | str | Sequence[int],
        dilation: int | Sequence[int],
        groups: int,
        padding_mode: PaddingMode,
    ) -> None:
        """Check them, and make attributes of them under torch's names."""
        in_channels, out_channels, groups = check_channels(
            in_channels=in_channels, out_channels=out_channels, groups=groups
        )
        self.convolution = PaddedConvolution.of(
            self.dims, in_channels, kernel_size, stride, padding, dilation, groups, padding_mode
        )
        if out_channels % groups:
            raise ValueError(f"out_channels must be divisible by groups, got {out_channels} and {groups}")
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride = self.convolution.kernel_size, self.convolution.stride
        self.padding, self.dilation = self.convolution.padding, self.convolution.dilation
        self.padding_mode = self.convolution.padding_mode

    def check_input(self, x: Tensor) -> None:
        """Raise unless ``x`` has the layer's channels and is large enough for one output position."""
        self.convolution.check_input(x)

    def seen(self, x: Tensor) -> Tensor:
        """``x`` padded in the layer's mode."""
        return self.convolution.pad(x)

    def resized(self, inputs: int, outputs: int, groups: int) -> Self:
        """A fresh layer of other sizes, of the same kind and with the same options."""
        window = (self.kernel_size, self.stride, self.padding, self.dilation)
        arguments = (*window, groups, self.bias is not None, self.padding_mode)
        return type(self)(inputs, outputs, *arguments, **self.options())


class _KANConv(ConvolutionLayer, KANLayer):
    """A KAN convolution over ``dims`` spatial dimensions."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | str | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = False,
        padding_mode: PaddingMode = "zeros",
        *,
        basis: Basis | str = BSpline(),
        base_activation: str | None = "silu",
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        nn.Module.__init__(self)
        self._take_arguments(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode)
        self._make_edges(
            self.in_channels,
            self.out_channels,
            self.convolution.kernel_size,
            self.groups,
            bias,
            self.convolution.geometry,
            basis=basis,
            base_activation=base_activation,
            backend=backend,
            device=device,
            dtype=dtype,
        )

    @classmethod
    def from_conv(cls, conv: nn.Module, *, basis: Basis | str = BSpline(), backend: str = "auto") -> Self:
        """The layer that starts as a plain convolution, and whose functions bend as they are trained.

        The convolution's weight becomes that of the base activation, which is the identity, and coefficients are 0.
        Weight and bias are the convolution's own parameters, not copies; device, dtype, training mode and what is to be
        trained are kept.

        Args:
            conv: The convolution of ``torch.nn``, over as many dimensions.
            basis: The univariate basis, or its name. Its grid should hold what the convolution is given.
            backend: "auto", or the name of a backend.

        Raises:
            TypeError: ``conv`` is another kind of layer.
            RuntimeError: Its weight is computed from others (weight normalisation, pruning), or sharded.

        Example:
            >>> import torch
            >>> conv, x = nn.Conv2d(3, 8, 3, padding=1), torch.randn(2, 3, 16, 16)
            >>> torch.allclose(KANConv2d.from_conv(conv)(x), conv(x), atol=1e-6)
            True
        """
        arguments = convolution_arguments(conv, cls.dims)
        layer = cls(*arguments, basis=basis, base_activation=LINEAR, backend=backend, **where(conv))
        take_over(layer, conv, "base_weight")
        assert layer.base_weight is not None
        silence(layer.basis_weight, layer.base_weight)
        return layer

    def forward(self, x: Tensor) -> Tensor:
        """Sum the edges of every tap and input channel at each output position."""
        if isinstance(x, Proxy):
            return call_as_leaf(self, x)
        y = convolve(x, *self.edge_weights(), self.grid, self.bias, self.plan, self.convolution, self.backend)
        return self.add_named(y, x)

    def extra_repr(self) -> str:
        """Sizes and options."""
        sizes = self.convolution.describe(self.out_channels)
        return f"{sizes}, bias={self.bias is not None}, {KANLayer.extra_repr(self)}"


class KANConv1d(_KANConv):
    """A convolution over sequences whose weights are learnable functions; see ``KANConv2d``.

    Shape:
        (batch, in_channels, length) or (in_channels, length); the output likewise.

    Example:
        >>> import torch
        >>> KANConv1d(3, 8, 5, padding="same")(torch.zeros(2, 3, 20)).shape
        torch.Size([2, 8, 20])
    """

    dims = 1


class KANConv2d(_KANConv):
    """A convolution over images whose weights are learnable functions.

    y[n,o,p] = Σ_{c in group} Σ_tap φ[o,c,tap](x̃[n,c, p·stride + tap·dilation]) (+ bias[o]), with x̃ the padded
    input and φ(x) = w_b·b(x) + Σ_k c_k·B_k(x). Padding pads the input, so that a tap on a zero contributes φ(0).

    Sources: Bodner et al., "Convolutional Kolmogorov-Arnold Networks" (arXiv 2406.13155), sec. 4; Liu et al.
    (arXiv 2404.19756), eq. 2.10, for the edges.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Taps in each dimension, an integer or one for each.
        stride: Step of the output positions.
        padding: Rows added on each side, "same" or "valid".
        dilation: Distance of taps.
        groups: Groups of channels that do not mix; ``in_channels`` for a depthwise layer.
        bias: Add a learnable constant. Off by default, since a spline holds one already.
        padding_mode: What the padding holds: "zeros", "reflect", "replicate" or "circular".
        basis: The univariate basis, or its name.
        base_activation: Name of the fixed part of each edge, or None.
        backend: "auto", or the name of a backend.
        device: Where the parameters live.
        dtype: Floating point type of parameters and inputs.

    Raises:
        TypeError: A size is not an integer, or a tuple has the wrong length.
        ValueError: A size is out of range, channels are not divisible by groups, or a name is unknown.

    Shape:
        (batch, in_channels, height, width) or (in_channels, height, width); the output likewise.

    Example:
        >>> import torch
        >>> layer = KANConv2d(3, 8, 3, padding=1, basis=BSpline(grid_size=8, grid_range=(-3, 3)))
        >>> layer(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 8, 32, 32])
    """

    dims = 2


class KANConv3d(_KANConv):
    """A convolution over volumes whose weights are learnable functions; see ``KANConv2d``.

    Shape:
        (batch, in_channels, depth, height, width) or (in_channels, depth, height, width); the output likewise.

    Example:
        >>> import torch
        >>> KANConv3d(1, 2, 3)(torch.zeros(2, 1, 5, 5, 5)).shape
        torch.Size([2, 2, 3, 3, 3])
    """

    dims = 3
