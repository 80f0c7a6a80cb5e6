"""Learnable activations shared by all taps and outputs of a channel, and the cheap convolution they make."""

from collections.abc import Sequence
from math import sqrt

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.fx import Proxy

from convkan.basis import Basis, BSpline
from convkan.basis.base import is_jit_traced
from convkan.nn.conv import PaddedConvolution, PaddingMode
from convkan.nn.layer import KANLayer, check_channels
from convkan.nn.masking import MaskedEdges
from convkan.nn.memory import in_memory_format, keeps_channels_last
from convkan.nn.reparametrized import check_own
from convkan.nn.tracing import Whole, call_as_leaf
from convkan.ops import Channelwise


class LearnableActivation(KANLayer):
    """ψ[c,r](x[n,c,…]): ``num_functions`` learnable functions for each channel, a drop-in for ReLU.

    The weights are those of a KAN convolution with one group a channel: ``basis_weight`` is
    (num_channels·num_functions, K), row c·num_functions + r.

    Args:
        num_channels: Channels of the input (dimension 1).
        num_functions: Functions R of each channel.
        padding: Zeros put around the input first, as ``torch.nn.functional.pad`` takes them; there the output is ψ(0).
        basis: The univariate basis, or its name.
        base_activation: Name of the fixed part of each function, or None.
        backend: "auto", or the name of a backend.
        device: Where the parameters live.
        dtype: Floating point type of parameters and inputs.

    Raises:
        TypeError: A size is not an integer.
        ValueError: A size is not positive, a padding negative or without its pair, or a name unknown.

    Shape:
        (batch, num_channels, …) → (batch, num_channels·num_functions, …); output channel c·R + r.

    Example:
        >>> import torch
        >>> LearnableActivation(3, num_functions=2)(torch.zeros(4, 3, 8, 8)).shape
        torch.Size([4, 6, 8, 8])
    """

    random_functions = False  # no sum averages their roughness out

    def __init__(
        self,
        num_channels: int,
        num_functions: int = 1,
        *,
        padding: Sequence[int] = (),
        basis: Basis | str = BSpline(),
        base_activation: str | None = "silu",
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        num_channels, num_functions = check_channels(num_channels=num_channels, num_functions=num_functions)
        padding = _check_padding(padding)
        super().__init__(
            num_channels,
            num_channels * num_functions,
            (),
            num_channels,
            False,
            Channelwise(padding),
            basis=basis,
            base_activation=base_activation,
            backend=backend,
            device=device,
            dtype=dtype,
        )
        self.num_channels, self.num_functions, self.padding = num_channels, num_functions, padding

    def forward(self, x: Tensor) -> Tensor:
        """Apply every channel's functions."""
        if isinstance(x, Proxy):
            return call_as_leaf(self, x)
        if not is_jit_traced() and (x.ndim < 2 or x.shape[1] != self.num_channels):
            raise ValueError(f"input must have {self.num_channels} channels in dimension 1, got {tuple(x.shape)}")
        if x.ndim < 2 + len(self.padding) // 2:
            raise ValueError(f"input must have the dimensions that padding {self.padding} is for, got {tuple(x.shape)}")
        channels_last = keeps_channels_last(x)
        y = self.sum_of_edges(x)
        return in_memory_format(y, channels_last)

    def extra_repr(self) -> str:
        """Sizes and options."""
        padding = f"padding={self.padding}, " if any(self.padding) else ""
        return f"{self.num_channels}, num_functions={self.num_functions}, {padding}{super().extra_repr()}"


class LowRankKANConv2d(PaddedConvolution, Whole, MaskedEdges):
    """A KAN convolution whose edges share ``rank`` functions a channel: φ[o,c,tap] = Σ_r w[o,c,r,tap]·ψ[c,r].

    A ``LearnableActivation`` and then a plain convolution. Rank 1 takes about the multiply-adds of a plain convolution;
    rank K + 1 can represent every ``KANConv2d``. As there, padding pads the input, so a border tap contributes φ(0).

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Taps in each dimension, an integer or a pair.
        stride: Step of the output positions.
        padding: Rows added on each side, "same" or "valid".
        dilation: Distance of taps.
        groups: Groups of channels that do not mix.
        bias: Add a learnable constant.
        padding_mode: What the padding holds: "zeros", "reflect", "replicate" or "circular".
        rank: Functions R of each input channel.
        basis: The univariate basis, or its name.
        base_activation: Name of the fixed part of each function, or None.
        backend: "auto", or the name of a backend.
        device: Where the parameters live.
        dtype: Floating point type of parameters and inputs.

    Attributes:
        activation: The functions ψ.
        weight: w, (out_channels, in_channels/groups·rank, height, width).
        bias: (out_channels,), or None.
        edge_mask: Which edges are alive, (out_channels, in_channels/groups, height, width) of booleans, or None for
            all; as in ``KANConv2d``.

    Raises:
        TypeError: A size is not an integer, or a tuple has the wrong length.
        ValueError: A size is out of range, channels are not divisible by groups, or a name is unknown.

    Shape:
        (batch, in_channels, height, width) or (in_channels, height, width); the output likewise.

    Example:
        >>> import torch
        >>> LowRankKANConv2d(3, 8, 3, padding=1, rank=2)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 8, 32, 32])
    """

    dims = 2
    bias: nn.Parameter | None

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
        rank: int = 1,
        basis: Basis | str = BSpline(),
        base_activation: str | None = "silu",
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        nn.Module.__init__(self)
        self._set_geometry(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode)
        (self.rank,) = check_channels(rank=rank)
        self.activation = LearnableActivation(
            self.in_channels,
            self.rank,
            padding=self._amounts if padding_mode == "zeros" else (),
            basis=basis,
            base_activation=base_activation,
            backend=backend,
            device=device,
            dtype=dtype,
        )
        shape = (self.out_channels, self.in_channels // self.groups * self.rank, *self.kernel_size)
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.register_parameter(
            "bias", nn.Parameter(torch.empty(out_channels, device=device, dtype=dtype)) if bias else None
        )
        self.edge_mask = None
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw new weights that keep the variance of activations.

        Raises:
            RuntimeError: A weight is not the layer's own parameter but computed from others.
        """
        check_own(self, "weight")
        self.activation.reset_parameters()
        nn.init.normal_(self.weight, 0, 1 / sqrt(self.weight[0].numel()))
        self.clear_masked()
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Activate every padded pixel, then convolve."""
        if isinstance(x, Proxy):
            return call_as_leaf(self, x)
        self.check_input(x)
        unbatched = x.ndim == 3
        if unbatched:
            x = x.unsqueeze(0)
        activated = self.activation(x if self.padding_mode == "zeros" else self.pad(x))
        y = F.conv2d(activated, self.edge_weight(), self.bias, self.stride, 0, self.dilation, self.groups)
        return y.squeeze(0) if unbatched else y

    def edge_weight(self) -> Float[Tensor, "out_channels planes height width"]:
        """``weight`` as it counts: without the edges that are masked."""
        if self.edge_mask is None:
            return self.weight
        return self.weight * self.alive_edges(self.weight).repeat_interleave(self.rank, dim=1)

    def masked_weights(self) -> dict[str, Tensor]:
        """``edge_weight`` by name."""
        return {"weight": self.edge_weight()}

    @property
    def edge_shape(self) -> tuple[int, ...]:
        """(out_channels, in_channels/groups, height, width)."""
        return self.out_channels, self.in_channels // self.groups, *self.kernel_size

    def extra_repr(self) -> str:
        """Sizes and options."""
        return f"{self.geometry_repr()}, bias={self.bias is not None}, rank={self.rank}"


def _check_padding(padding: Sequence[int]) -> tuple[int, ...]:
    """``padding`` as pairs of amounts before and after each dimension."""
    amounts = tuple(padding) if isinstance(padding, Sequence) else ()
    if not isinstance(padding, Sequence) or not all(type(amount) is int for amount in amounts):
        raise TypeError(f"padding must be pairs of integers, got {padding!r}")
    if len(amounts) % 2 or min(amounts, default=0) < 0:
        raise ValueError(f"padding must be pairs of amounts of at least 0, got {padding!r}")
    return amounts
