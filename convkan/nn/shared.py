"""One learnable function for all of an input's numbers: an activation that goes wherever ReLU goes."""

from typing import Self

import torch
from torch import Tensor
from torch.fx import Proxy

from convkan.basis import Basis, BSpline
from convkan.nn.activation import LearnableActivation, activate
from convkan.nn.memory import keeps_channels_last
from convkan.nn.tracing import call_as_leaf


class SharedActivation(LearnableActivation):
    """ψ(x), one learnable function of every number of the input, whatever its shape.

    It needs no channel count, and takes what torch's activations take: libraries that are given the class of an
    activation make it by ``SharedActivation(inplace=True)`` (torchvision's ``activation_layer=``, timm's
    ``act_layer=``). To choose a basis, hand them ``functools.partial(SharedActivation, basis=…)``.

    Args:
        inplace: Taken as torch's activations take it, and without effect on the result: the input is left as it is.
        basis: The univariate basis, or its name.
        base_activation: Name of the fixed part of the function, or None.
        backend: "auto", or the name of a backend.
        device: Where the parameters live.
        dtype: Floating point type of parameters and inputs.

    Raises:
        ValueError: A name is unknown.

    Shape:
        Any; the output has the input's.

    Example:
        >>> import torch
        >>> activation = SharedActivation(inplace=True)
        >>> activation(torch.zeros(4, 3, 8, 8)).shape, activation(torch.zeros(5)).shape
        (torch.Size([4, 3, 8, 8]), torch.Size([5]))
    """

    def __init__(
        self,
        inplace: bool = False,
        *,
        basis: Basis | str = BSpline(),
        base_activation: str | None = "silu",
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            1,
            inplace=inplace,
            basis=basis,
            base_activation=base_activation,
            backend=backend,
            device=device,
            dtype=dtype,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Apply the function to every number."""
        if isinstance(x, Proxy):
            return call_as_leaf(self, x)
        last = keeps_channels_last(x)  # read as it lies in memory, and written so
        seen = self.as_batch(x.movedim(1, -1) if last else x)
        y = activate(seen, *self.edge_weights(), self.grid, self.plan, self.backend)
        y = y.squeeze(1) if x.ndim else y.reshape(())
        return self.add_named(y.movedim(-1, 1) if last else y, x)

    def check_input(self, x: Tensor) -> None:
        """Any tensor will do."""

    def as_batch(self, x: Tensor) -> Tensor:
        """An input, or an output, with a channel of its own."""
        return x.unsqueeze(1) if x.ndim else x.reshape(1, 1)

    def resized(self, inputs: int, outputs: int, groups: int) -> Self:
        """A fresh activation with the same options: all channels share its function, however many there are."""
        return type(self)(self.inplace, **self.options())

    def extra_repr(self) -> str:
        """Options."""
        return super().extra_repr().removeprefix("1, num_functions=1, ")


LearnableActivation.for_all_channels = SharedActivation
