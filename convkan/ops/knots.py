"""What is known about knots, by what they are: nothing is remembered of a tensor that its numbers do not confirm.

Whether knots are equally spaced decides which formula is right, so a wrong answer is a wrong function. Knots change in
ways that leave no trace: an average written over them, a state loaded into them, a write through ``.data``, another
process that shares their memory; and a copy looks like the original while its counters start anew. So an answer is kept
together with a copy of the numbers it was found for, and given again only for the same numbers.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from convkan.basis import GriddedBasis
from convkan.modes import is_readable, is_transformed, untransformed


@dataclass(frozen=True)
class KnotFacts:
    """What a layer must know about its knots.

    Attributes:
        uniform: Whether each channel's knots are equally spaced, to the rounding of their dtype.
        ends: The ends of the grid if all channels share them, else None.
        problem: What knots must be and these are not, or None.
    """

    uniform: bool
    ends: tuple[float, float] | None
    problem: str | None = None


UNKNOWN = KnotFacts(uniform=False, ends=None)  # true of any knots: the general formulas hold for all


@dataclass(frozen=True)
class _Answer:
    knots: Float[Tensor, "channels knots"]
    version: int | None
    basis: GriddedBasis
    facts: KnotFacts

    def holds_for(self, grid: Tensor, basis: GriddedBasis) -> bool:
        if self.basis is not basis and self.basis != basis.with_range(*self.basis.grid_range):
            return False  # of the range nothing depends: it is read off the knots
        same_version = self.version is not None and self.version == _version(grid)
        if not is_readable(grid):
            return same_version
        # Reading numbers on another device would make the host wait for it, so there an equal version has to do.
        return (same_version and not grid.is_cpu) or _equal(self.knots, grid)


_ANSWERS = WeakIdKeyDictionary()


def knot_facts(basis: GriddedBasis, grid: Float[Tensor, "channels knots"]) -> KnotFacts:
    """What is to be known about the knots of ``basis`` as they are now.

    On a CPU every change is noticed. On other devices, one that torch counts as a write: not one through ``.data``, or
    by another process. Where numbers cannot be read (traced, transformed or described tensors) nothing is assumed,
    unless it was found before and the tensor has not been written to since.
    """
    answer = _ANSWERS.get(grid)
    if answer is not None and answer.holds_for(grid, basis):
        # Written to, but with the same numbers; or described in other words, to be known at once when they come again.
        if answer.version != _version(grid) or answer.basis is not basis:
            _ANSWERS[grid] = replace(answer, basis=basis, version=_version(grid))
        return answer.facts
    if not is_readable(grid):
        return UNKNOWN
    with untransformed():
        return _found(basis, grid)


def _found(basis: GriddedBasis, grid: Float[Tensor, "channels knots"]) -> KnotFacts:
    """Read them off the numbers, and remember them."""
    facts = _read_off(basis, grid.detach().cpu().double(), torch.finfo(grid.dtype).eps)
    _ANSWERS[grid] = _Answer(grid.detach().clone(), _version(grid), basis, facts)
    return facts


def _read_off(basis: GriddedBasis, grid: Float[Tensor, "channels knots"], eps: float) -> KnotFacts:
    low, high = basis.ends(grid)
    deviation = (grid - basis.spaced_knots(low, high)).abs()
    uniform = bool((deviation <= 2 * eps * grid.abs().amax(1, keepdim=True)).all())
    # A grid that waits to be filled holds anything.
    shared = bool(((low == low[0]) & (high == high[0]) & (low < high) & grid.isfinite().all()).all())
    return KnotFacts(uniform, (low[0].item(), high[0].item()) if shared else None, _problem(grid, low, high))


def _problem(grid: Float[Tensor, "channels knots"], low: Tensor, high: Tensor) -> str | None:
    if not bool(grid.isfinite().all()):
        return "be finite"
    if not bool((grid.diff(dim=1) >= 0).all() and (low < high).all()):
        return "increase along each channel"
    return None


def _equal(one: Tensor, other: Tensor) -> bool:
    if not is_transformed():
        return torch.equal(one, other)
    with untransformed():
        return torch.equal(one, other)


def _version(tensor: Tensor) -> int | None:
    """Changes when the tensor is written to; None where torch does not count."""
    return None if tensor.is_inference() else tensor._version
