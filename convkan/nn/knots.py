"""The knots that a layer's functions live on, what is known of them, and what changes with them."""

from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from convkan.basis import Basis, GriddedBasis, get_activation
from convkan.modes import is_jit_traced
from convkan.nn.lineage import Lineage
from convkan.nn.memory import in_memory_format, keeps_channels_last
from convkan.nn.reparametrized import check_own
from convkan.ops import Expansion, Geometry, KnotFacts, Plan, is_concrete, knot_facts


class KnottedLayer(nn.Module):
    """A layer that owns the knots of its basis, if that has any, and knows how it is evaluated on them.

    Attributes:
        geometry: How edges are summed.
        grid: The full knot vector of each channel, (in, knots), or None for a basis without a grid. A buffer: it is
            saved and moved with the layer. Replace it with ``set_grid``, or by assignment; knots that are written in
            place are checked when the layer is next called.
    """

    geometry: Geometry
    num_inputs: int
    basis_weight: nn.Parameter
    grid: Tensor | None
    _basis: Basis
    _base_activation: str | None
    _plan: Plan
    _lineage: Lineage

    @property
    def basis(self) -> Basis:
        """The univariate basis, an immutable description. Its range is that of the grid, where channels share one."""
        facts = None if torch.compiler.is_compiling() else self._facts()
        return self._basis if facts is None else self._over(facts)

    @property
    def base_activation(self) -> str | None:
        """Name of the fixed part b of each edge, or None."""
        return self._base_activation

    @base_activation.setter
    def base_activation(self, name: str | None) -> None:
        get_activation(name)
        if (name is None) != (self._base_activation is None):
            raise ValueError(f"base_activation must be None or not, as the layer was made; got {name!r}")
        self._base_activation = name
        self._describe()

    @property
    def uniform_knots(self) -> bool:
        """Whether the knots are equally spaced within each channel, in which case the closed form is used."""
        facts = self._facts() if self.grid is not None and is_concrete(self.grid) else None
        return self._plan.expansion.uniform if facts is None else facts.uniform

    @property
    def plan(self) -> Plan:
        """How the layer is evaluated on the knots as they are; see ``convkan.ops.knots`` on what is noticed of them.

        A compiler, or an export, takes the plan for the knots that were last set, loaded or moved by a method of the
        layer, or there when ``train`` or ``eval`` was called. What is compiled for a CPU looks at them again when it
        runs.

        Raises:
            ValueError: The knots are not those of the layer's basis: of another shape, not finite or not increasing.
            RuntimeError: The layer is an average of weights that was carried on over a change of the grid.
        """
        grid = self.grid
        if grid is None or torch.compiler.is_compiling():
            return self._plan
        facts = self._facts()
        assert facts is not None
        if is_concrete(grid):
            self._lineage.check()
            if facts.problem is not None:
                raise ValueError(f"knots must {facts.problem}, and those of this {type(self).__name__} do not")
        return self._plan.with_spacing(facts.uniform)

    @torch.inference_mode(False)
    @torch.no_grad()
    def set_grid(self, knots: Float[Tensor, "channels knots"]) -> None:
        """Replace the knots, keeping the coefficients (so the function changes).

        Args:
            knots: The full knot vector of each channel, increasing; (in, G+2k+1) for a spline.

        Raises:
            TypeError: The basis has no grid.
            ValueError: The knots have another shape, are not finite, or do not increase.
        """
        if self.grid is None:
            raise TypeError(f"a {type(self._basis).__name__} basis has no grid")
        self._check_shape(knots)
        self.grid = _as(knots.detach().clone(), self.grid)

    def __setattr__(self, name: str, value: Any) -> None:
        """A grid that is assigned is checked, compilers take its plan, and averages of the layer hear of it.

        Without this each would go on with the knots before, and say nothing; and torch puts what is assigned among the
        buffers before a property could see it.
        """
        if name != "grid" or not isinstance(value, Tensor) or self.__dict__.get("_buffers", {}).get("grid") is None:
            super().__setattr__(name, value)
            return
        self._check_shape(value)
        problem = knot_problem(value, self._gridded())
        if problem is not None:
            raise ValueError(f"knots must {problem}")
        self._leave_relatives(value)
        super().__setattr__(name, value)
        self._take_range()
        self._lineage.settle()

    @torch.inference_mode(False)
    @torch.no_grad()
    def respline(self, basis: GriddedBasis, knots: Float[Tensor, "channels knots"], basis_weight: Tensor) -> None:
        """Replace basis, knots and coefficients together: what ``convkan.grid`` is made of.

        Where sizes stay the same it happens in place; otherwise ``basis_weight`` becomes a new parameter.

        Args:
            basis: The new basis, for a layer that has a grid.
            knots: (in, knots) for that basis.
            basis_weight: For that basis, of the shape and layout of the layer's own.
        """
        self.check_own_weights()
        assert self.grid is not None
        old = self.basis_weight
        self._leave_relatives(knots)
        self._basis = basis
        if basis_weight.shape == old.shape:
            self.grid.copy_(_as(knots, self.grid))
            old.copy_(_as(basis_weight, old))
        else:
            # Copies, which those who train can use even if these were made in inference mode; contiguous ones, since to
            # change the format leaves a transposed matrix as it is.
            self._buffers["grid"] = _as(knots, self.grid).clone()
            weight = _as(basis_weight, old).clone(memory_format=torch.contiguous_format)
            new = in_memory_format(weight, keeps_channels_last(old))
            self.basis_weight = nn.Parameter(new, requires_grad=old.requires_grad)
        self._take_range()
        self._lineage.settle()

    def check_own_weights(self) -> None:
        """Raise RuntimeError if the coefficients are computed from other parameters: then they cannot be replaced."""
        check_own(self, "basis_weight")

    def touched_copies(self) -> list["KnottedLayer"]:
        """Living relatives by ``copy.deepcopy`` that were written to since: averages of this layer, or on their own."""
        layers = [relative.layer for relative in self._lineage.touched_relatives()]
        return [layer for layer in layers if isinstance(layer, KnottedLayer)]

    def train(self, mode: bool = True) -> Self:
        """As of every module; what is compiled or exported next is so for the knots as they are now."""
        self._describe()
        return super().train(mode)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """Convert or move the layer: uniform knots stay so, and are exact again in a higher precision."""
        before, uniform = self.grid, self.uniform_knots
        super()._apply(fn, recurse)
        after = self.grid
        if before is not None and after is not None:
            if uniform and after.dtype.itemsize > before.dtype.itemsize and not after.is_meta:
                basis = self._gridded()
                after.copy_(basis.spaced_knots(*basis.ends(after)))
            self._describe()
            self._lineage.follow(before, after)
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Copies and unpickled layers have a lineage of their own."""
        super().__setstate__(state)
        self._lineage = self._lineage.of(self)

    def _gridded(self) -> GriddedBasis:
        assert isinstance(self._basis, GriddedBasis)
        return self._basis

    def _facts(self) -> KnotFacts | None:
        """What is known of the knots as they are; None without a grid."""
        grid = self.grid
        if grid is None:
            return None
        self._check_shape(grid)
        return knot_facts(self._gridded(), grid)

    def _over(self, facts: KnotFacts) -> Basis:
        """The basis over the range that all channels share, if they do and it is another."""
        basis, grid = self._gridded(), self.grid
        if facts.ends is None or grid is None:
            return basis
        rounding = torch.finfo(grid.dtype).eps
        same = all(abs(end - is_) <= rounding * abs(is_) for end, is_ in zip(facts.ends, basis.grid_range, strict=True))
        return basis if same else basis.with_range(*facts.ends)

    def _describe(self) -> None:
        """Bring the plan up to date, once knots may have changed; and not the range: fresh memory holds anything."""
        plan = Plan(Expansion(self._basis, self._base_activation, self.uniform_knots), self.geometry)
        if plan != self._plan:  # compilers know it by its identity
            self._plan = plan

    def _take_range(self) -> None:
        """Bring the basis' range up to date, and the plan, once knots were set or loaded."""
        if self.grid is not None and is_concrete(self.grid):
            self._basis = self.basis
        self._describe()

    def _leave_relatives(self, knots: Tensor) -> None:
        """Tell averages of this layer that it is about to have these knots, if they are others."""
        if self.grid is None or not is_concrete(self.grid) or not is_concrete(knots):
            return
        knots = _as(knots.detach(), self.grid)
        if knots.shape != self.grid.shape or not torch.equal(knots, self.grid):
            self._lineage.leave(knots)

    def _check_shape(self, knots: Tensor) -> None:
        expected = (self.num_inputs, self._gridded().num_knots)
        if not is_jit_traced() and knots.shape != expected:
            raise ValueError(f"knots must have shape {expected}, got {tuple(knots.shape)}")


def knot_problem(knots: Float[Tensor, "channels knots"], basis: GriddedBasis) -> str | None:
    """What is wrong with the knots of ``basis``, or None; nothing, where they have no numbers yet."""
    return knot_facts(basis, knots).problem if is_concrete(knots) else None


def _as(values: Tensor, like: Tensor) -> Tensor:
    """In the dtype and on the device of ``like``; converted first, since not every device has float64."""
    return values.to(like.dtype).to(like.device)
