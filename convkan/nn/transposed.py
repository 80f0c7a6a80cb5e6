"""Transposed convolutional KAN layers in one, two and three dimensions."""

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from convkan.basis import Basis, BSpline
from convkan.nn.conv import SpatialLayer
from convkan.nn.initialization import initialize_edges
from convkan.nn.layer import KANLayer
from convkan.nn.memory import in_memory_format, keeps_channels_last
from convkan.nn.padding import check_reach, transposed_geometry
from convkan.nn.plain import LINEAR, silence, take_over, transposed_arguments, where
from convkan.nn.sizes import check_channels, per_dimension, sizes_of_space
from convkan.nn.tracing import call_as_leaf
from convkan.ops import Plan, TransposedConvolution, evaluate
from convkan.ops.transposed import by_output, by_plane


def convolve_transposed(
    x: Tensor,
    base_weight: Tensor | None,
    basis_weight: Tensor,
    grid: Tensor | None,
    bias: Tensor | None,
    plan: Plan,
    keep_channels_last: bool,
    backend: str,
) -> Tensor:
    """Add up what every pixel's taps make of it, where they fall: what layers and functions both call.

    Weights are by output, and whether they ``keep_channels_last`` is of torch's own layout of them.
    """
    dims = basis_weight.ndim - 2
    rows = x.unsqueeze(0) if x.ndim == dims + 1 else x
    y = evaluate(rows, base_weight, basis_weight, grid, plan, backend)
    if bias is not None:
        y = y + bias.to(y.dtype).view(-1, *(1,) * dims)
    y = in_memory_format(y, keep_channels_last or keeps_channels_last(rows))
    return y if rows is x else y.squeeze(0)


class TransposedLayer(SpatialLayer, KANLayer):
    """A transposed KAN convolution over ``dims`` spatial dimensions."""

    edge_layouts: ClassVar[dict[str, str]] = dict.fromkeys(("base_weight", "basis_weight"), "(g f c) o ...")
    geometry: TransposedConvolution
    _whole: TransposedConvolution
    _largest: Plan

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        output_padding: int | Sequence[int] = 0,
        groups: int = 1,
        bias: bool = False,
        dilation: int | Sequence[int] = 1,
        padding_mode: str = "zeros",
        *,
        basis: Basis | str = BSpline(),
        base_activation: str | None = "silu",
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        in_channels, out_channels, groups = check_channels(
            in_channels=in_channels, out_channels=out_channels, groups=groups
        )
        for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
            if channels % groups:
                raise ValueError(f"{name} must be divisible by groups, got {channels} and {groups}")
        if padding_mode != "zeros":
            raise ValueError(f"padding_mode must be 'zeros', got {padding_mode!r}")
        nn.Module.__init__(self)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = per_dimension("kernel_size", kernel_size, self.dims, 1)
        geometry = transposed_geometry(self.dims, stride, padding, output_padding, dilation, groups)
        self.stride, self.padding, self.dilation = geometry.stride, geometry.trim, geometry.dilation
        self.output_padding, self.padding_mode = geometry.output_padding, padding_mode
        self._make_edges(
            in_channels,
            out_channels,
            self.kernel_size,
            groups,
            bias,
            geometry,
            basis=basis,
            base_activation=base_activation,
            backend=backend,
            device=device,
            dtype=dtype,
        )

    @classmethod
    def from_conv(cls, conv: nn.Module, *, basis: Basis | str = BSpline(), backend: str = "auto") -> Self:
        """The layer that starts as a plain transposed convolution; see ``KANConv2d.from_conv``.

        Args:
            conv: The transposed convolution of ``torch.nn``, over as many dimensions.
            basis: The univariate basis, or its name. Its grid should hold what the convolution is given.
            backend: "auto", or the name of a backend.

        Raises:
            TypeError: ``conv`` is another kind of layer.
            RuntimeError: Its weight is computed from others (weight normalisation, pruning), or sharded.

        Example:
            >>> import torch
            >>> conv, x = nn.ConvTranspose2d(3, 8, 4, 2, 1), torch.randn(2, 3, 8, 8)
            >>> torch.allclose(KANConvTranspose2d.from_conv(conv)(x), conv(x), atol=1e-6)
            True
        """
        arguments = transposed_arguments(conv, cls.dims)
        layer = cls(*arguments, basis=basis, base_activation=LINEAR, backend=backend, **where(conv))
        take_over(layer, conv, "base_weight")
        assert layer.base_weight is not None
        silence(layer.basis_weight, layer.base_weight)
        return layer

    def forward(self, x: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """Add up what every pixel's taps make of it, where they fall.

        Args:
            x: The input.
            output_size: Sizes of the output's space (or of all of its dimensions), which decide ``output_padding``
                for this call, as in torch.

        Raises:
            TypeError: The size is no sequence of integers.
            ValueError: The input or the size does not fit the layer.
        """
        if isinstance(x, Proxy):
            return call_as_leaf(self, x, **({} if output_size is None else {"output_size": output_size}))
        plan, geometry = self.plan, self.geometry
        if output_size is not None:
            plan, geometry = self._largest.with_spacing(plan.expansion.uniform), self._whole
        self.check_input(x, geometry)
        kept = () if output_size is None else self._kept(x, output_size)
        channels_last = keeps_channels_last(self.basis_weight)
        y = convolve_transposed(x, *self.edge_weights(), self.grid, self.bias, plan, channels_last, self.backend)
        y = self.add_named(y, x, geometry)
        if not kept:
            return y
        whole = self.as_batch(y)
        y = in_memory_format(whole[(slice(None), slice(None), *kept)], keeps_channels_last(whole))
        return y if x.ndim == whole.ndim else y.squeeze(0)

    def _kept(self, x: Tensor, output_size: Sequence[int]) -> tuple[slice, ...]:
        """What is asked for of the largest output."""
        sizes = sizes_of_space("output_size", output_size, self.dims, x.ndim)
        most = self._whole.positions(x.shape[-self.dims :], self.kernel_size)
        least = tuple(max(1, high - step + 1) for high, step in zip(most, self.stride, strict=True))
        if not all(low <= size <= high for low, size, high in zip(least, sizes, most, strict=True)):
            raise ValueError(f"output_size must lie between {least} and {most} for this input, got {sizes}")
        return tuple(slice(size) for size in sizes)

    def _describe(self) -> None:
        """Bring the plan up to date, and that with all the padding which ``output_size`` can ask for."""
        super()._describe()
        self._whole = replace(self.geometry, output_padding=tuple(step - 1 for step in self.stride))
        self._largest = Plan(self._plan.expansion, self._whole)

    def check_input(self, x: Tensor, geometry: TransposedConvolution | None = None) -> None:
        """Raise unless ``x`` has the layer's channels and is large enough for one output position, here or as given."""
        check_reach(x, geometry or self.geometry, self.in_channels, self.kernel_size)

    @property
    def edge_shape(self) -> tuple[int, ...]:
        """(out, in/groups, *kernel)."""
        return self.out_channels, self.in_channels // self.groups, *self.kernel_size

    def by_output(self, weight: Tensor) -> Tensor:
        """Torch's layout, (planes, out/groups, *kernel), made (out, planes/groups, *kernel); a view, if groups is 1."""
        return by_output(weight, self.groups)

    def as_stored(self, weight: Tensor) -> Tensor:
        """The inverse of ``by_output``."""
        return by_plane(weight, self.num_groups)

    def edge_weights(self) -> tuple[Tensor | None, Tensor]:
        """Base weight and basis weight as they count, by output: without the edges that are masked."""
        base = None if self.base_weight is None else self.by_output(self.base_weight)
        return self.without_masked(base, self.by_output(self.basis_weight))

    def functions_in(self, weight: Tensor) -> int | None:
        """How many functions a basis weight is for; None if it is not one of this layer, whatever the basis."""
        fits = weight.shape[1:] == self.basis_weight.shape[1:] and len(weight) % self.in_channels == 0
        return len(weight) // self.in_channels if fits else None

    def _draw_weights(self) -> None:
        """As many edges are summed in an output as taps fall on it, on average."""
        base = None if self.base_weight is None else self.by_output(self.base_weight).clone()
        basis = self.by_output(self.basis_weight).clone()
        taps = prod(max(1.0, k / s) for k, s in zip(self.kernel_size, self.stride, strict=True))
        fan_in = self.in_channels // self.groups * taps
        initialize_edges(base, self._split(basis), self._basis, self.base_activation, fan_in=fan_in)
        self.basis_weight.copy_(self.as_stored(basis))
        if self.base_weight is not None and base is not None:
            self.base_weight.copy_(self.as_stored(base))

    def resized(self, inputs: int, outputs: int, groups: int) -> Self:
        """A fresh layer of other sizes, of the same kind and with the same options."""
        window: tuple[Any, ...] = (self.kernel_size, self.stride, self.padding, self.output_padding)
        window = (*window, groups, self.bias is not None, self.dilation)
        return type(self)(inputs, outputs, *window, **self.options())

    def extra_repr(self) -> str:
        """Sizes and options."""
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"]
        defaults = {"stride": 1, "padding": 0, "output_padding": 0, "dilation": 1}
        given = {name: getattr(self, name) for name in defaults}
        parts += [f"{name}={value}" for name, value in given.items() if value != (defaults[name],) * self.dims]
        if self.groups != 1:
            parts.append(f"groups={self.groups}")
        return f"{', '.join(parts)}, bias={self.bias is not None}, {KANLayer.extra_repr(self)}"


class KANConvTranspose1d(TransposedLayer):
    """A transposed convolution over sequences whose weights are learnable functions; see ``KANConvTranspose2d``.

    Shape:
        (batch, in_channels, length) or (in_channels, length); the output likewise.

    Example:
        >>> import torch
        >>> KANConvTranspose1d(3, 8, 4, 2, 1)(torch.zeros(2, 3, 10)).shape
        torch.Size([2, 8, 20])
    """

    dims = 1


class KANConvTranspose2d(TransposedLayer):
    r"""A transposed convolution over images whose weights are learnable functions.

    y[n,o,q] = Σ_{c in group} Σ φ[o,c,tap](x[n,c,p]) (+ bias[o]), over all pixels p and taps with
    p·stride + tap·dilation − padding = q, and φ(x) = w_b·b(x) + Σ_k c_k·B_k(x). Every edge sees pixels of the input:
    an output that no tap reaches is the bias alone, not φ(0).

    The weights are those of the transposed convolution of all features itself, laid out as torch lays out its own:
    ``base_weight`` (in, out/groups, \*kernel), ``basis_weight`` (K·in, out/groups, \*kernel), feature-major within
    each group. ``coefficients`` is (out, in/groups, K, \*kernel) as of all layers; with groups it is a copy, no view.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Taps in each dimension, an integer or one for each.
        stride: Distance of what neighbouring pixels reach.
        padding: Outputs left out at each end.
        output_padding: Outputs added at the far end; smaller than the stride or the dilation.
        groups: Groups of channels that do not mix.
        bias: Add a learnable constant. Off by default, since a spline holds one already.
        dilation: Distance of taps.
        padding_mode: "zeros"; there is no other, as in torch.
        basis: The univariate basis, or its name.
        base_activation: Name of the fixed part of each edge, or None.
        backend: "auto", or the name of a backend.
        device: Where the parameters live.
        dtype: Floating point type of parameters and inputs.

    Raises:
        TypeError: A size is not an integer, or a tuple has the wrong length.
        ValueError: A size is out of range, channels are not divisible by groups, or a name is unknown.

    Shape:
        (batch, in_channels, height, width) or (in_channels, height, width); the output likewise, each side
        (size − 1)·stride − 2·padding + dilation·(kernel_size − 1) + output_padding + 1.

    Example:
        >>> import torch
        >>> layer = KANConvTranspose2d(8, 3, 3, stride=2, padding=1)
        >>> layer(torch.zeros(2, 8, 16, 16)).shape, layer(torch.zeros(2, 8, 16, 16), output_size=(32, 32)).shape
        (torch.Size([2, 3, 31, 31]), torch.Size([2, 3, 32, 32]))
    """

    dims = 2


class KANConvTranspose3d(TransposedLayer):
    """A transposed convolution over volumes whose weights are learnable functions; see ``KANConvTranspose2d``.

    Shape:
        (batch, in_channels, depth, height, width) or (in_channels, depth, height, width); the output likewise.

    Example:
        >>> import torch
        >>> KANConvTranspose3d(1, 2, 2, 2)(torch.zeros(2, 1, 3, 3, 3)).shape
        torch.Size([2, 2, 6, 6, 6])
    """

    dims = 3
