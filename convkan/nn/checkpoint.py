"""States of other sizes: a layer that is loaded takes over the grid and the number of functions of what it loads."""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from convkan.basis import GriddedBasis
from convkan.nn.knots import KnottedLayer, knot_problem
from convkan.nn.memory import in_memory_format, keeps_channels_last
from convkan.nn.optimizers import watch_optimizers


class AdoptsStates(KnottedLayer):
    """A layer on knots that saves nothing unsound, and adopts sizes, knots and named edges of what it loads."""

    num_groups: int

    @abstractmethod
    def add_symbolic(self) -> Any:
        """Make room for named edges, if there is none."""

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """Refuse to save an average that belongs to no grid."""
        self._lineage.check()
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Adopt the sizes and symbolic edges of a state before loading it."""
        errors: list[str] = args[-1]
        if f"{prefix}symbolic.affine" in state_dict:
            self.add_symbolic()
        weight, grid = state_dict.get(f"{prefix}basis_weight"), state_dict.get(f"{prefix}grid")
        if isinstance(weight, Tensor) and (isinstance(grid, Tensor) or self.grid is None):
            if isinstance(grid, Tensor):
                self._leave_relatives(grid)
            problem = self._adopt_sizes(weight, grid)
            if problem:
                errors.append(f"{prefix.rstrip('.') or type(self).__name__}: {problem}")
                return
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._take_range()
        if isinstance(weight, Tensor) and isinstance(grid, Tensor):
            self._lineage.settle()

    def functions_in(self, weight: Tensor) -> int | None:
        """How many functions a basis weight is for; None if it is not one of this layer, whatever the basis."""
        own, fan_in = self.basis_weight.shape, self.num_inputs // self.num_groups
        fits = weight.ndim >= 2 and (weight.shape[0], *weight.shape[2:]) == (own[0], *own[2:])
        return weight.shape[1] // fan_in if fits and weight.shape[1] % fan_in == 0 else None

    @torch.inference_mode(False)
    @torch.no_grad()
    def _adopt_sizes(self, weight: Tensor, grid: Tensor | None) -> str | None:
        """Resize to a state's basis, in place so that optimisers keep hold; or say why that cannot be."""
        functions = self.functions_in(weight)
        if functions is None:
            return None  # the ordinary size check names the mismatch
        if self.grid is not None and (grid is None or grid.ndim != 2 or grid.shape[0] != self.num_inputs):
            return None
        try:
            knots = None if grid is None else grid.shape[1]
            basis = self._basis.resized(functions, knots)
        except ValueError as error:
            return str(error)
        if isinstance(basis, GriddedBasis) and grid is not None:
            problem = knot_problem(grid, basis)
            if problem:
                return f"the grid of the state must {problem}"
        if basis != self._basis:
            self._basis = basis
            old = self.basis_weight.data
            self.basis_weight.data = in_memory_format(old.new_empty(weight.shape), keeps_channels_last(old))
            self.basis_weight.grad = None
            watch_optimizers(self.basis_weight, old.shape)
            if self.grid is not None and grid is not None:
                self._buffers["grid"] = self.grid.new_empty(grid.shape)
        return None
