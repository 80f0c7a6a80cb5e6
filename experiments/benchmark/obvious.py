"""The obvious way: expand with plain operations, then call torch once. What a fast layer has to beat."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convkan.basis import RBF, Basis, BSpline, Chebyshev
from convkan.nn import KANLayer

CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


class Obvious(nn.Module):
    """SiLU and a basis, one after the other as autograd sees them, and one ``F.linear``, ``F.conv…d`` or sum.

    Args:
        basis: B-splines of order 1 or 3 on equally spaced knots, Chebyshev polynomials or Gaussians.
        layer: The layer of ours that it stands beside. It has as many inputs, outputs and groups.
        space: Dimensions of a convolution; 0 for a linear layer, None for an activation, which sums nothing.
        stride: Of a convolution.
        padding: Of a convolution.
        pads_input: Whether zeros are put around the input, as KAN convolutions are defined; else around the features,
            which is another function and less work.
        copies: Take the layer's weights, which are then on the same functions.

    Shape:
        As the layer's.
    """

    def __init__(
        self,
        basis: Basis,
        layer: KANLayer,
        space: int | None,
        stride: int = 1,
        padding: int = 0,
        *,
        pads_input: bool = True,
        copies: bool = True,
    ) -> None:
        super().__init__()
        assert layer.base_weight is not None
        self.functions = functions_of(basis)
        self.space, self.stride, self.padding, self.pads_input = space, stride, padding, pads_input
        self.groups = layer.num_groups
        if copies:
            weight = torch.cat([layer.base_weight, layer.basis_weight], dim=1).detach().clone()
        else:
            planes = (basis.num_functions + 1) * layer.base_weight.shape[1]
            outputs, _, *kernel = layer.base_weight.shape
            weight = torch.randn(outputs, planes, *kernel).to(layer.base_weight) / planes**0.5
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        """What the layer computes, or the like of it."""
        if self.space and self.padding and self.pads_input:
            x = F.pad(x, (self.padding,) * 2 * self.space)
        features = torch.cat([F.silu(x).unsqueeze(1), self.functions(x)], dim=1)  # (batch, 1 + K, channels, …)
        if self.space is None:
            weight = self.weight.mT.view(1, *features.shape[1:2], -1, *(1,) * (x.ndim - 2))
            return (features * weight).sum(1)
        if self.space == 0:
            return F.linear(features.flatten(1), self.weight)
        if self.groups > 1:  # weights go through all functions of a group, then of the next
            features = features.unflatten(2, (self.groups, -1)).transpose(1, 2).flatten(1, 2)
        padding = 0 if self.pads_input else self.padding
        return CONVOLUTIONS[self.space](
            features.flatten(1, 2), self.weight, stride=self.stride, padding=padding, groups=self.groups
        )


def functions_of(basis: Basis) -> Callable[[Tensor], Tensor]:
    """(batch, channels, …) → (batch, K, channels, …), the functions one after the other.

    Raises:
        ValueError: The basis has no such form here.
    """
    match basis:
        case BSpline(order=1 | 3, extrapolation="zero"):
            return _BSplines(basis)
        case Chebyshev():
            return _Polynomials(basis.degree)
        case RBF():
            return _Gaussians(basis)
    raise ValueError(f"basis must be B-splines of order 1 or 3, Chebyshev polynomials or Gaussians, got {basis}")


class _Centered(nn.Module):
    """Functions of the distance to centers that lie one step apart."""

    centers: Tensor

    def __init__(self, first: float, step: float, count: int) -> None:
        super().__init__()
        self.step = step
        self.register_buffer("centers", first + step * torch.arange(count))

    def distance(self, x: Tensor) -> Tensor:
        """In steps."""
        return (x.unsqueeze(1) - self.centers.view(-1, *(1,) * (x.ndim - 1))) / self.step


class _BSplines(_Centered):
    """Hats, or cubics by their closed form on equally spaced knots."""

    def __init__(self, basis: BSpline) -> None:
        low, high = basis.grid_range
        step = (high - low) / basis.grid_size
        super().__init__(low + step * (1 - basis.order) / 2, step, basis.num_functions)
        self.order = basis.order

    def forward(self, x: Tensor) -> Tensor:
        distance = self.distance(x).abs()
        if self.order == 1:
            return F.relu(1 - distance)
        return (F.relu(2 - distance) ** 3 - 4 * F.relu(1 - distance) ** 3) / 6


class _Gaussians(_Centered):
    def __init__(self, basis: RBF) -> None:
        super().__init__(basis.center_range[0], basis.spacing, basis.num_centers)

    def forward(self, x: Tensor) -> Tensor:
        return torch.exp(-(self.distance(x) ** 2))


class _Polynomials(nn.Module):
    """Chebyshev's, on tanh."""

    def __init__(self, degree: int) -> None:
        super().__init__()
        self.degree = degree

    def forward(self, x: Tensor) -> Tensor:
        t = torch.tanh(x)
        polynomials = [torch.ones_like(t), t]
        while len(polynomials) <= self.degree:
            polynomials.append(2 * t * polynomials[-1] - polynomials[-2])
        return torch.stack(polynomials[: self.degree + 1], dim=1)
