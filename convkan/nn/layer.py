"""What every KAN layer is: a basis with weights and, for splines, a grid."""

from dataclasses import replace
from typing import Any, ClassVar, Self

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from convkan.basis import Basis, BSpline, create_basis, get_activation
from convkan.basis.bspline import uniform_knots
from convkan.nn.initialization import initialize_edges
from convkan.nn.memory import in_memory_format, keeps_channels_last
from convkan.nn.symbolic import SymbolicEdges
from convkan.ops import Expansion, Geometry, Plan, check_backend, evaluate, is_concrete


class KANLayer(nn.Module):
    """Edges φ(x) = w_b·b(x) + Σ_k c_k·B_k(x) between ``in_channels`` inputs and ``out_channels`` sums.

    The base class of all layers: it owns the parameters and the grid, not the geometry of the sum.

    Attributes:
        basis: The univariate basis, an immutable description.
        base_activation: Name of b, or None.
        backend: Name of the backend that evaluates the layer, or "auto".
        base_weight: w_b, (out, in/groups, *kernel), or None without a base activation.
        basis_weight: c, (out, K·in/groups, *kernel), feature-major: all channels of B_1, then of B_2, …
        grid: The full knot vector of each channel, (in, knots), or None for a basis without a grid. A buffer: it
            is saved and moved with the layer. Replace it with ``set_grid``, or by assignment.
        uniform_knots: Whether the knots are equally spaced within each channel, in which case the closed form is
            used. Decided when the grid is set or loaded, or found to have changed.
        plan: How the layer is evaluated, for ``convkan.ops``; it follows the attributes above.
        edge_mask: Which edges are alive, (out, in/groups, *kernel) of booleans, or None for all. A buffer; the others
            contribute nothing and get no gradient. See ``convkan.interpret.prune_edges``.
        symbolic: Edges that compute a named function instead of a spline, or None. See ``convkan.interpret.fix``.
    """

    random_functions: ClassVar[bool] = True
    base_weight: nn.Parameter | None
    basis_weight: nn.Parameter
    bias: nn.Parameter | None
    grid: Tensor | None
    edge_mask: Tensor | None
    symbolic: SymbolicEdges | None

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
        self.basis = create_basis(basis)
        self.base_activation = base_activation
        self.backend = backend
        self.num_inputs, self.num_groups = in_channels, groups
        fan_in = in_channels // groups

        def empty(*shape: int) -> Tensor:
            return torch.empty(*shape, device=device, dtype=dtype)

        weight = nn.Parameter(empty(out_channels, fan_in, *kernel_size)) if base_activation else None
        self.register_parameter("base_weight", weight)
        planes = self.basis.num_functions * fan_in
        self.basis_weight = nn.Parameter(empty(out_channels, planes, *kernel_size))
        self.register_parameter("bias", nn.Parameter(empty(out_channels)) if bias else None)
        knots = empty(in_channels, self.basis.num_knots) if isinstance(self.basis, BSpline) else None
        self.register_buffer("grid", knots)
        self.register_buffer("edge_mask", None)
        self.symbolic = None
        self.uniform_knots = True
        self._described: tuple[Tensor | None, int] = None, 0
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw new weights that keep the variance of activations, and lay the grid out anew over its range.

        Masked edges stay masked, and named functions what they are.
        """
        if isinstance(self.basis, BSpline):
            assert self.grid is not None
            self.grid.copy_(self.basis.knots(self.num_inputs))
            self.uniform_knots = True
            self._described = self.grid, _version(self.grid)
        initialize_edges(
            self.base_weight,
            self.coefficients,
            self.basis,
            self.base_activation,
            random_functions=self.random_functions,
        )
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        self._clear_masked()

    @property
    def coefficients(self) -> Float[Tensor, "out in_per_group functions *kernel"]:
        """The basis weight with the functions as a dimension of their own: a view, so writing to it is allowed."""
        return rearrange(self.basis_weight, "o (f c) ... -> o c f ...", f=self.basis.num_functions)

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
        self.grid = knots.detach().to(self.grid, copy=True)

    @torch.no_grad()
    def respline(self, basis: BSpline, knots: Float[Tensor, "channels knots"], basis_weight: Tensor) -> None:
        """Replace basis, knots and coefficients together: what ``convkan.grid`` is made of.

        Where sizes stay the same it happens in place; otherwise ``basis_weight`` becomes a new parameter.

        Args:
            basis: The new basis, for a layer that has a grid.
            knots: (in, G+2k+1) for that basis.
            basis_weight: (out, K·in/groups, *kernel) for that basis.
        """
        assert self.grid is not None
        in_place = basis_weight.shape == self.basis_weight.shape
        self.basis = basis
        if in_place:
            self.grid.copy_(knots)
            self.basis_weight.copy_(basis_weight)
        else:
            old = self.basis_weight
            self._buffers["grid"] = knots.to(self.grid)
            new = in_memory_format(basis_weight.to(old), keeps_channels_last(old))
            self.basis_weight = nn.Parameter(new, requires_grad=old.requires_grad)
        self._describe_grid()

    def edge_weights(self) -> tuple[Tensor | None, Tensor]:
        """Base weight and basis weight as they count: without the edges that are masked."""
        if self.edge_mask is None:
            return self.base_weight, self.basis_weight
        repeats = (1, self.basis.num_functions, *(1,) * (self.edge_mask.ndim - 2))
        base = None if self.base_weight is None else self.base_weight * self.edge_mask
        return base, self.basis_weight * self.edge_mask.repeat(repeats)

    @torch.no_grad()
    def mask_edges(self, alive: Bool[Tensor, "out in_per_group *kernel"]) -> None:
        """Keep only the edges that are alive now and in ``alive``; the others are zero from now on.

        So are their weights, here and in every ``state_dict``. (An optimiser with momentum may go on to move them for a
        while, which makes no difference.)

        Raises:
            TypeError: ``alive`` is not boolean.
            ValueError: Its shape is not (out, in/groups, *kernel).
        """
        self.edge_mask = merged_mask(self.edge_mask, alive, self._edge_shape(), self.basis_weight.device)
        self._clear_masked()

    def _clear_masked(self) -> None:
        """Make the weights of masked edges zero."""
        base, basis = self.edge_weights()
        if self.edge_mask is not None:
            self.basis_weight.copy_(basis)
        if self.edge_mask is not None and self.base_weight is not None and base is not None:
            self.base_weight.copy_(base)

    def edge_planes(self) -> Float[Tensor, "out in_per_group features *kernel"]:
        """The weights of every edge as they count, that of the base activation first if there is one."""
        base, basis = self.edge_weights()
        planes = rearrange(basis, "o (f c) ... -> o c f ...", f=self.basis.num_functions)
        return planes if base is None else torch.cat([base.unsqueeze(2), planes], dim=2)

    def add_symbolic(self) -> SymbolicEdges:
        """``symbolic``, made now if there was none."""
        if self.symbolic is None:
            weight = self.basis_weight
            self.symbolic = SymbolicEdges(self._edge_shape(), device=weight.device, dtype=weight.dtype)
            self.symbolic.requires_grad_(weight.requires_grad)
        return self.symbolic

    def sum_of_edges(self, x: Tensor) -> Tensor:
        """The output of the layer without its bias, for input that is padded but for zeros."""
        plan = self.current_plan()
        y = evaluate(x, *self.edge_weights(), self.grid, plan, backend=self.backend)
        if self.symbolic is None or not self.symbolic.functions:
            return y
        return y + self.symbolic(x, plan, len(self.basis_weight)).to(y.dtype)

    def _edge_shape(self) -> tuple[int, ...]:
        return len(self.basis_weight), self.num_inputs // self.num_groups, *self.basis_weight.shape[2:]

    def current_plan(self) -> Plan:
        """``plan``, once it is made sure that it describes the grid there is.

        Knots can change unseen: written in place, averaged, broadcast, or put in by ``torch.func.functional_call``.
        What torch does not count as a write goes unnoticed: one through ``.data``, or to an inference tensor. So does
        any write once the layer is compiled; there, as everywhere, ``set_grid`` is noticed.
        """
        if self.grid is None or torch.compiler.is_compiling() or self._grid_is_as_described():
            return self.plan
        if not is_concrete(self.grid):
            return Plan(replace(self.plan.expansion, uniform=False), self.plan.geometry)
        self._describe_grid()
        return self.plan

    def _grid_is_as_described(self) -> bool:
        tensor, version = self._described
        return tensor is self.grid and tensor is not None and version == _version(tensor)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """Convert or move the layer: uniform knots stay so, and are exact again in a higher precision."""
        uniform, before = self.uniform_knots and self._grid_is_as_described(), self.grid
        super()._apply(fn, recurse)
        if uniform and before is not None and self.grid is not None:
            if self.grid.dtype.itemsize > before.dtype.itemsize and not self.grid.is_meta:
                assert isinstance(self.basis, BSpline)
                self.grid.copy_(uniform_knots(*self.basis.ends(self.grid), self.basis.grid_size, self.basis.order))
            self._described = self.grid, _version(self.grid)
        return self

    def _describe_grid(self) -> None:
        """Read off the grid whether it is uniform, and the range if all channels share one."""
        if not isinstance(self.basis, BSpline) or self.grid is None or not is_concrete(self.grid):
            return
        described = self.grid, _version(self.grid)
        grid = self.grid.double()
        low, high = self.basis.ends(grid)
        deviation = (grid - uniform_knots(low, high, self.basis.grid_size, self.basis.order)).abs()
        rounding = torch.finfo(self.grid.dtype).eps * grid.abs().amax(1, keepdim=True)
        uniform = (deviation <= 2 * rounding).all()
        shared = (low == low[0]).all() & (high == high[0]).all()
        # One transfer from the device for all.
        is_uniform, is_shared, *ends = torch.stack([uniform, shared, low[0], high[0]]).tolist()
        self.uniform_knots = bool(is_uniform)
        present = torch.tensor(self.basis.grid_range, dtype=self.grid.dtype, device="cpu").tolist()
        if is_shared and ends != present:
            self.basis = self.basis.with_range(*ends)
        self._described = described

    def __setattr__(self, name: str, value: Any) -> None:
        """Check a grid that is assigned, note whether it is uniform, and keep the plan up to date."""
        new_grid = name == "grid" and isinstance(value, Tensor) and "grid" in self.__dict__.get("_buffers", {})
        if new_grid:
            assert isinstance(self.basis, BSpline)
            assert self.grid is not None
            if value.shape != self.grid.shape:
                raise ValueError(f"knots must have shape {tuple(self.grid.shape)}, got {tuple(value.shape)}")
            problem = _knot_problem(value, self.basis)
            if problem:
                raise ValueError(f"knots must {problem}")
        super().__setattr__(name, value)
        if new_grid:
            self._describe_grid()
        elif name in ("basis", "base_activation", "uniform_knots") and "uniform_knots" in self.__dict__:
            self.plan = Plan(Expansion(self.basis, self.base_activation, self.uniform_knots), self._geometry)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """Masked edges are saved as zero, whatever an optimiser's momentum made of them."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.edge_mask is not None and not keep_vars:
            for name, weight in zip(("base_weight", "basis_weight"), self.edge_weights(), strict=True):
                if weight is not None:
                    destination[prefix + name] = weight.detach()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Adopt the sizes, mask and symbolic edges of a state before loading it."""
        errors: list[str] = args[-1]
        mask = state_dict.get(f"{prefix}edge_mask")
        if isinstance(mask, Tensor) and self.edge_mask is None and mask.shape == self._edge_shape():
            self.edge_mask = torch.ones_like(mask, device=self.basis_weight.device)
        if f"{prefix}symbolic.affine" in state_dict:
            self.add_symbolic()
        weight, grid = state_dict.get(f"{prefix}basis_weight"), state_dict.get(f"{prefix}grid")
        if isinstance(weight, Tensor) and (isinstance(grid, Tensor) or self.grid is None):
            problem = self._adopt_sizes(weight, grid)
            if problem:
                errors.append(f"{prefix.rstrip('.') or type(self).__name__}: {problem}")
                return
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._describe_grid()

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
            basis = self.basis.resized(weight.shape[1] // fan_in, knots)
        except ValueError as error:
            return str(error)
        if isinstance(basis, BSpline) and grid is not None:
            problem = _knot_problem(grid, basis)
            if problem:
                return f"the grid of the state must {problem}"
        if basis != self.basis:
            self.basis = basis
            old = self.basis_weight.data
            self.basis_weight.data = in_memory_format(old.new_empty(weight.shape), keeps_channels_last(old))
            self.basis_weight.grad = None
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


def _version(tensor: Tensor) -> int:
    """Changes when the tensor is written to."""
    return 0 if tensor.is_inference() else tensor._version


def _knot_problem(knots: Float[Tensor, "channels knots"], basis: BSpline) -> str | None:
    """What is wrong with the knots of ``basis``, or None."""
    if not is_concrete(knots):
        return None
    if not bool(knots.isfinite().all()):
        return "be finite"
    low, high = basis.ends(knots)
    if not bool((knots.diff(dim=1) >= 0).all() and (low < high).all()):
        return "increase along each channel"
    return None


def merged_mask(
    mask: Tensor | None, alive: Tensor, shape: tuple[int, ...], device: torch.device
) -> Bool[Tensor, "out in_per_group *kernel"]:
    """The edges that are in both masks, on ``device``.

    Raises:
        TypeError: ``alive`` is not boolean.
        ValueError: It has another shape.
    """
    if alive.dtype != torch.bool:
        raise TypeError(f"alive must be boolean, got {alive.dtype}")
    if alive.shape != shape:
        raise ValueError(f"alive must have shape {shape}, (out, in/groups, *kernel), got {tuple(alive.shape)}")
    alive = alive.to(device, copy=True)
    return alive if mask is None else mask & alive


def check_channels(**sizes: int) -> None:
    """Raise unless every size is a positive integer."""
    for name, size in sizes.items():
        if not isinstance(size, int) or isinstance(size, bool):
            raise TypeError(f"{name} must be an integer, got {size!r}")
        if size < 1:
            raise ValueError(f"{name} must be positive, got {size}")
