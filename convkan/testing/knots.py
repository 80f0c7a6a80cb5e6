"""The laws of a basis with a grid: what it says of knots. Each raises AssertionError if the basis breaks it."""

from collections.abc import Callable

import torch
from torch import Tensor

from convkan.basis import GriddedBasis
from convkan.testing.agreement import assert_agree
from convkan.testing.functions import knots_of, points_around


def knots_lie_evenly_over_the_range(basis: GriddedBasis) -> None:
    """A layer starts on equally spaced knots, a row a channel, that never decrease; the grid's ends are exact."""
    low, high = basis.grid_range
    knots = basis.knots(3)
    assert knots.shape == (3, basis.num_knots), f"knots(3) must be (3, {basis.num_knots}), got {tuple(knots.shape)}"
    assert (knots.dtype, knots.device.type) == (torch.float64, "cpu"), "knots must be in float64 on the CPU"
    steps = knots.diff(dim=1)
    assert_agree(steps, torch.full_like(steps, (high - low) / basis.grid_size), "steps between knots")
    ends = basis.ends(knots)
    assert all((end == value).all() for end, value in zip(ends, basis.grid_range, strict=True)), "ends must be exact"
    lows = low + torch.rand(2, 3, dtype=torch.float64)
    highs = lows + 0.1 + torch.rand(2, 3, dtype=torch.float64)
    spaced = basis.spaced_knots(lows, highs)
    assert spaced.shape == (2, 3, basis.num_knots), "spaced_knots must put knots last"
    assert all(map(torch.equal, basis.ends(spaced), (lows, highs))), "ends of spaced_knots must be exact"


def points_of_the_grid_are_found_again(basis: GriddedBasis) -> None:
    """Knots are the points of the grid, and those beyond."""
    knots = _uneven(basis, 3)
    points = basis.grid_points(knots)
    assert points.shape == (3, basis.grid_size + 1), "grid_points must be grid_size + 1"
    assert all(map(torch.equal, (points[:, 0], points[:, -1]), basis.ends(knots))), "they must begin and end with ends"
    assert torch.equal(basis.extended(points, beyond=knots), knots), "extended by knots beyond they must be the knots"
    even = basis.knots(3)
    assert_agree(basis.extended(basis.grid_points(even)), even, "knots extended evenly")


def functions_follow_the_knots_alone(basis: GriddedBasis) -> None:
    """Where a layer starts makes no difference to functions on knots: layers on any range share what is compiled."""
    knots, x = _uneven(basis, 3), points_around(basis, 20, 3)
    elsewhere = basis.with_range(0, 1)
    assert elsewhere.grid_range == (0, 1), "with_range must set grid_range"
    assert (elsewhere.num_functions, elsewhere.num_knots) == (basis.num_functions, basis.num_knots)
    for name in ("evaluate", "derivative"):
        assert torch.equal(getattr(elsewhere, name)(x, knots), getattr(basis, name)(x, knots)), (
            f"{name} must follow the knots, not grid_range"
        )


def grids_come_in_all_sizes(basis: GriddedBasis) -> None:
    """``with_grid_size`` changes sizes alone, and a state of those sizes is known for what it is."""
    for size in (basis.grid_size, basis.grid_size + 1, 2 * basis.grid_size, 20):
        other = basis.with_grid_size(size)
        assert other.grid_size == size, f"with_grid_size({size}) must have that grid_size, got {other.grid_size}"
        assert other.grid_range == basis.grid_range, "with_grid_size must keep the range"
        assert basis.resized(other.num_functions, other.num_knots) == other, f"resized must know grid_size {size}"
        values = other.evaluate(points_around(basis, 4, 2), knots_of(other, 2))
        assert values.shape[1] == other.num_functions, f"of grid_size {size} there must be {other.num_functions}"


def wrong_numbers_of_knots_are_named(basis: GriddedBasis) -> None:
    """No knots, or others than there should be, are a ValueError (``GriddedBasis.checked`` raises it)."""
    for knots in (None, torch.zeros(1, basis.num_knots + 1)):
        for function in (basis.evaluate, basis.derivative):
            try:
                function(torch.zeros(2, 1), knots)
            except ValueError:
                continue
            raise AssertionError(f"{function.__name__} must raise ValueError unless there are {basis.num_knots} knots")


def inserted_knots_keep_functions(basis: GriddedBasis) -> None:
    """If a basis inserts knots, functions stay what they are on the grid."""
    knots = _uneven(basis, 2)
    finer = basis.with_grid_size(2 * basis.grid_size)
    points = basis.grid_points(knots)
    halved = torch.stack([points[:, :-1], (points[:, :-1] + points[:, 1:]) / 2], dim=-1).flatten(1)
    finer_knots = finer.extended(torch.cat([halved, points[:, -1:]], dim=1), beyond=knots)
    change = basis.insertion(knots, finer, finer_knots)
    if change is None:
        return
    low, high = basis.ends(knots)
    x = low + (high - low) * torch.rand(100, 2, dtype=torch.float64)
    coefficients = torch.randn(2, basis.num_functions, 1, dtype=torch.float64)
    before = (basis.evaluate(x, knots) * coefficients.squeeze(-1).T).sum(-2)
    after = (finer.evaluate(x, finer_knots) * (change @ coefficients).squeeze(-1).T).sum(-2)
    assert_agree(after, before, "functions after insertion", factor=100)


def _uneven(basis: GriddedBasis, channels: int) -> Tensor:
    knots = knots_of(basis, channels, uneven=True)
    assert knots is not None
    return knots


KNOT_LAWS: tuple[Callable[[GriddedBasis], None], ...] = (
    knots_lie_evenly_over_the_range,
    points_of_the_grid_are_found_again,
    functions_follow_the_knots_alone,
    grids_come_in_all_sizes,
    wrong_numbers_of_knots_are_named,
    inserted_knots_keep_functions,
)
