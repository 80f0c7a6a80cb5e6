"""The arguments that convolutions share, checked, and the padding and shapes that follow from them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Self

import torch.nn.functional as F
from torch import Tensor

from convkan.modes import is_jit_traced
from convkan.nn.sizes import per_dimension
from convkan.ops import Convolution, TransposedConvolution

PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]
PADDING_MODES: dict[str, str] = {
    "zeros": "constant",
    "reflect": "reflect",
    "replicate": "replicate",
    "circular": "circular",
}


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


def transposed_geometry(
    dims: int,
    stride: int | Sequence[int],
    padding: int | Sequence[int],
    output_padding: int | Sequence[int],
    dilation: int | Sequence[int],
    groups: int,
) -> TransposedConvolution:
    """How a transposed convolution over ``dims`` dimensions of space sums its edges.

    Raises:
        TypeError: A size is not an integer, or a tuple has the wrong length.
        ValueError: A size is out of range.
    """
    geometry = TransposedConvolution(
        per_dimension("stride", stride, dims, 1),
        per_dimension("padding", padding, dims, 0),
        per_dimension("output_padding", output_padding, dims, 0),
        per_dimension("dilation", dilation, dims, 1),
        groups,
    )
    for more, step, distance in zip(geometry.output_padding, geometry.stride, geometry.dilation, strict=True):
        if more >= max(step, distance):
            raise ValueError(
                f"output_padding must be smaller than stride or dilation, got {geometry.output_padding} with stride "
                f"{geometry.stride} and dilation {geometry.dilation}"
            )
    return geometry


def check_reach(x: Tensor, geometry: TransposedConvolution, in_channels: int, kernel_size: tuple[int, ...]) -> None:
    """Raise unless an input of a transposed convolution has the right channels, and reaches one output position."""
    if is_jit_traced():
        return
    dims = len(kernel_size)
    if x.ndim not in (dims + 1, dims + 2) or x.shape[-dims - 1] != in_channels:
        space = ", ".join(["depth", "height", "width"][-dims:])
        raise ValueError(f"input must have shape ([batch,] {in_channels}, {space}), got {tuple(x.shape)}")
    positions = geometry.positions(x.shape[-dims:], kernel_size)
    if any(size < 1 or count < 1 for size, count in zip(x.shape[-dims:], positions, strict=True)):
        raise ValueError(
            f"input must be large enough for one output position, got {tuple(x.shape[-dims:])} with "
            f"kernel_size {kernel_size} and padding {geometry.trim}"
        )


@dataclass(frozen=True)
class PaddedConvolution:
    """What a convolution does to space: its arguments, checked, and the padding and shapes that follow from them.

    Attributes:
        in_channels: Channels of the input.
        kernel_size: Taps in each dimension.
        stride: Step of the output positions.
        padding: As it was given: amounts, "same" or "valid".
        dilation: Distance of taps.
        groups: Groups of channels that do not mix.
        padding_mode: What the padding holds.
    """

    in_channels: int
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...] | str
    dilation: tuple[int, ...]
    groups: int
    padding_mode: PaddingMode
    amounts: tuple[int, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        amounts = padding_amounts(self.padding, self.kernel_size, self.stride, self.dilation)
        object.__setattr__(self, "amounts", amounts)

    @classmethod
    def of(
        cls,
        dims: int,
        in_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int],
        padding: int | str | Sequence[int],
        dilation: int | Sequence[int],
        groups: int,
        padding_mode: PaddingMode,
    ) -> Self:
        """From a convolution's arguments, over ``dims`` dimensions of space.

        Raises:
            TypeError: A size is not an integer, or a tuple has the wrong length.
            ValueError: A size is out of range, channels are not divisible by groups, or a name is unknown.
        """
        if in_channels % groups:
            raise ValueError(f"in_channels must be divisible by groups, got {in_channels} and {groups}")
        if padding_mode not in PADDING_MODES:
            raise ValueError(f"padding_mode must be one of {', '.join(PADDING_MODES)}; got {padding_mode!r}")
        return cls(
            in_channels,
            per_dimension("kernel_size", kernel_size, dims, 1),
            per_dimension("stride", stride, dims, 1),
            padding if isinstance(padding, str) else per_dimension("padding", padding, dims, 0),
            per_dimension("dilation", dilation, dims, 1),
            groups,
            padding_mode,
        )

    @property
    def dims(self) -> int:
        """Dimensions of space."""
        return len(self.kernel_size)

    @property
    def geometry(self) -> Convolution:
        """How edges are summed: with the padding, where that is of zeros."""
        amounts = self.amounts if self.padding_mode == "zeros" else (0,) * len(self.amounts)
        return Convolution(self.stride, amounts, self.dilation, self.groups)

    def check_input(self, x: Tensor) -> None:
        """Raise unless ``x`` has the right channels and is large enough for one output position."""
        if is_jit_traced():
            return
        dims = self.dims
        if x.ndim not in (dims + 1, dims + 2) or x.shape[-dims - 1] != self.in_channels:
            space = ", ".join(["depth", "height", "width"][-dims:])
            raise ValueError(f"input must have shape ([batch,] {self.in_channels}, {space}), got {tuple(x.shape)}")
        before, after = self.amounts[0::2][::-1], self.amounts[1::2][::-1]
        for size, left, right, k, d in zip(
            x.shape[-dims:], before, after, self.kernel_size, self.dilation, strict=True
        ):
            if size + left + right < d * (k - 1) + 1:
                raise ValueError(
                    f"input must be at least as large as the kernel: padded size {size + left + right}, "
                    f"kernel extent {d * (k - 1) + 1} (kernel_size {self.kernel_size}, dilation {self.dilation})"
                )

    def pad(self, x: Tensor) -> Tensor:
        """``x`` padded in its mode."""
        return F.pad(x, self.amounts, mode=PADDING_MODES[self.padding_mode]) if any(self.amounts) else x

    def describe(self, out_channels: int) -> str:
        """The convolution's arguments, without those at their defaults."""
        ones = (1,) * self.dims
        parts = [f"{self.in_channels}, {out_channels}, kernel_size={self.kernel_size}"]
        if self.stride != ones:
            parts.append(f"stride={self.stride}")
        if any(self.amounts):
            parts.append(f"padding={self.padding!r}")
        if self.dilation != ones:
            parts.append(f"dilation={self.dilation}")
        if self.groups != 1:
            parts.append(f"groups={self.groups}")
        if self.padding_mode != "zeros":
            parts.append(f"padding_mode={self.padding_mode!r}")
        return ", ".join(parts)
