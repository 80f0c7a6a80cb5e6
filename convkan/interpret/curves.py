"""The learned function of every edge, sampled, beside what the edge is given in data."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from convkan.deprecation import old_arguments
from convkan.interpret.edges import Edges, edges_of, in_order

BINS = 40
MOST_SAMPLES = 10_000


@dataclass(frozen=True)
class Curves:
    """φ of every edge of a layer.

    Attributes:
        x: The places of each input channel.
        total: φ there: base, basis, and the named function of edges that were fixed.
        base: The share of the base activation, w_b·b(x).
        basis: The share of the basis, Σ_k c_k·B_k(x).
        slope: Of the straight line that comes closest to φ, in the mean square over the inputs.
        intercept: Of that line.
        straightness: R² of that line: 1 for a straight edge, 0 for one of which the line explains nothing; 1 too for
            one that is constant.
        counts: How often inputs lie between ``bin_edges``; None where no inputs were given.
        bin_edges: From the first to the last place, in equal steps.
        off_grid: Share of the inputs off the grid; None without data or without a grid.
    """

    x: Float[Tensor, "channels points"]
    total: Float[Tensor, "out in_per_group points *kernel"]
    base: Float[Tensor, "out in_per_group points *kernel"]
    basis: Float[Tensor, "out in_per_group points *kernel"]
    slope: Float[Tensor, "out in_per_group *kernel"]
    intercept: Float[Tensor, "out in_per_group *kernel"]
    straightness: Float[Tensor, "out in_per_group *kernel"]
    counts: Int[Tensor, "channels bins"] | None
    bin_edges: Float[Tensor, "channels bins_and_1"] | None
    off_grid: Float[Tensor, " channels"] | None

    @property
    def linear(self) -> Float[Tensor, "out in_per_group points *kernel"]:
        """The straight part of φ."""
        x = self.x.view(-1, self.total.shape[1], self.x.shape[1]).repeat_interleave(
            len(self.total) * self.total.shape[1] // len(self.x), dim=0
        )
        x = x.view(*self.total.shape[:3], *(1,) * (self.total.ndim - 3))
        return self.slope.unsqueeze(2) * x + self.intercept.unsqueeze(2)

    @property
    def remainder(self) -> Float[Tensor, "out in_per_group points *kernel"]:
        """The rest of φ, which no linear layer could do."""
        return self.total - self.linear


@old_arguments(names={"data": "x"})
@torch.no_grad()
def curves(
    layer: nn.Module,
    num_points: int = 101,
    x_range: tuple[float, float] | tuple[Tensor, Tensor] | None = None,
    *,
    x: Tensor | None = None,
    outputs: slice | None = None,
) -> Curves:
    """φ of every edge at ``num_points`` places.

    Args:
        layer: Any KAN layer; of a low-rank convolution, the edges of the convolution it stands for.
        num_points: Points a curve, at least 2.
        x_range: First and last point, for all channels or one (channels,) each; by default each channel's own grid, or
            (−2, 2) for a basis without one.
        x: Inputs, as the layer is called with: for the histogram, the share off the grid, and the weights of the
            straight line. Without, the line is fitted to the places.
        outputs: Only the edges of these outputs, for layers without groups.

    Raises:
        TypeError: It is another kind of layer.
        ValueError: There are fewer than two points, or the range is empty, or outputs chosen of a layer with groups; or
            ``x`` is empty, not finite, or of other channels than the layer's.

    Example:
        >>> from convkan import KANConv2d
        >>> curves(KANConv2d(3, 8, 3), num_points=11).total.shape
        torch.Size([8, 3, 11, 3, 3])
    """
    if num_points < 2:
        raise ValueError(f"num_points must be at least 2, got {num_points}")
    if x_range is not None and not bool(torch.as_tensor(x_range[0] < x_range[1]).all()):
        raise ValueError(f"x_range must be (low, high) with low < high, got {x_range}")
    edges = edges_of(layer)
    if outputs is not None:
        if edges.groups > 1:
            raise ValueError(f"outputs can be chosen of layers without groups only, got {edges.groups} groups")
        edges = edges.only(list(range(len(edges.weight)))[outputs])
    low, high = _range(edges, x_range)
    steps = torch.linspace(0, 1, num_points, dtype=low.dtype, device=low.device)
    points = (low + (high - low) * steps.unsqueeze(-1)).to(edges.weight.dtype)
    split = int(edges.has_base)
    places = points
    counts = bin_edges = off_grid = None
    if x is not None:
        samples = edges.inputs(x)
        if not bool(samples.isfinite().all()):
            raise ValueError("x must be finite, got NaN or infinity")
        off_grid = _off_grid(edges, samples)
        bin_edges = low.unsqueeze(1) + (high - low).unsqueeze(1) * torch.linspace(0, 1, BINS + 1, device=low.device)
        counts = torch.stack(
            [
                torch.histogram(column.cpu().double(), bins.cpu().double()).hist.long()
                for column, bins in zip(samples, bin_edges, strict=True)
            ]
        )
        places = edges.inputs(x, MOST_SAMPLES).mT.to(points.dtype)
    slope, intercept, straightness = straight_lines(edges, places)
    return Curves(
        points.mT,
        edges.at(points),
        edges.of_features(points, slice(0, split)),
        edges.of_features(points, slice(split, edges.weight.shape[2])),
        slope,
        intercept,
        straightness,
        counts,
        bin_edges,
        off_grid,
    )


def straight_lines(edges: Edges, x: Float[Tensor, "points channels"]) -> tuple[Tensor, Tensor, Tensor]:
    """Slope, intercept and R² of the line closest to each edge at these places, in the mean square."""
    outputs, found = [], []
    for part, some in edges.in_parts(len(x)):
        values = some.at(x).double()
        taps = (1,) * (values.ndim - 3)
        places = x.mT.double().reshape(edges.groups, -1, len(x)).repeat_interleave(len(values) // edges.groups, dim=0)
        places = places.reshape(*values.shape[:3], *taps)
        centre, middle = places.mean(2, keepdim=True), values.mean(2, keepdim=True)
        off, rise = places - centre, values - middle
        spread = off.square().sum(2)
        slope = (off * rise).sum(2) / spread.clamp_min(torch.finfo(values.dtype).tiny)
        unexplained = (rise - slope.unsqueeze(2) * off).square().sum(2)
        whole = rise.square().sum(2)
        rounding = torch.finfo(values.dtype).eps ** 2 * values.square().sum(2)
        share = torch.where(whole > rounding, 1 - unexplained / whole.clamp_min(torch.finfo(values.dtype).tiny), 1)
        outputs.append(part)
        found.append((slope, (middle.squeeze(2) - slope * centre.squeeze(2)), share))
    return tuple(in_order(outputs, parts) for parts in zip(*found, strict=True))  # type: ignore[return-value]


def _range(edges: Edges, x_range: tuple[float, float] | tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
    """First and last place of each channel."""
    ends = edges.ends()
    if x_range is None and ends is not None:
        return ends
    first, last = (-2.0, 2.0) if x_range is None else x_range
    zeros = edges.weight.new_zeros(edges.functions.num_inputs)
    return zeros + first, zeros + last


def _off_grid(edges: Edges, samples: Float[Tensor, "channels samples"]) -> Float[Tensor, " channels"] | None:
    ends = edges.ends()
    if ends is None:
        return None
    low, high = (end.unsqueeze(1) for end in ends)
    return ((samples < low) | (samples > high)).double().mean(1)
