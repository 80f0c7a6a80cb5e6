"""What every KAN layer is: a basis with weights and, for splines, a grid."""

from numbers import Integral
from typing import Any, ClassVar, Self

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from convkan.basis import Basis, GriddedBasis, create_basis, get_activation
from convkan.nn.checkpoint import watch_optimizers
from convkan.nn.initialization import initialize_edges
from convkan.nn.lineage import Lineage
from convkan.nn.masking import MaskedEdges
from convkan.nn.memory import in_memory_format, keeps_channels_last
from convkan.nn.reparametrized import check_own
from convkan.nn.symbolic import SymbolicEdges
from convkan.nn.tracing import Whole
from convkan.ops import Expansion, Geometry, KnotFacts, Plan, check_backend, evaluate, is_concrete, knot_facts


class KANLayer(Whole, MaskedEdges):
    """Edges φ(x) = w_b·b(x) + Σ_k c_k·B_k(x) between ``in_channels`` inputs and ``out_channels`` sums.

    The base class of all layers: it owns the parameters and the grid, not the geometry of the sum.

    Attributes:
        basis: The univariate basis, an immutable description; its range is that of the grid, where channels share one.
        base_activation: Name of b, or None.
        backend: Name of the backend that evaluates the layer, or "auto".
        base_weight: w_b, (out, in/groups, *kernel), or None without a base activation.
        basis_weight: c, (out, K·in/groups, *kernel), feature-major: all channels of B_1, then of B_2, …
        grid: The full knot vector of each channel, (in, knots), or None for a basis without a grid. A buffer: it
            is saved and moved with the layer. Replace it with ``set_grid``, or by assignment.
        plan: How the layer is evaluated, for ``convkan.ops``, on the grid that was last set, loaded or moved.
        edge_mask: Which edges are alive, (out, in/groups, *kernel) of booleans, or None for all. The others
            contribute nothing and get no gradient. See ``convkan.interpret.prune_edges``.
        symbolic: Edges that compute a named function instead of a spline, or None. See ``convkan.interpret.fix``.
    """

    random_functions: ClassVar[bool] = True
    base_weight: nn.Parameter | None
    basis_weight: nn.Parameter
    bias: nn.Parameter | None
    grid: Tensor | None
    symbolic: SymbolicEdges | None
    plan: Plan

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, ...],
        groups: int,
        bias: bool,
        geometry: Geometry,
        *,
        basis: Basis | str,
        base_activation: str | None,
        backend: str,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        self._geometry = geometry
        check_backend(backend)
        get_activation(base_activation)
        dtype = torch.get_default_dtype() if dtype is None else dtype
        if not dtype.is_floating_point:
            raise TypeError(f"dtype must be a floating point type, got {dtype}")
        self._basis = create_basis(basis)
        self.base_activation = base_activation
        self.backend = backend
        self.num_inputs, self.num_groups = in_channels, groups
        fan_in = in_channels // groups

        def empty(*shape: int) -> Tensor:
            return torch.empty(*shape, device=device, dtype=dtype)

        weight = nn.Parameter(empty(out_channels, fan_in, *kernel_size)) if base_activation else None
        self.register_parameter("base_weight", weight)
        planes = self._basis.num_functions * fan_in
        self.basis_weight = nn.Parameter(empty(out_channels, planes, *kernel_size))
        self.register_parameter("bias", nn.Parameter(empty(out_channels)) if bias else None)
        knots = empty(in_channels, self._basis.num_knots) if isinstance(self._basis, GriddedBasis) else None
        self.register_buffer("grid", knots)
        self.edge_mask = None
        self.symbolic = None
        self.plan = Plan(Expansion(self._basis, base_activation, uniform=True), geometry)
        self._lineage = Lineage(self)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw new weights that keep the variance of activations, and lay the grid out anew over its range.

        Masked edges stay masked, and named functions what they are.

        Raises:
            RuntimeError: A weight is not the layer's own parameter but computed from others.
        """
        check_own(self, "base_weight", "basis_weight")
        if isinstance(self._basis, GriddedBasis):
            assert self.grid is not None
            self.grid.copy_(self._basis.knots(self.num_inputs))
        self._describe_grid()
        initialize_edges(
            self.base_weight,
            self.coefficients,
            self._basis,
            self.base_activation,
            random_functions=self.random_functions,
        )
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        self.clear_masked()
        self._lineage.settle()

    @property
    def basis(self) -> Basis:
        """The univariate basis. Its range is that of the grid, where all channels share one."""
        if not isinstance(self._basis, GriddedBasis) or self.grid is None or torch.compiler.is_compiling():
            return self._basis
        return _over(self._basis, knot_facts(self._basis, self.grid), self.grid.dtype)

    @basis.setter
    def basis(self, basis: Basis) -> None:
        self._basis = basis
        self.plan = Plan(Expansion(basis, self.base_activation, self.plan.expansion.uniform), self._geometry)

    @property
    def uniform_knots(self) -> bool:
        """Whether the knots are equally spaced within each channel, in which case the closed form is used."""
        if not isinstance(self._basis, GriddedBasis) or self.grid is None or not is_concrete(self.grid):
            return self.plan.expansion.uniform
        return knot_facts(self._basis, self.grid).uniform

    @property
    def coefficients(self) -> Float[Tensor, "out in_per_group functions *kernel"]:
        """The basis weight with the functions as a dimension of their own: a view, so writing to it is allowed."""
        return rearrange(self.basis_weight, "o (f c) ... -> o c f ...", f=self._basis.num_functions)

    @torch.inference_mode(False)
    @torch.no_grad()
    def set_grid(self, knots: Float[Tensor, "channels knots"]) -> None:
        """Replace the knots, keeping the coefficients (so the function changes).

        Args:
            knots: The full knot vector of each channel, increasing; (in, G+2k+1) for the present basis.

        Raises:
            TypeError: The basis has no grid.
            ValueError: The knots have another shape, are not finite, or do not increase.
        """
        if self.grid is None:
            raise TypeError(f"a {type(self.basis).__name__} basis has no grid")
        self.grid = _as(knots.detach().clone(), self.grid)

    @torch.inference_mode(False)
    @torch.no_grad()
    def respline(self, basis: GriddedBasis, knots: Float[Tensor, "channels knots"], basis_weight: Tensor) -> None:
        """Replace basis, knots and coefficients together: what ``convkan.grid`` is made of.

        Where sizes stay the same it happens in place; otherwise ``basis_weight`` becomes a new parameter.

        Args:
            basis: The new basis, for a layer that has a grid.
            knots: (in, G+2k+1) for that basis.
            basis_weight: (out, K·in/groups, *kernel) for that basis.
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
        self._describe_grid()
        self._lineage.settle()

    def check_own_weights(self) -> None:
        """Raise RuntimeError if the coefficients are computed from other parameters: then they cannot be replaced."""
        check_own(self, "basis_weight")

    def edge_weights(self) -> tuple[Tensor | None, Tensor]:
        """Base weight and basis weight as they count: without the edges that are masked."""
        if self.edge_mask is None:
            return self.base_weight, self.basis_weight
        alive = self.alive_edges(self.basis_weight)
        repeats = (1, self._basis.num_functions, *(1,) * (alive.ndim - 2))
        base = None if self.base_weight is None else self.base_weight * alive
        return base, self.basis_weight * alive.repeat(repeats)

    def masked_weights(self) -> dict[str, Tensor]:
        """``edge_weights`` by name."""
        base, basis = self.edge_weights()
        return {"basis_weight": basis} if base is None else {"base_weight": base, "basis_weight": basis}

    def edge_planes(self) -> Float[Tensor, "out in_per_group features *kernel"]:
        """The weights of every edge as they count, that of the base activation first if there is one."""
        base, basis = self.edge_weights()
        planes = rearrange(basis, "o (f c) ... -> o c f ...", f=self._basis.num_functions)
        return planes if base is None else torch.cat([base.unsqueeze(2), planes], dim=2)

    def add_symbolic(self) -> SymbolicEdges:
        """``symbolic``, made now if there was none."""
        if self.symbolic is None:
            weight = self.basis_weight
            self.symbolic = SymbolicEdges(self.edge_shape, device=weight.device, dtype=weight.dtype)
            self.symbolic.requires_grad_(weight.requires_grad)
        return self.symbolic

    def sum_of_edges(self, x: Tensor) -> Tensor:
        """The output of the layer without its bias, for input that is padded but for zeros."""
        plan = self.current_plan()
        y = evaluate(x, *self.edge_weights(), self.grid, plan, backend=self.backend)
        if self.symbolic is None or not self.symbolic.functions:
            return y
        return y + self.symbolic(x, plan, len(self.basis_weight)).to(y.dtype)

    @property
    def edge_shape(self) -> tuple[int, ...]:
        """(out, in/groups, *kernel)."""
        return len(self.basis_weight), self.num_inputs // self.num_groups, *self.basis_weight.shape[2:]

    def current_plan(self) -> Plan:
        """``plan``, once it is made sure that it fits the grid there is; see ``convkan.ops.knots`` on what is noticed.

        A compiler, or an export, takes the plan as it is: of the knots that were last set, loaded or moved by a method
        of the layer, or there when ``train`` or ``eval`` was called. What is compiled for a CPU looks at them again
        when it runs.

        Raises:
            RuntimeError: The layer is an average of weights that was carried on over a change of the grid.
        """
        if not isinstance(self._basis, GriddedBasis) or self.grid is None or torch.compiler.is_compiling():
            return self.plan
        if is_concrete(self.grid):
            self._lineage.check()
        return self.plan.with_spacing(knot_facts(self._basis, self.grid).uniform)

    def train(self, mode: bool = True) -> Self:
        """As of every module; ``plan`` is brought up to date besides, for what is compiled or exported next."""
        self._describe_spacing()
        return super().train(mode)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """Convert or move the layer: uniform knots stay so, and are exact again in a higher precision."""
        before, uniform = self.grid, self.uniform_knots
        super()._apply(fn, recurse)
        after = self.grid
        if before is not None and after is not None:
            if uniform and after.dtype.itemsize > before.dtype.itemsize and not after.is_meta:
                assert isinstance(self._basis, GriddedBasis)
                after.copy_(self._basis.spaced_knots(*self._basis.ends(after)))
            self._describe_spacing()  # and not the range: memory that waits to be filled holds anything
            self._lineage.follow(before, after)
        return self

    def _describe_grid(self) -> None:
        """Bring ``plan`` and the basis' range up to date, once knots were set, loaded or moved."""
        if isinstance(self._basis, GriddedBasis) and self.grid is not None and is_concrete(self.grid):
            facts = knot_facts(self._basis, self.grid)
            self._basis = _over(self._basis, facts, self.grid.dtype)
            self.plan = Plan(Expansion(self._basis, self.base_activation, facts.uniform), self._geometry)
        else:
            uniform = self.plan.expansion.uniform
            self.plan = Plan(Expansion(self._basis, self.base_activation, uniform), self._geometry)

    def _describe_spacing(self) -> None:
        """Bring ``plan`` up to date, once knots may have been written in place."""
        if isinstance(self._basis, GriddedBasis) and self.grid is not None and is_concrete(self.grid):
            self.plan = self.plan.with_spacing(knot_facts(self._basis, self.grid).uniform)

    def __setattr__(self, name: str, value: Any) -> None:
        """Check a grid that is assigned, and bring the plan up to date."""
        new_grid = name == "grid" and isinstance(value, Tensor) and "grid" in self.__dict__.get("_buffers", {})
        if new_grid:
            assert isinstance(self._basis, GriddedBasis)
            assert self.grid is not None
            if value.shape != self.grid.shape:
                raise ValueError(f"knots must have shape {tuple(self.grid.shape)}, got {tuple(value.shape)}")
            problem = _knot_problem(value, self._basis)
            if problem:
                raise ValueError(f"knots must {problem}")
            self._leave_relatives(value)
        super().__setattr__(name, value)
        if new_grid:
            self._lineage.settle()
        if new_grid or (name == "base_activation" and "plan" in self.__dict__):
            self._describe_grid()

    def _leave_relatives(self, knots: Tensor) -> None:
        """Tell averages of this layer that it is about to have these knots, if they are others."""
        if self.grid is None or not is_concrete(self.grid) or not is_concrete(knots):
            return
        knots = _as(knots.detach(), self.grid)
        if knots.shape != self.grid.shape or not torch.equal(knots, self.grid):
            self._lineage.leave(knots)

    def touched_copies(self) -> list["KANLayer"]:
        """Living relatives by ``copy.deepcopy`` that were written to since: averages of this layer, or on their own."""
        layers = [relative.layer for relative in self._lineage.touched_relatives()]
        return [layer for layer in layers if isinstance(layer, KANLayer)]

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Copies and unpickled layers have a lineage of their own."""
        super().__setstate__(state)
        self._lineage = self._lineage.of(self)

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
        self._describe_grid()
        if isinstance(weight, Tensor) and isinstance(grid, Tensor):
            self._lineage.settle()

    @torch.inference_mode(False)
    @torch.no_grad()
    def _adopt_sizes(self, weight: Tensor, grid: Tensor | None) -> str | None:
        """Resize to a state's basis, in place so that optimisers keep hold; or say why that cannot be."""
        fan_in = self.num_inputs // self.num_groups
        expected = (self.basis_weight.shape[0], *self.basis_weight.shape[2:])
        if weight.ndim < 2 or (weight.shape[0], *weight.shape[2:]) != expected or weight.shape[1] % fan_in:
            return None  # the ordinary size check names the mismatch
        if self.grid is not None and (grid is None or grid.ndim != 2 or grid.shape[0] != self.num_inputs):
            return None
        try:
            knots = None if grid is None else grid.shape[1]
            basis = self._basis.resized(weight.shape[1] // fan_in, knots)
        except ValueError as error:
            return str(error)
        if isinstance(basis, GriddedBasis) and grid is not None:
            problem = _knot_problem(grid, basis)
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

    def extra_repr(self) -> str:
        """The options that all layers share."""
        parts = [f"basis={self.basis}", f"base_activation={self.base_activation!r}"]
        if not self.uniform_knots:
            parts.append("uniform_knots=False")
        if self.edge_mask is not None and is_concrete(self.edge_mask):
            parts.append(f"alive={int(self.edge_mask.sum())}/{self.edge_mask.numel()}")
        if self.backend != "auto":
            parts.append(f"backend={self.backend!r}")
        return ", ".join(parts)


def _over(basis: GriddedBasis, facts: KnotFacts, dtype: torch.dtype) -> GriddedBasis:
    """The basis over the range that all channels share, if they do and it is another."""
    if facts.ends is None:
        return basis
    rounding = torch.finfo(dtype).eps
    same = all(abs(end - is_) <= rounding * abs(is_) for end, is_ in zip(facts.ends, basis.grid_range, strict=True))
    return basis if same else basis.with_range(*facts.ends)


def _as(values: Tensor, like: Tensor) -> Tensor:
    """In the dtype and on the device of ``like``; converted first, since not every device has float64."""
    return values.to(like.dtype).to(like.device)


def _knot_problem(knots: Float[Tensor, "channels knots"], basis: GriddedBasis) -> str | None:
    """What is wrong with the knots of ``basis``, or None."""
    if not is_concrete(knots):
        return None
    if not bool(knots.isfinite().all()):
        return "be finite"
    low, high = basis.ends(knots)
    if not bool((knots.diff(dim=1) >= 0).all() and (low < high).all()):
        return "increase along each channel"
    return None


def check_channels(**sizes: int) -> tuple[int, ...]:
    """The sizes as Python's integers (they may be numpy's); raises unless every one is a positive integer."""
    for name, size in sizes.items():
        if not is_integer(size):
            raise TypeError(f"{name} must be an integer, got {size!r}")
        if size < 1:
            raise ValueError(f"{name} must be positive, got {size}")
    return tuple(int(size) for size in sizes.values())


def is_integer(value: object) -> bool:
    """Whether ``value`` is an integer of any kind, numpy's included, but no truth value."""
    return isinstance(value, Integral) and not isinstance(value, bool)
