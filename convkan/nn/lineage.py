"""Copies of a layer that follow it, as averages of weights do, and what becomes of them when its grid changes.

Coefficients belong to knots. An average that goes on over a change of knots mixes coefficients of two bases and
belongs to neither. Nothing in the tensors shows it, so a layer remembers its living copies: when its knots change it
marks those whose weights have been written to since they were made. If knots are then written over those of a marked
copy, that copy is refused.
"""

import weakref
from typing import Any

import torch
from torch import Tensor, nn


class Lineage:
    """A layer's living copies, and whether it was itself left behind by the layer that it is a copy of.

    Args:
        layer: The layer it is about; it has a ``basis_weight`` and a ``grid``.
    """

    def __init__(self, layer: nn.Module | None = None) -> None:
        self._copies: weakref.WeakSet[Lineage] = weakref.WeakSet()
        self._layer: weakref.ref[nn.Module] | None = None if layer is None else weakref.ref(layer)
        self.settle()

    @property
    def layer(self) -> nn.Module | None:
        """The layer it is about, while that lives."""
        return None if self._layer is None else self._layer()

    def of(self, layer: nn.Module) -> "Lineage":
        """This lineage, if it is that of a copy in the making, else one for a layer that shares another's."""
        if self._layer is not None:
            return Lineage(layer)
        self._layer = weakref.ref(layer)
        self.settle()
        return self

    def settle(self) -> None:
        """Coefficients and knots were set together: whatever was before counts no more."""
        self._left_behind: Tensor | None = None
        self._version = _version(self.layer)

    def leave_copies(self) -> None:
        """The layer's knots are about to change: mark the copies whose weights have been written to."""
        for copy in self._copies:
            layer = copy.layer
            if layer is not None and copy._version != _version(layer):
                copy._left_behind = _knots(layer).clone()

    def follow(self, before: Tensor, after: Tensor) -> None:
        """The layer's knots were converted or moved to another device."""
        if self._left_behind is not None and _same(self._left_behind, before):
            self._left_behind = after.detach().clone()

    def check(self) -> None:
        """Raise if the layer's weights were averaged over a change of knots.

        Raises:
            RuntimeError: They were.
        """
        layer = self.layer
        if self._left_behind is None or layer is None or _knots(layer).is_meta:
            return
        if not _same(self._left_behind, _knots(layer)):
            raise RuntimeError(
                f"the weights of this {type(layer).__name__} were averaged over a change of its grid: it is a copy, "
                "the original's knots have moved since and were written over its own, while its coefficients are "
                "partly of the knots before. Give such copies to what changes grids, as adapt_grids(…, "
                "averages=[copy]) and refine_grids(…, averages=[copy]); or start again with load_state_dict"
            )

    def __deepcopy__(self, memo: dict[int, Any]) -> "Lineage":
        """The lineage of a copy, known to this one; ``of`` follows when the copy is whole."""
        copy = Lineage()
        self._copies.add(copy)
        return copy

    def __reduce__(self) -> tuple[type["Lineage"], tuple[()]]:
        """What is unpickled is on its own."""
        return Lineage, ()


def _version(layer: nn.Module | None) -> int | None:
    """Changes when coefficients are written to; None where torch does not count."""
    weight = None if layer is None else getattr(layer, "basis_weight", None)
    return None if not isinstance(weight, Tensor) or weight.is_inference() else weight._version


def _knots(layer: nn.Module) -> Tensor:
    grid = layer.grid
    assert isinstance(grid, Tensor)
    return grid.detach()


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other.to(one.device))
