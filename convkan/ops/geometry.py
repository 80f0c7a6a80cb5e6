"""How the edges of a layer are summed: over inputs, not at all, or over the taps and channels of a convolution.

A geometry is described by numbers alone. It says what its edges see of an input, and how *features*, b(x) and the
B_k(x) of every pixel that is seen, become outputs: in plain operations that can be differentiated any number of times.
Shapes: inputs (batch, channels, *space), or (…, channels) of ``Linear``; outputs likewise; weights
(out, features·channels in a group, *kernel), feature-major within each group.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

Sizes = Sequence[int]
# Weights of a linear layer of fewer bytes take less time to be joined than a second product would.
LEAST_BYTES = 2**16


def expanded_weight(base_weight: Tensor | None, basis_weight: Tensor) -> Tensor:
    """The weight of the layer seen as an ordinary one over (1 + K)·C planes, feature-major."""
    return basis_weight if base_weight is None else torch.cat([base_weight, basis_weight], dim=1)


class Geometry(ABC):
    """What all geometries answer; a subclass is a frozen dataclass without tensors.

    Attributes:
        groups: Groups of channels that do not mix.
        padding: Zeros put around the input in the order of ``torch.nn.functional.pad``: (before, after) of the last
            dimension first.
        sums: Whether an output is a sum over edges, and not one edge's function.
        cuts: Whether all taps see something at every output position, so that some rows of the input suffice for some
            of the output.
    """

    groups: int
    padding: tuple[int, ...]
    sums: ClassVar[bool] = True
    cuts: ClassVar[bool] = True

    def pad(self, x: Tensor) -> Tensor:
        """The input with zeros around, as the edges see it."""
        return F.pad(x, self.padding) if any(self.padding) else x

    def padded_shape(self, shape: Sizes) -> list[int]:
        """That of ``pad(x)``."""
        sizes = list(shape)
        for position, amount in enumerate(self.padding):
            sizes[-1 - position // 2] += amount
        return sizes

    def rows(self, x: Tensor) -> Tensor:
        """An input or an output with one dimension of the batch, the first, along which it can be cut."""
        return x

    def pixels(self, x: Tensor) -> Float[Tensor, "batch *space groups channels"]:
        """Where features are needed: the padded input, channels last and contiguous."""
        pixels = self.pad(x).movedim(1, -1).contiguous()
        return pixels.unsqueeze(-2) if self.groups == 1 else pixels.unflatten(-1, (self.groups, -1))

    def unpixels(self, pixels: Float[Tensor, "batch *space groups channels"]) -> Tensor:
        """The adjoint of ``pixels``: gradients of pixels made gradients of the input."""
        x = pixels.flatten(-2).movedim(-1, 1)
        return F.pad(x, tuple(-amount for amount in self.padding)) if any(self.padding) else x

    def weights(self, base_weight: Tensor | None, basis_weight: Tensor) -> tuple[Tensor, ...]:
        """What ``contract`` is given one after another, for features in their order: one weight, joined from both."""
        return (expanded_weight(base_weight, basis_weight),)

    def unweights(
        self, by_weights: Sequence[Tensor] | None, base_weight: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """The adjoint of ``weights``: gradients by what it gives as gradients by what it was given."""
        if by_weights is None:
            return None, None
        (by_weight,) = by_weights
        if base_weight is None:
            return None, by_weight
        return by_weight[:, : base_weight.shape[1]], by_weight[:, base_weight.shape[1] :]

    @abstractmethod
    def contract(self, features: Float[Tensor, "batch *space groups features channels"], *weights: Tensor) -> Tensor:
        """The output: features times weights, summed."""

    @abstractmethod
    def contract_backward(
        self, grad: Tensor, features: Tensor, weights: Sequence[Tensor], need_features: bool, need_weight: bool
    ) -> tuple[Tensor | None, tuple[Tensor, ...] | None]:
        """Gradients of ``contract`` by features and weight, those that are needed, themselves differentiable."""

    def output_shape(self, x_shape: Sizes, weight_shape: Sizes) -> tuple[int, ...]:
        """That of the output for an input and a weight of these shapes."""
        batch, _, *space = self.padded_shape(x_shape)
        return batch, weight_shape[0], *self.positions(space, weight_shape[2:])

    def positions(self, space: Sizes, kernel_size: Sizes) -> tuple[int, ...]:
        """The number of output positions in each dimension of a padded input."""
        return tuple(space)

    def products(self, x_shape: Sizes, weight_shape: Sizes) -> int:
        """How often each weight is multiplied: at every output."""
        return prod(self.output_shape(x_shape, weight_shape)) // weight_shape[0]

    def laid_out(self, y: Tensor) -> Tensor:
        """``y``, an input or output, contiguous with channels last."""
        return y.movedim(1, -1).contiguous().movedim(-1, 1)

    def empty(self, like: Tensor, shape: Sizes) -> Tensor:
        """Memory for an input or output of that shape, laid out so."""
        return like.new_empty((shape[0], *shape[2:], shape[1])).movedim(-1, 1)

    def window(self, tap: Sizes, kernel_size: Sizes, space: Sizes) -> tuple[slice, ...]:
        """What a tap sees at all output positions, in each dimension of the padded input: all, where there are no taps.

        Args:
            tap: The position of the tap in the kernel.
            kernel_size: Taps in each dimension.
            space: Sizes of the padded input.
        """
        return (slice(None),) * len(space)

    def reached(self, tap: Sizes, kernel_size: Sizes, space: Sizes) -> tuple[slice, ...]:
        """Where what is in ``window`` is summed, in each dimension of the output: everywhere."""
        return (slice(None),) * len(space)

    def placed(
        self, values: Float[Tensor, "batch *seen out"], tap: Sizes, kernel_size: Sizes, space: Sizes
    ) -> Float[Tensor, "batch *positions out"]:
        """What was made of ``window``, at all output positions."""
        return values

    def patch(self, location: Sizes, kernel_size: Sizes) -> tuple[slice | int, ...]:
        """Where all taps of one output position lie, in each dimension of the padded input."""
        return tuple(location)

    def at_location(
        self, seen: Float[Tensor, "batch channels *padded"], location: Sizes, kernel_size: Sizes
    ) -> tuple[Float[Tensor, "batch channels *kernel"], Bool[Tensor, " *kernel"] | None]:
        """What each tap sees at one output position, and which taps see something there; None for all."""
        return seen[(slice(None), slice(None), *self.patch(location, kernel_size))], None

    def rows_seen(self, start: int, stop: int, kernel_size: Sizes) -> slice:
        """What the output positions from start to before stop, in the first dimension, see of the padded input."""
        return slice(start, stop)


@dataclass(frozen=True)
class Linear(Geometry):
    """y[o] = Σ_i φ[o,i](x[i]) over the last dimension."""

    groups = 1
    padding = ()

    def rows(self, x: Tensor) -> Tensor:
        """All leading dimensions as one."""
        return x if x.ndim == 2 else x.reshape(-1, x.shape[-1])

    def pixels(self, x: Float[Tensor, "*batch channels"]) -> Float[Tensor, "*batch 1 channels"]:
        """The input, which has channels last already."""
        return x.contiguous().unsqueeze(-2)

    def unpixels(self, pixels: Float[Tensor, "*batch 1 channels"]) -> Float[Tensor, "*batch channels"]:
        """The adjoint of ``pixels``."""
        return pixels.squeeze(-2)

    def weights(self, base_weight: Tensor | None, basis_weight: Tensor) -> tuple[Tensor, ...]:
        """Both as they are: to join them would cost as much as a small product, unless they are small themselves."""
        if base_weight is None or basis_weight.nbytes < LEAST_BYTES:
            return Geometry.weights(self, base_weight, basis_weight)
        return base_weight, basis_weight

    def unweights(
        self, by_weights: Sequence[Tensor] | None, base_weight: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """The adjoint."""
        if by_weights is None or len(by_weights) == 1:
            return Geometry.unweights(self, by_weights, base_weight)
        return by_weights[0], by_weights[1]

    def contract(self, features: Float[Tensor, "*batch 1 features channels"], *weights: Tensor) -> Tensor:
        """A product of matrices for each weight."""
        columns = features.to(weights[0].dtype).flatten(-3)
        if len(weights) == 1:
            return F.linear(columns, weights[0])
        parts = self.rows(columns).split([weight.shape[1] for weight in weights], dim=1)
        y = parts[0] @ weights[0].mT
        for part, weight in zip(parts[1:], weights[1:], strict=True):
            y = torch.addmm(y, part, weight.mT)
        return y.reshape(*columns.shape[:-1], weights[0].shape[0])

    def contract_backward(
        self, grad: Tensor, features: Tensor, weights: Sequence[Tensor], need_features: bool, need_weight: bool
    ) -> tuple[Tensor | None, tuple[Tensor, ...] | None]:
        """Two products of matrices for each weight."""
        grad_features = None
        if need_features and len(weights) == 1:
            grad_features = (grad @ weights[0]).reshape(features.shape)
        elif need_features:
            grad_features = torch.cat([grad @ weight for weight in weights], dim=-1).reshape(features.shape)
        if not need_weight:
            return grad_features, None
        columns, rows = self.rows(features.to(weights[0].dtype).flatten(-3)), self.rows(grad)
        parts = columns.split([weight.shape[1] for weight in weights], dim=1)
        # In this order they are laid out as the weights are; transposed ones autograd would copy.
        return grad_features, tuple(rows.mT @ part for part in parts)

    def output_shape(self, x_shape: Sizes, weight_shape: Sizes) -> tuple[int, ...]:
        """(…, out)."""
        return *x_shape[:-1], weight_shape[0]

    def laid_out(self, y: Tensor) -> Tensor:
        """``y``, contiguous."""
        return y.contiguous()

    def empty(self, like: Tensor, shape: Sizes) -> Tensor:
        """Memory for an input or output of that shape."""
        return like.new_empty(tuple(shape))


@dataclass(frozen=True)
class Channelwise(Geometry):
    """y[n, c·R + r, …] = φ[c,r](x̃[n,c,…]), x̃ = x padded with zeros: every channel on its own, no sum.

    Attributes:
        padding: Zeros put around the input, as in ``Convolution``; there y is φ(0).
    """

    groups = 1
    sums = False
    padding: tuple[int, ...] = ()

    def contract(self, features: Float[Tensor, "batch *space 1 features channels"], *weights: Tensor) -> Tensor:
        """Each channel's features times the weights of its functions."""
        (weight,) = weights
        weight = rearrange(weight, "(c r) f -> c r f", c=features.shape[-1])
        y = torch.einsum("... f c, c r f -> ... c r", features.to(weight.dtype).squeeze(-3), weight)
        return y.flatten(-2).movedim(-1, 1)

    def contract_backward(
        self, grad: Tensor, features: Tensor, weights: Sequence[Tensor], need_features: bool, need_weight: bool
    ) -> tuple[Tensor | None, tuple[Tensor, ...] | None]:
        """Channel by channel."""
        (weight,) = weights
        grad_features = grad_weight = None
        channels = features.shape[-1]
        grad = rearrange(grad.movedim(1, -1), "... (c r) -> ... c r", c=channels)
        if need_features:
            per_channel = rearrange(weight, "(c r) f -> c r f", c=channels)
            grad_features = torch.einsum("... c r, c r f -> ... f c", grad, per_channel).unsqueeze(-3)
        if need_weight:
            columns = features.to(weight.dtype).reshape(-1, *features.shape[-2:])
            rows = grad.reshape(-1, *grad.shape[-2:])
            grad_weight = torch.einsum("n c r, n f c -> c r f", rows, columns).reshape(weight.shape)
        return grad_features, None if grad_weight is None else (grad_weight,)
