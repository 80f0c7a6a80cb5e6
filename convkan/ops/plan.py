"""What a KAN layer computes, apart from its tensors: the expansion of inputs and the geometry of the sum."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from convkan.basis import Basis, BSpline, get_activation
from convkan.basis.bspline import uniform_knots


@dataclass(frozen=True)
class Linear:
    """y[o] = Σ_i φ[o,i](x[i]) over the last dimension."""

    groups = 1


@dataclass(frozen=True)
class Channelwise:
    """y[n, c·R + r, …] = φ[c,r](x[n,c,…]): every channel on its own, no sum."""

    groups = 1


@dataclass(frozen=True)
class Convolution:
    """y[n,o,p] = Σ_{c in group} Σ_tap φ[o,c,tap](x̃[n,c, p·stride + tap·dilation]), x̃ = x padded with zeros.

    Attributes:
        stride: Step of the output positions, one entry a spatial dimension.
        padding: Zeros put around the input in the order of ``torch.nn.functional.pad``: (before, after) of the last
            dimension first.
        dilation: Distance of taps.
        groups: Number of channel groups.
    """

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1

    def without_padding(self) -> "Convolution":
        """The same convolution, of an input that is padded already."""
        return replace(self, padding=(0,) * len(self.padding))


Geometry = Linear | Channelwise | Convolution


@dataclass(frozen=True)
class Plan:
    """Everything a backend must know about a layer besides its tensors.

    Attributes:
        basis: The univariate basis.
        base_activation: Name of the fixed part of each edge, or None.
        uniform: Whether each channel's knots are equally spaced, so that a closed form may be used.
        geometry: How edges are summed.
    """

    basis: Basis
    base_activation: str | None
    uniform: bool
    geometry: Geometry

    def features(
        self,
        x: Float[Tensor, "*batch channels"],
        grid: Float[Tensor, "channels knots"] | None,
        *,
        derivative: bool = False,
        differentiable: bool = True,
    ) -> Float[Tensor, "*batch groups features channels_in_group"]:
        """(b(x), B_1(x) … B_K(x)), or their derivatives, feature-major within each group.

        Half precision inputs are evaluated, and returned, in float32.

        Args:
            x: Inputs, channels last.
            grid: The knots, for a basis with a grid.
            derivative: Return derivatives with respect to x.
            differentiable: Gradients will be taken through the result. Where none are, uniform knots allow a closed
                form, whose derivatives autograd would get wrong at the knots.
        """
        groups = self.geometry.groups
        x = _at_least_float32(x)
        x = x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)
        if grid is not None:
            grid = self._knots(grid)
            grid = grid.reshape(groups, grid.shape[0] // groups, grid.shape[1])
        fast = self.uniform and not differentiable
        evaluate = self.basis.derivative if derivative else self.basis.evaluate
        planes = evaluate(x, grid, fast=fast)
        base = get_activation(self.base_activation)
        if base is None:
            return planes
        fixed = base.derivative(x) if derivative else base.value(x)
        return torch.cat([fixed.unsqueeze(-2), planes], dim=-2)

    def _knots(self, grid: Tensor) -> Tensor:
        grid = _at_least_float32(grid)
        if not (self.uniform and isinstance(self.basis, BSpline)):
            return grid
        # A grid that went through a lower precision keeps its rounding; its ends still tell what was meant.
        low, high = self.basis.ends(grid)
        return uniform_knots(low, high, self.basis.grid_size, self.basis.order)


def _at_least_float32(x: Tensor) -> Tensor:
    return x.float() if x.dtype.itemsize < 4 else x


def expanded_weight(base_weight: Tensor | None, basis_weight: Tensor) -> Tensor:
    """The weight of the layer seen as an ordinary one over (1 + K)·C planes, feature-major."""
    return basis_weight if base_weight is None else torch.cat([base_weight, basis_weight], dim=1)
