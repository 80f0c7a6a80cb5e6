"""Learnable activations: functions of every channel, shared by all taps and outputs."""

from collections.abc import Sequence
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.fx import Proxy

from convkan.basis import Basis, BSpline
from convkan.modes import is_jit_traced, is_traced
from convkan.nn.layer import KANLayer
from convkan.nn.memory import in_memory_format, keeps_channels_last
from convkan.nn.sizes import check_channels
from convkan.nn.tracing import call_as_leaf
from convkan.ops import Channelwise, Plan, evaluate


def activate(
    x: Tensor,
    base_weight: Tensor | None,
    basis_weight: Tensor,
    grid: Tensor | None,
    plan: Plan,
    backend: str,
) -> Tensor:
    """Apply every channel's functions: what the layer and its functional form both call."""
    y = evaluate(x, base_weight, basis_weight, grid, plan, backend)
    if not is_traced() and len(basis_weight) == 1:  # of a single function, in the order of the input, whatever that is
        return y
    return in_memory_format(y, keeps_channels_last(x))


class LearnableActivation(KANLayer):
    """ψ[c,r](x[n,c,…]): ``num_functions`` learnable functions for each channel, a drop-in for ReLU.

    The weights are those of a KAN convolution with one group a channel: ``basis_weight`` is
    (num_channels·num_functions, K), row c·num_functions + r.

    Args:
        num_channels: Channels of the input (dimension 1). Without, one function serves all of them: what is made is a
            ``SharedActivation``.
        num_functions: Functions R of each channel.
        padding: Zeros put around the input first, as ``torch.nn.functional.pad`` takes them; there the output is ψ(0).
        dim: The dimension of the channels: 1, or −1 where they are last, as behind ``nn.Linear``.
        inplace: Taken as torch's activations take it, and without effect on the result: the input is left as it is.
        basis: The univariate basis, or its name.
        base_activation: Name of the fixed part of each function, or None.
        backend: "auto", or the name of a backend.
        device: Where the parameters live.
        dtype: Floating point type of parameters and inputs.

    Raises:
        TypeError: A size is not an integer.
        ValueError: A size is not positive, a padding negative or without its pair, or a name unknown; or
            ``dim`` is not 1 or −1, or −1 with padding.

    Shape:
        (batch, num_channels, …) → (batch, num_channels·num_functions, …); output channel c·R + r. With ``dim=-1``
        channels are last in both.

    Example:
        >>> import torch
        >>> LearnableActivation(3, num_functions=2)(torch.zeros(4, 3, 8, 8)).shape
        torch.Size([4, 6, 8, 8])
    """

    for_all_channels: ClassVar[type["LearnableActivation"]]  # what one without channels is: see ``convkan.nn.shared``

    def __init__(
        self,
        num_channels: int | None = None,
        num_functions: int = 1,
        *,
        padding: Sequence[int] = (),
        dim: int = 1,
        inplace: bool = False,
        basis: Basis | str = BSpline(),
        base_activation: str | None = "silu",
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if num_channels is None and type(self) is LearnableActivation:
            if num_functions != 1 or len(padding) or dim != 1:
                raise ValueError("num_channels must be given where num_functions, padding or dim are")
            self.__class__ = self.for_all_channels
            self.__init__(  # type: ignore[misc]
                inplace=inplace,
                basis=basis,
                base_activation=base_activation,
                backend=backend,
                device=device,
                dtype=dtype,
            )
            return
        num_channels, num_functions = check_channels(num_channels=num_channels, num_functions=num_functions)
        padding = check_padding(padding)
        if dim not in (1, -1) or (dim == -1 and padding):
            raise ValueError(f"dim must be 1, or -1 without padding, got {dim!r} with padding {padding}")
        super().__init__()
        self.dim, self.inplace = dim, bool(inplace)
        self._make_edges(
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
        self.check_input(x)
        y = activate(self.as_batch(x), *self.edge_weights(), self.grid, self.plan, self.backend)
        return self.add_named(y if self.dim == 1 else y.reshape(*x.shape[:-1], y.shape[1]), x)

    def check_input(self, x: Tensor) -> None:
        """Raise unless ``x`` has the layer's channels, and the dimensions that its padding is for."""
        if not is_jit_traced() and (x.ndim < 2 or x.shape[self.dim] != self.num_channels):
            raise ValueError(
                f"input must have {self.num_channels} channels in dimension {self.dim}, got {tuple(x.shape)}"
            )
        if x.ndim < 2 + len(self.padding) // 2:
            raise ValueError(f"input must have the dimensions that padding {self.padding} is for, got {tuple(x.shape)}")

    def as_batch(self, x: Tensor) -> Tensor:
        """An input, or an output, as it is, its first dimension the batch; as rows, where channels are last."""
        return x if self.dim == 1 else x.reshape(-1, x.shape[-1])

    def batch_shape(self, x: Tensor) -> torch.Size:
        """(batch,); all dimensions but the last, where channels are last."""
        return x.shape[: self.dim]

    def seen(self, x: Tensor) -> Tensor:
        """``x`` with the zeros around it that the functions are given, too."""
        return self.geometry.pad(x)

    def resized(self, inputs: int, outputs: int, groups: int) -> Self:
        """A fresh activation of so many channels, with as many functions for each."""
        window = {"padding": self.padding, "dim": self.dim, "inplace": self.inplace}
        return type(self)(inputs, self.num_functions, **(self.options() | window))

    def extra_repr(self) -> str:
        """Sizes and options."""
        options = f"padding={self.padding}, " if any(self.padding) else ""
        options += "dim=-1, " if self.dim == -1 else ""
        options += "inplace=True, " if self.inplace else ""
        return f"{self.num_channels}, num_functions={self.num_functions}, {options}{super().extra_repr()}"


def check_padding(padding: Sequence[int]) -> tuple[int, ...]:
    """``padding`` as pairs of amounts before and after each dimension."""
    amounts = tuple(padding) if isinstance(padding, Sequence) else ()
    if not isinstance(padding, Sequence) or not all(type(amount) is int for amount in amounts):
        raise TypeError(f"padding must be pairs of integers, got {padding!r}")
    if len(amounts) % 2 or min(amounts, default=0) < 0:
        raise ValueError(f"padding must be pairs of amounts of at least 0, got {padding!r}")
    return amounts
