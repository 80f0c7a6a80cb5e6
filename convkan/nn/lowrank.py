"""The cheap KAN convolution: learnable activations, and then a plain convolution."""

from collections.abc import Sequence
from math import sqrt
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.fx import Proxy

from convkan.basis import Basis, BSpline
from convkan.modes import is_called_plainly, is_traced
from convkan.nn.activation import LearnableActivation, activate
from convkan.nn.conv import ConvolutionLayer
from convkan.nn.layer import KANLayer
from convkan.nn.padding import PaddingMode
from convkan.nn.plain import LINEAR, convolution_arguments, take_over, where
from convkan.nn.reparametrized import check_own
from convkan.nn.sizes import check_channels
from convkan.nn.tracing import call_as_leaf
from convkan.ops import shifts_well

# Numbers of an input from which on it pays to activate it without its padding, and the zeros of that on their own.
LEAST_SHIFTED = 2**16


class LowRankKANConv2d(ConvolutionLayer):
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
    edge_layouts: ClassVar[dict[str, str]] = {"weight": "o (c f) ..."}
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
        self._take_arguments(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode)
        (self.rank,) = check_channels(rank=rank)
        self.activation = LearnableActivation(
            self.in_channels,
            self.rank,
            padding=self.convolution.amounts if padding_mode == "zeros" else (),
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
        self.num_inputs, self.num_groups = self.in_channels, self.groups
        self.geometry = self.convolution.geometry
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

    @classmethod
    def from_conv(
        cls, conv: nn.Module, *, rank: int = 1, basis: Basis | str = BSpline(), backend: str = "auto"
    ) -> Self:
        """The layer that starts as a plain convolution, of functions that are all x; see ``KANConv2d.from_conv``.

        With rank 1 its weight is the convolution's own parameter. With more, the first function of each channel has the
        convolution's weights, and the others, which are drawn at random, weights of 0.

        Args:
            conv: An ``nn.Conv2d``.
            rank: Functions R of each input channel.
            basis: The univariate basis, or its name. Its grid should hold what the convolution is given.
            backend: "auto", or the name of a backend.

        Raises:
            TypeError: ``conv`` is another kind of layer.
            RuntimeError: Its weight is computed from others (weight normalisation, pruning), or sharded.

        Example:
            >>> import torch
            >>> conv, x = nn.Conv2d(3, 8, 3, padding=1), torch.randn(2, 3, 16, 16)
            >>> torch.allclose(LowRankKANConv2d.from_conv(conv, rank=2)(x), conv(x), atol=1e-6)
            True
        """
        arguments = convolution_arguments(conv, cls.dims)
        layer = cls(*arguments, rank=rank, basis=basis, base_activation=LINEAR, backend=backend, **where(conv))
        activation, own = layer.activation, layer.weight
        take_over(layer, conv, "weight")
        assert activation.base_weight is not None
        with torch.no_grad():
            activation.base_weight.fill_(1)
            first = torch.zeros_like(activation.basis_weight)
            if rank > 1:
                first.normal_(0, 1 / sqrt(first.shape[1])).view(-1, rank, first.shape[1])[:, 0] = 0
                own.zero_()[:, ::rank] = layer.weight
                layer.weight = nn.Parameter(own.data, requires_grad=layer.weight.requires_grad)
            activation.basis_weight.copy_(first)
        activation.requires_grad_(layer.weight.requires_grad)
        return layer

    def forward(self, x: Tensor) -> Tensor:
        """Activate every padded pixel, then convolve."""
        if isinstance(x, Proxy):
            return call_as_leaf(self, x)
        self.check_input(x)
        batch = self.as_batch(x)
        if self._may_shift(batch):
            y = self._shifted(batch)
        else:
            activated = self.activation(self._without_zeros(batch))
            y = F.conv2d(activated, self.edge_weight(), self.bias, self.stride, 0, self.dilation, self.groups)
        return y if x.ndim > self.dims + 1 else y.squeeze(0)

    def _may_shift(self, x: Tensor) -> bool:
        """Whether ``_shifted`` is the fast way for this input, and nobody looks on as the activation is called."""
        activation = self.activation
        return (
            not is_traced()
            and x.numel() >= LEAST_SHIFTED
            and self.padding_mode == "zeros"
            and any(self.convolution.amounts)
            and self.convolution.amounts[::2] == self.convolution.amounts[1::2]
            and type(activation) is LearnableActivation
            and (activation.padding, activation.dim) == (self.convolution.amounts, 1)
            and activation.backend in ("auto", "dense")
            and activation.named_edges is None
            and is_called_plainly(activation)
            and shifts_well(
                x, activation.base_weight, activation.basis_weight, activation.grid, activation.plan.expansion
            )
        )

    def _shifted(self, x: Tensor) -> Tensor:
        """Of functions less their values at 0, which are 0 where the padding is, so that only inputs are activated.

        What these values come to is the same at every position, and one number for each output.
        """
        activation, weight = self.activation, self.edge_weight()
        plan, parameters = activation.plan, (*activation.edge_weights(), activation.grid)
        zero, backend = x.new_zeros(1, x.shape[1], 1, 1), activation.backend
        at_zero = activate(zero, *parameters, plan.of_activation(False), backend)
        bias = F.conv2d(at_zero.expand(-1, -1, *self.kernel_size), weight, self.bias, groups=self.groups).flatten()
        activated = activate(x, *parameters, plan.of_activation(True), backend)
        padding = self.convolution.amounts[::-2]
        return F.conv2d(activated, weight, bias, self.stride, padding, self.dilation, self.groups)

    def _without_zeros(self, x: Tensor) -> Tensor:
        """``x`` padded, but for zeros, which the activation puts around it."""
        return x if self.padding_mode == "zeros" else self.seen(x)

    def edge_weight(self) -> Float[Tensor, "out_channels planes height width"]:
        """``weight`` as it counts: without the edges that are masked."""
        if self.edge_mask is None:
            return self.weight
        return self.weight * self.alive_edges(self.weight).repeat_interleave(self.rank, dim=1)

    @property
    def functions(self) -> KANLayer:
        """The activation."""
        return self.activation

    def edge_planes(self) -> Float[Tensor, "out_channels in_per_group features height width"]:
        """The weights of the convolution on features that the layer stands for: Σ_r w[o,c,r,tap]·ψ[c,r]'s.

        Raises:
            ValueError: Functions of its activation are named ones.
        """
        if self.activation.named_edges is not None:
            raise ValueError("layer must have splines alone: functions of its activation are fixed; look at those")
        inner = self.activation.edge_planes()  # (channels·rank, 1, features)
        functions = rearrange(inner, "(g c r) 1 f -> g c r f", r=self.rank, g=self.groups)
        weight = rearrange(self.edge_weight(), "(g o) (c r) h w -> g o c r h w", g=self.groups, r=self.rank)
        return torch.einsum("g o c r h w, g c r f -> g o c f h w", weight, functions).flatten(0, 1)

    def options(self) -> dict[str, Any]:
        """The keyword arguments that make another layer like it."""
        return {"rank": self.rank} | self.activation.options()

    def masked_weights(self) -> dict[str, Tensor]:
        """``edge_weight`` by name."""
        return {"weight": self.edge_weight()}

    @property
    def edge_shape(self) -> tuple[int, ...]:
        """(out_channels, in_channels/groups, height, width)."""
        return self.out_channels, self.in_channels // self.groups, *self.kernel_size

    def extra_repr(self) -> str:
        """Sizes and options."""
        return f"{self.convolution.describe(self.out_channels)}, bias={self.bias is not None}, rank={self.rank}"
