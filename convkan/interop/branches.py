"""What convolutions of other libraries do around the functions: zeros around features, and a second branch."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.fx import Proxy

from convkan.basis import get_activation
from convkan.basis.functions import get_function
from convkan.interop.peer_bases import FixedBasis
from convkan.nn import KANConv1d, KANConv2d, KANConv3d
from convkan.nn.tracing import Whole, call_as_leaf
from convkan.ops import is_concrete

CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


class FeaturePadded(Whole, nn.Module):
    """A KAN convolution with zeros around its *features*: a tap on the padding contributes 0, not φ(0).

    y = layer(x) − the sum of φ[o,c,tap](0) over taps on the padding. That sum is one convolution of a single plane, 1
    on the padding and 0 within, and follows the layer's weights while they train, its masks and its named edges.
    Tracers of ``torch.fx`` take it as a whole, as they do the layer.

    The numbers of a ``FixedBasis``, which no parameter holds, are in its state as "basis_numbers", and a state with
    others is refused. One without them, as states were before, is taken to have the same.

    Args:
        layer: The convolution, with explicit amounts of zeros as its padding.

    Raises:
        ValueError: The padding is a word, or of anything but zeros.

    Shape:
        (batch, in_channels, …) → (batch, out_channels, …), or without the batch, as of the layer.

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

    @property
    def pads(self) -> bool:
        """Whether there is any padding, so that φ(0) counts for more than the layer itself."""
        return any(self.layer.padding)

    def forward(self, x: Tensor) -> Tensor:
        """Take away what the padding contributed."""
        if isinstance(x, Proxy):
            return call_as_leaf(self, x)
        y: Tensor = self.layer(x)
        if not self.pads:
            return y
        padding = self.layer.padding
        assert not isinstance(padding, str)
        amounts = [amount for one in reversed(padding) for amount in (one, one)]
        outside = F.pad(y.new_zeros(1, *x.shape[-len(padding) :]), amounts, value=1.0)
        weight = self.at_zero().sum(1, keepdim=True)
        convolution = CONVOLUTIONS[len(padding)]
        return y - convolution(outside, weight, stride=self.layer.stride, dilation=self.layer.dilation)

    def at_zero(self) -> Float[Tensor, "out in_per_group *kernel"]:
        """φ[o,c,tap](0), as edges count: without those that are masked, with those that are named."""
        layer = self.layer
        zero = layer.basis_weight.new_zeros(1, layer.in_channels)
        values = layer.features(zero)[0].mT  # (in, features)
        values = values.unflatten(0, (layer.groups, -1)).repeat_interleave(layer.out_channels // layer.groups, dim=0)
        planes = layer.edge_planes()
        functions = torch.einsum("oif...,oif->oi...", planes, values.to(planes.dtype))
        named = layer.named_edges
        if named is None:
            return functions
        _, b, c, d = named.affine.unbind(1)
        constants = [c[row] * get_function(name).at(b[row]) + d[row] for row, name in enumerate(named.functions)]
        return functions.index_put(tuple(named.edges.T), torch.stack(constants).to(functions), accumulate=True)

    def _basis_numbers(self) -> Tensor | None:
        """The numbers of the basis that are in no parameter, if there are any."""
        basis = getattr(self.layer, "basis", None)  # a layer that was simplified has none
        return torch.tensor(basis.numbers, dtype=torch.float64, device="cpu") if isinstance(basis, FixedBasis) else None

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """With the numbers of the basis, as no buffer: averages of weights compute with these."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        numbers = self._basis_numbers()
        if numbers is not None:
            destination[f"{prefix}basis_numbers"] = numbers

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Refuse weights for a basis with other numbers."""
        own, key = self._basis_numbers(), f"{prefix}basis_numbers"
        if own is not None and key in state_dict:
            state_dict = dict(state_dict)
            theirs = state_dict.pop(key)
            # In the precision of the state, which may have been cast as a whole.
            if is_concrete(theirs) and not torch.equal(theirs, own.to(theirs)):
                args[-1].append(
                    f"{key} must be {own.tolist()}, with which the functions of this layer were made; got "
                    f"{theirs.tolist()} (load_peer makes a layer with these from the peer's own state)"
                )
        super()._load_from_state_dict(state_dict, prefix, *args)


class TwoBranches(nn.Module):
    """functions(x) + base(b(x)), where the functions see another input, or their sums go on by themselves.

    Args:
        functions: The branch of the functions.
        base: The linear branch.
        base_activation: Name of b.

    Raises:
        ValueError: No activation has the name, or it is None.

    Example:
        >>> TwoBranches(nn.Identity(), nn.Conv2d(2, 2, 1), "silu")(torch.zeros(1, 2, 4, 4)).shape
        torch.Size([1, 2, 4, 4])
    """

    def __init__(self, functions: nn.Module, base: nn.Module, base_activation: str) -> None:
        super().__init__()
        if get_activation(base_activation) is None:
            raise ValueError("base_activation must be the name of an activation, got None")
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
