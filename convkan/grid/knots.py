"""Knots, and what becomes of a function's coefficients when they change.

The new coefficients of the same function are a linear map of the old ones: exact where the new knots contain the old
and the basis can insert knots (``insertion``), otherwise the closest there is (``fitting``).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from convkan.basis import Activation, GriddedBasis
from convkan.ops.plan import spread

RIDGE = 1e-12
BYTES_AT_A_TIME = 256 * 2**20
POINTS_AT_A_TIME = 64  # few enough that only some of many functions are alive at any of them


def insertion(
    basis: GriddedBasis,
    knots: Float[Tensor, "channels knots"],
    new_basis: GriddedBasis,
    new_knots: Float[Tensor, "channels new_knots"],
) -> Float[Tensor, "channels new_functions functions"]:
    """The map of coefficients to those of the same function on knots that contain the old ones between the grid's ends.

    Args:
        basis: The basis that the coefficients belong to.
        knots: Its knots.
        new_basis: The same basis on another number of intervals.
        new_knots: Its knots, which increase strictly between the grid's ends.

    Raises:
        TypeError: The basis has no exact insertion, as B-splines have; then there is ``fitting``.
    """
    change = basis.insertion(knots, new_basis, new_knots)
    if change is None:
        raise TypeError(f"knots cannot be inserted exactly into {basis}: functions on it are fitted")
    return change


def fitting(
    basis: GriddedBasis,
    knots: Float[Tensor, "channels knots"],
    new_basis: GriddedBasis,
    new_knots: Float[Tensor, "channels new_knots"],
    points: Float[Tensor, "channels points"],
    weights: Float[Tensor, "channels points"],
) -> Float[Tensor, "channels new_functions functions"]:
    """The map of coefficients to those of the function on other knots that is closest at weighted points.

    Least squares by an orthogonal factorisation, with a ridge so small that it decides only what no point does, and a
    step of refinement that takes its bias out.
    """
    scale = weights.sqrt().unsqueeze(-1)
    new = functions_at(new_basis, new_knots, points) * scale
    old = functions_at(basis, knots, points) * scale
    size = new.square().sum((1, 2), keepdim=True).sqrt() / new.shape[-1] ** 0.5
    ridge = RIDGE**0.5 * size * torch.eye(new.shape[-1], dtype=new.dtype, device=new.device)
    orthogonal, triangular = torch.linalg.qr(torch.cat([new, ridge], dim=1))
    orthogonal = orthogonal[:, : new.shape[1]]

    def solve(target: Tensor) -> Tensor:
        return torch.linalg.solve_triangular(triangular, orthogonal.mT @ target, upper=True)

    change = solve(old)
    return change + solve(old - new @ change)


def functions_at(
    basis: GriddedBasis, knots: Float[Tensor, "channels knots"], points: Float[Tensor, "channels points"]
) -> Float[Tensor, "channels points functions"]:
    """Every function of a basis at points, worked out only where it is alive."""
    if basis.num_alive is None:
        return basis.evaluate(points.mT, knots).movedim(-1, 0)
    first, values = basis.alive(points.mT, knots)
    return spread(first, values, basis.num_functions).movedim(-1, 0)


@dataclass(frozen=True)
class GridFunctions:
    """Functions of some channels, on the knots of each.

    Attributes:
        basis: Their basis.
        knots: The knots of each channel.
        coefficients: Those of every edge that starts from a channel.
    """

    basis: GriddedBasis
    knots: Float[Tensor, "channels knots"]
    coefficients: Float[Tensor, "channels functions edges"]

    def part(self, channels: slice) -> "GridFunctions":
        """Those of some of the channels."""
        return GridFunctions(self.basis, self.knots[channels], self.coefficients[channels])

    def near(
        self, points: Float[Tensor, "channels points"]
    ) -> tuple[Float[Tensor, "channels points few"], Float[Tensor, "channels few edges"]]:
        """The functions of the basis that are alive at any of the points, there, and their coefficients."""
        if self.basis.num_alive is None:
            return functions_at(self.basis, self.knots, points), self.coefficients
        first, values = self.basis.alive(points.mT, self.knots)
        start, count = first.amin(0), self.basis.num_functions
        few = int((first - start).amax()) + len(values)
        positions = start.unsqueeze(1) + torch.arange(few, device=start.device)
        exist = (positions >= 0) & (positions < count)
        functions = spread(first - start, values, few).movedim(-1, 0)
        coefficients = self.coefficients.take_along_dim(positions.clamp(0, count - 1).unsqueeze(-1), dim=1)
        return torch.where(exist.unsqueeze(1), functions, 0), torch.where(exist.unsqueeze(-1), coefficients, 0)


def change_of(
    before: GridFunctions,
    after: GridFunctions,
    base: Activation | None,
    base_weight: Float[Tensor, "channels 1 edges"] | None,
    points: Float[Tensor, "channels points"],
    weights: Float[Tensor, "channels points"],
) -> tuple[float, float]:
    """‖after − before‖ and ‖before‖ at weighted points, over all edges; ``before`` with its base activation.

    ‖A v‖ = ‖R v‖ where A = Q R: with few functions at many points, the second takes a fraction of the work.
    """
    moved = whole = 0.0
    edges = before.coefficients.shape[-1]
    for part in in_parts(len(points), POINTS_AT_A_TIME * edges * 8 * 4):
        old, new = before.part(part), after.part(part)
        for x, weight in zip(
            points[part].split(POINTS_AT_A_TIME, dim=1), weights[part].split(POINTS_AT_A_TIME, dim=1), strict=True
        ):
            (ours, of_ours), (theirs, of_theirs) = old.near(x), new.near(x)
            rows = [theirs, -ours]
            columns = [of_theirs, of_ours]
            if base is not None and base_weight is not None:
                rows.append(-base.value(x).unsqueeze(-1))
                columns.append(base_weight[part])
            matrix = torch.cat(rows, dim=-1) * weight.sqrt().unsqueeze(-1)
            if matrix.shape[2] < matrix.shape[1]:
                matrix = torch.linalg.qr(matrix, mode="r").R
            first, second = theirs.shape[2], theirs.shape[2] + ours.shape[2]
            moved += (matrix[..., :second] @ torch.cat(columns[:2], dim=1)).square().sum().item()
            whole += (matrix[..., first:] @ torch.cat(columns[1:], dim=1)).square().sum().item()
    return moved**0.5, whole**0.5


def ratio(change: float, whole: float) -> float:
    """``change`` as a share of ``whole``; of nothing, any change is infinite."""
    if whole:
        return change / whole
    return 0.0 if change == 0 else float("inf")


def in_parts(channels: int, bytes_a_channel: int) -> Iterator[slice]:
    """Ranges of channels whose matrices fit into memory."""
    size = max(1, BYTES_AT_A_TIME // max(1, bytes_a_channel))
    for start in range(0, channels, size):
        yield slice(start, start + size)


def distinct(knots: Float[Tensor, "channels knots"]) -> Bool[Tensor, " channels"]:
    """Whether all knots of a channel are so far apart that functions on them can be told apart."""
    steps = knots.diff(dim=1)
    return (steps > 0).all(1) & (steps.amin(1) > 1e-6 * (knots[:, -1] - knots[:, 0]))


def split(inner: Float[Tensor, "channels inner"], grid_size: int) -> Float[Tensor, "channels new_inner"]:
    """The intervals divided evenly into ``grid_size``, the widest first where it does not come out even."""
    widths, intervals = inner.diff(dim=1), inner.shape[1] - 1
    pieces = torch.full_like(widths, grid_size // intervals)
    for _ in range(grid_size % intervals):
        pieces.scatter_add_(1, (widths / pieces).argmax(1, keepdim=True), torch.ones_like(pieces[:, :1]))
    index = torch.arange(grid_size, device=inner.device).expand(len(inner), -1)
    last = pieces.cumsum(1)
    interval = torch.searchsorted(last, index.to(last.dtype).contiguous(), right=True)
    place = index - (last - pieces).gather(1, interval)
    starts = inner[:, :-1].gather(1, interval) + place / pieces.gather(1, interval) * widths.gather(1, interval)
    return torch.cat([starts, inner[:, -1:]], dim=1)


def quadrature(
    ordered: Float[Tensor, "channels places"], degree: int
) -> tuple[Float[Tensor, "channels points"], Float[Tensor, "channels points"]]:
    """Gauss–Legendre points within each interval of sorted places, and their weights, which sum to 1 in each interval.

    As many as it takes to measure, without error, the mean square of a polynomial piece of this degree.
    """
    nodes, shares = (torch.from_numpy(values).to(ordered) / 2 for values in np.polynomial.legendre.leggauss(degree + 1))
    points = ordered[:, :-1, None] + ordered.diff(dim=1)[..., None] * (nodes + 0.5)
    return points.flatten(1), shares.expand_as(points).flatten(1)


def between(ordered: Float[Tensor, "channels places"], an_interval: int) -> Tensor:
    """Points within each interval of sorted places."""
    shares = (torch.arange(an_interval, dtype=ordered.dtype, device=ordered.device) + 0.5) / an_interval
    return (ordered[:, :-1, None] + ordered.diff(dim=1)[..., None] * shares).flatten(1)
