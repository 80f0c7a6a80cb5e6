"""Convolutional KAN layers in one, two and three dimensions."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx import Proxy

from convkan.basis import Basis, BSpline
from convkan.basis.base import is_jit_traced
from convkan.nn.layer import KANLayer, check_channels, is_integer
from convkan.nn.memory import in_memory_format, keeps_channels_last
from convkan.nn.tracing import call_as_leaf
from convkan.ops import Convolution

PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]
PADDING_MODES: dict[str, str] = {
    "zeros": "constant",
    "reflect": "reflect",
    "replicate": "replicate",
    "circular": "circular",
}


def per_dimension(name: str, value: int | Sequence[int], dims: int, minimum: int) -> tuple[int, ...]:
    """``value`` as one integer of at least ``minimum`` for each of ``dims`` spatial dimensions."""
    values = tuple(value) if isinstance(value, Sequence) else (value,) * dims
    if len(values) != dims or not all(is_integer(v) for v in values):
        raise TypeError(f"{name} must be an integer or {dims} integers, got {value!r}")
    if min(values) < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value!r}")
    return tuple(int(v) for v in values)


def padding_amounts(
    padding: int | str | Sequence[int],
    kernel_size: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
) -> tuple[int, ...]:
    """Padding before and after each dimension, the last dimension first, as ``torch.nn.functional.pad`` takes it."""
    dims = len(kernel_size)
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            raise ValueError(f"padding must be 'same', 'valid' or integers, got {padding!r}")
        if padding == "same" and any(step != 1 for step in stride):
            raise ValueError(f"padding='same' needs stride 1, got stride {stride}")
        totals = [d * (k - 1) if padding == "same" else 0 for k, d in zip(kernel_size, dilation, strict=True)]
        pairs = [(total // 2, total - total // 2) for total in totals]
    else:
        pairs = [(p, p) for p in per_dimension("padding", padding, dims, 0)]
    return tuple(amount for pair in reversed(pairs) for amount in pair)


class PaddedConvolution:
    """The arguments that convolutions share, checked, and the padding and shape rules that follow from them.

    A mixin: KANConv*d and LowRankKANConv2d are both convolutions, but keep different weights.
    """

    dims: ClassVar[int]

    def _set_geometry(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int],
        padding: int | str | Sequence[int],
        dilation: int | Sequence[int],
        groups: int,
        padding_mode: str,
    ) -> None:
        in_channels, out_channels, groups = check_channels(
            in_channels=in_channels, out_channels=out_channels, groups=groups
        )
        for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
            if channels % groups:
                raise ValueError(f"{name} must be divisible by groups, got {channels} and {groups}")
        if padding_mode not in PADDING_MODES:
            raise ValueError(f"padding_mode must be one of {', '.join(PADDING_MODES)}; got {padding_mode!r}")
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = per_dimension("kernel_size", kernel_size, self.dims, 1)
        self.stride = per_dimension("stride", stride, self.dims, 1)
        self.dilation = per_dimension("dilation", dilation, self.dims, 1)
        self.padding = padding if isinstance(padding, str) else per_dimension("padding", padding, self.dims, 0)
        self.padding_mode = padding_mode
        self._amounts = padding_amounts(self.padding, self.kernel_size, self.stride, self.dilation)

    @property
    def convolution(self) -> Convolution:
        """The geometry of the sum, its padding included."""
        return Convolution(self.stride, self._amounts, self.dilation, self.groups)

    def check_input(self, x: Tensor) -> None:
        """Raise unless ``x`` has the layer's channels and is large enough for one output position."""
        if is_jit_traced():
            return
        if x.ndim not in (self.dims + 1, self.dims + 2) or x.shape[-self.dims - 1] != self.in_channels:
            space = ", ".join(["depth", "height", "width"][-self.dims :])
            raise ValueError(f"input must have shape ([batch,] {self.in_channels}, {space}), got {tuple(x.shape)}")
        before, after = self._amounts[0::2][::-1], self._amounts[1::2][::-1]
        for size, left, right, k, d in zip(
            x.shape[-self.dims :], before, after, self.kernel_size, self.dilation, strict=True
        ):
            if size + left + right < d * (k - 1) + 1:
                raise ValueError(
                    f"input must be at least as large as the kernel: padded size {size + left + right}, "
                    f"kernel extent {d * (k - 1) + 1} (kernel_size {self.kernel_size}, dilation {self.dilation})"
                )

    def pad(self, x: Tensor) -> Tensor:
        """``x`` padded in the layer's mode."""
        return F.pad(x, self._amounts, mode=PADDING_MODES[self.padding_mode]) if any(self._amounts) else x

    def geometry_repr(self) -> str:
        """The convolution's arguments, without those at their defaults."""
        ones = (1,) * self.dims
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"]
        if self.stride != ones:
            parts.append(f"stride={self.stride}")
        if any(self._amounts):
            parts.append(f"padding={self.padding!r}")
        if self.dilation != ones:
            parts.append(f"dilation={self.dilation}")
        if self.groups != 1:
            parts.append(f"groups={self.groups}")
        if self.padding_mode != "zeros":
            parts.append(f"padding_mode={self.padding_mode!r}")
        return ", ".join(parts)


class _KANConv(PaddedConvolution, KANLayer):
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
        self._set_geometry(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode)
        super().__init__(
            self.in_channels,
            self.out_channels,
            self.kernel_size,
            self.groups,
            bias,
            self.convolution if padding_mode == "zeros" else self.convolution.without_padding(),
            basis=basis,
            base_activation=base_activation,
            backend=backend,
            device=device,
            dtype=dtype,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Sum the edges of every tap and input channel at each output position."""
        if isinstance(x, Proxy):
            return call_as_leaf(self, x)
        self.check_input(x)
        unbatched = x.ndim == self.dims + 1
        if unbatched:
            x = x.unsqueeze(0)
        channels_last = keeps_channels_last(x) or keeps_channels_last(self.basis_weight)
        if self.padding_mode != "zeros":
            x = self.pad(x)
        y = self.sum_of_edges(x)
        if self.bias is not None:
            y = y + self.bias.to(y.dtype).view(-1, *(1,) * self.dims)
        y = in_memory_format(y, channels_last)
        return y.squeeze(0) if unbatched else y

    def extra_repr(self) -> str:
        """Sizes and options."""
        return f"{self.geometry_repr()}, bias={self.bias is not None}, {KANLayer.extra_repr(self)}"


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
