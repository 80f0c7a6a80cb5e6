"""Copies of a layer that follow it, as averages of weights do, and what becomes of them when its grid changes.

Coefficients belong to knots. An average that goes on over a change of knots mixes coefficients of two bases and
belongs to neither. Nothing in the tensors shows it, so a layer and its living copies know of each other: when the knots
of one change, the others are marked, but for copies as yet untouched, whose first update is a copy, too. If knots are
then written over those of a marked one from outside, it is refused. Models that average another's weights without
having come from it by ``copy.deepcopy`` cannot be told from any others.
"""

import weakref
from typing import Any

import torch
from torch import Tensor, nn

from convkan.nn.reparametrized import is_sharded


class Lineage:
    """The living relatives of a layer, and whether the layer was left behind by one of them.

    Args:
        layer: The layer it is about; it has a ``basis_weight`` and a ``grid``.
        left_behind: The knots it had when a relative's changed.
    """

    def __init__(self, layer: nn.Module | None = None, left_behind: Tensor | None = None) -> None:
        self._family: weakref.WeakSet[Lineage] = weakref.WeakSet([self])
        self._layer: weakref.ref[nn.Module] | None = None if layer is None else weakref.ref(layer)
        self._left_behind = left_behind
        self._copied: tuple[Any, ...] | None = None  # what an untouched copy looks like
        self._passed: int | None = None  # the version of the knots that were last found to be its own
        self._weight = _weight(layer)

    @property
    def layer(self) -> nn.Module | None:
        """The layer it is about, while that lives."""
        return None if self._layer is None else self._layer()

    def of(self, layer: nn.Module) -> "Lineage":
        """This lineage, if it is that of a copy in the making, else one for a layer that shares another's."""
        if self._layer is not None:
            return Lineage(layer, self._left_behind)
        self._layer = weakref.ref(layer)
        self._copied, self._weight = _looks(layer), _weight(layer)
        return self

    def settle(self) -> None:
        """Coefficients and knots were set together: whatever was before counts no more."""
        self._left_behind = self._copied = self._passed = None
        self._weight = _weight(self.layer)

    def leave(self, knots: Tensor) -> None:
        """The layer's knots are about to be these: mark its relatives that have others."""
        for relative in self.touched_relatives():
            layer = relative.layer
            if layer is not None and relative._left_behind is None and not _same(_knots(layer), knots):
                relative._left_behind = _knots(layer).clone()

    def touched_relatives(self) -> list["Lineage"]:
        """The living relatives but for copies that nobody has written to."""
        living = [relative for relative in self._family if relative is not self and relative.layer is not None]
        return [each for each in living if each._copied is None or each._copied != _looks(each.layer)]

    def follow(self, before: Tensor, after: Tensor) -> None:
        """The layer's knots were converted or moved to another device."""
        if self._left_behind is not None and _same(self._left_behind, before):
            self._left_behind = after.detach().clone()

    def check(self) -> None:
        """Raise if the layer's weights were averaged over a change of knots.

        Raises:
            RuntimeError: They were.
        """
        layer, knots = self.layer, self._left_behind
        if knots is None or layer is None or knots.is_meta or _knots(layer).is_meta:
            return
        if self._weight is None or self._weight() is not layer._parameters.get("basis_weight"):
            return  # for the time of a call it works with weights that are not its own, as by ``functional_call``
        grid = _knots(layer)
        version = None if grid.is_inference() else grid._version
        if version is not None and version == self._passed and not grid.is_cpu:
            return  # to compare numbers, the host would wait for the device
        if _same(knots, grid):
            self._passed = version
        elif any(relative._left_behind is None and _equal(layer, relative.layer) for relative in self._family):
            self.settle()  # a copy of it, as it is now
        else:
            raise RuntimeError(
                f"the weights of this {type(layer).__name__} were averaged over a change of its grid: the knots of "
                "the layer that it averages have moved since and were written over its own, while its coefficients "
                "are partly of the knots before. Give such copies to what changes grids, as adapt_grids(…, "
                "averages=[copy]) and refine_grids(…, averages=[copy]); or start again with load_state_dict"
            )

    def __deepcopy__(self, memo: dict[int, Any]) -> "Lineage":
        """The lineage of a copy, of the same family; ``of`` follows when the copy is whole."""
        copy = Lineage(left_behind=None if self._left_behind is None else self._left_behind.clone())
        self._family.add(copy)
        copy._family = self._family
        return copy

    def __reduce__(self) -> tuple[type["Lineage"], tuple[None, Tensor | None]]:
        """What is unpickled has no relatives."""
        return Lineage, (None, self._left_behind)


def _looks(layer: nn.Module | None) -> tuple[Any, ...] | None:
    """Changes when coefficients are written to, also through ``.data``, which torch does not count."""
    weight = None if layer is None else layer._parameters.get("basis_weight")
    if weight is None or weight.is_meta or is_sharded(weight):
        return None
    values = weight.detach()
    version = None if weight.is_inference() else weight._version
    return version, values.shape, values.sum().item(), values.abs().sum().item()


def _weight(layer: nn.Module | None) -> "weakref.ref[Tensor] | None":
    weight = None if layer is None else layer._parameters.get("basis_weight")
    return None if weight is None else weakref.ref(weight)


def _knots(layer: nn.Module) -> Tensor:
    grid = layer.grid
    assert isinstance(grid, Tensor)
    return grid.detach()


def _equal(one: nn.Module, other: nn.Module | None) -> bool:
    if other is None or not _same(_knots(one), _knots(other)):
        return False
    ours, theirs = one.basis_weight, other.basis_weight
    return isinstance(ours, Tensor) and isinstance(theirs, Tensor) and _same(ours.detach(), theirs.detach())


def _same(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype or one.is_meta or other.is_meta:
        return False
    return torch.equal(one, other.to(one.device))
