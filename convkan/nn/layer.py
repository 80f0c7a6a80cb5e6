"""What every KAN layer is: edges that are summed, each a function of one input, and a basis with weights for these."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from convkan.basis import Basis, GriddedBasis, create_basis, get_activation
from convkan.nn.checkpoint import AdoptsStates
from convkan.nn.initialization import initialize_edges
from convkan.nn.lineage import Lineage
from convkan.nn.masking import MaskedEdges
from convkan.nn.named_edges import SymbolicEdges
from convkan.nn.reparametrized import check_own
from convkan.nn.sizes import check_floating_point
from convkan.nn.tracing import Whole
from convkan.ops import Expansion, Geometry, Plan, check_backend_name, is_concrete


class EdgeLayer(Whole, MaskedEdges, ABC):
    """A layer made of edges, y[o] = Σ φ[o,i,tap](x[i]): what others may ask of it, whichever way it stores them.

    Attributes:
        num_inputs: Channels, or features, of the input.
        num_groups: Groups of inputs that do not mix.
        geometry: How edges are summed.
        bias: (out,), or None.
        edge_layouts: For each parameter that belongs to edges, how its dimensions hold those of (o c f ...): outputs,
            inputs within the group, planes of an edge, and the kernel; in the notation of einops.
    """

    edge_layouts: ClassVar[dict[str, str]]
    num_inputs: int
    num_groups: int
    geometry: Geometry
    bias: nn.Parameter | None

    @property
    @abstractmethod
    def functions(self) -> "KANLayer":
        """The layer that holds the functions of the edges, their basis and grid: itself, or a part of it."""

    @property
    def functions_name(self) -> str:
        """Under which name the layer has the part that holds its functions; empty if it is itself."""
        return next(name for name, part in self.named_modules() if part is self.functions)

    @abstractmethod
    def edge_planes(self) -> Float[Tensor, "out in_per_group features *kernel"]:
        """The weights of every edge's features as they count, that of the base activation first if there is one.

        Raises:
            ValueError: Edges are no sums of features.
        """

    @property
    def named_edges(self) -> SymbolicEdges | None:
        """The edges that compute a named function instead, or None."""
        return None

    def add_named(self, y: Tensor, x: Tensor, geometry: Geometry | None = None) -> Tensor:
        """The output ``y`` for the input ``x``, with what named edges add to it, in the layer's geometry or another."""
        named = self.named_edges
        if named is None:
            return y
        seen, geometry = self.seen(self.as_batch(x)), self.geometry if geometry is None else geometry
        return y + named(seen, geometry, self.num_groups, self.edge_shape[0]).reshape(y.shape).to(y.dtype)

    def by_output(self, weight: Tensor) -> Float[Tensor, "out planes *kernel"]:
        """A weight that is stored in the layer's way as ``convkan.ops`` takes it."""
        return weight

    def as_stored(self, weight: Float[Tensor, "out planes *kernel"]) -> Tensor:
        """The inverse of ``by_output``."""
        return weight

    @abstractmethod
    def check_input(self, x: Tensor) -> None:
        """Raise ValueError unless ``x`` is what the layer may be called with."""

    @abstractmethod
    def as_batch(self, x: Tensor) -> Float[Tensor, "batch channels *space"]:
        """An input, or an output, with one dimension for all of its batch."""

    @abstractmethod
    def batch_shape(self, x: Tensor) -> torch.Size:
        """The dimensions of an input that ``as_batch`` makes one of."""

    def seen(self, x: Float[Tensor, "batch channels *space"]) -> Float[Tensor, "batch channels *padded"]:
        """An input as the edges see it: every value is one of ``x``, or 0."""
        return x

    def samples(self, x: Tensor, at_most: int | None = None) -> Float[Tensor, "channels samples"]:
        """All values that each channel's functions are given when the layer is called with ``x``, padding included.

        Args:
            x: The layer's input.
            at_most: Take only so many, evenly spread.
        """
        self.check_input(x)
        values = self.seen(self.as_batch(x)).movedim(1, 0).flatten(1)
        if at_most is None or values.shape[1] <= at_most:
            return values
        places = torch.linspace(0, values.shape[1] - 1, at_most, device=values.device)
        return values[:, places.round().long()]

    def features(
        self,
        x: Float[Tensor, "*batch channels"],
        *,
        channels: slice = slice(None),
        derivative: bool = False,
        differentiable: bool = True,
    ) -> Float[Tensor, "*batch features channels"]:
        """(b(x), B_1(x), …, B_K(x)) of every channel at places of its own, at least in float32.

        Args:
            x: The places, channels last.
            channels: Those that the places are for.
            derivative: Return derivatives with respect to x.
            differentiable: Gradients will be taken through the result.
        """
        expansion, grid = self.functions.plan.expansion, self.functions.grid
        grid = None if grid is None else grid[channels]
        return expansion.at(x, grid, derivative=derivative, differentiable=differentiable).squeeze(-3)

    @abstractmethod
    def options(self) -> dict[str, Any]:
        """The keyword arguments that make another layer like it."""

    @abstractmethod
    def resized(self, inputs: int, outputs: int, groups: int) -> Self:
        """A fresh layer of other sizes, of the same kind and with the same options."""


class KANLayer(AdoptsStates, EdgeLayer):
    """Edges φ(x) = w_b·b(x) + Σ_k c_k·B_k(x) between ``in_channels`` inputs and ``out_channels`` sums.

    The base class of layers that own weights and grid; what they see of an input is up to each.

    Attributes:
        basis: The univariate basis, an immutable description; its range is that of the grid, where channels share one.
        base_activation: Name of b, or None.
        backend: Name of the backend that evaluates the layer, or "auto".
        base_weight: w_b, (out, in/groups, *kernel), or None without a base activation.
        basis_weight: c, (out, K·in/groups, *kernel), feature-major: all channels of B_1, then of B_2, …
        grid: The full knot vector of each channel, (in, knots), or None for a basis without a grid. A buffer: it
            is saved and moved with the layer. Replace it with ``set_grid``, or by assignment.
        plan: How the layer is evaluated, for ``convkan.ops``, on the grid as it is.
        edge_mask: Which edges are alive, (out, in/groups, *kernel) of booleans, or None for all. The others
            contribute nothing and get no gradient. See ``convkan.interpret.prune_edges``.
        symbolic: Edges that compute a named function instead of a spline, or None. See ``convkan.interpret.fix``.
    """

    edge_layouts: ClassVar[dict[str, str]] = {"base_weight": "o (f c) ...", "basis_weight": "o (f c) ..."}
    base_weight: nn.Parameter | None
    symbolic: SymbolicEdges | None

    def _make_edges(
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
        """Make the parameters and the grid, and fill them: what constructors do once sizes are checked."""
        check_backend_name(backend)
        get_activation(base_activation)
        dtype = torch.get_default_dtype() if dtype is None else dtype
        check_floating_point(dtype)
        self._basis = create_basis(basis)
        self._base_activation = base_activation
        self.backend = backend
        self.geometry = geometry
        self.num_inputs, self.num_groups = in_channels, groups

        def empty(*shape: int) -> Tensor:
            return torch.empty(*shape, device=device, dtype=dtype)

        def weight(functions: int) -> nn.Parameter:
            by_output = torch.empty(out_channels, functions * (in_channels // groups), *kernel_size, device="meta")
            return nn.Parameter(empty(*self.as_stored(by_output).shape))

        self.register_parameter("base_weight", weight(1) if base_activation else None)
        self.basis_weight = weight(self._basis.num_functions)
        self.register_parameter("bias", nn.Parameter(empty(out_channels)) if bias else None)
        knots = empty(in_channels, self._basis.num_knots) if isinstance(self._basis, GriddedBasis) else None
        self.register_buffer("grid", knots)
        self.edge_mask = None
        self.symbolic = None
        self._plan = Plan(Expansion(self._basis, base_activation, uniform=True), geometry)
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
        self._take_range()
        self._draw_weights()
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        self.clear_masked()
        self._lineage.settle()

    def _draw_weights(self) -> None:
        of = (self._basis, self.base_activation)
        initialize_edges(self.base_weight, self.coefficients, *of, random_functions=self.geometry.sums)

    @property
    def functions(self) -> "KANLayer":
        """The layer itself."""
        return self

    @property
    def edge_shape(self) -> tuple[int, ...]:
        """(out, in/groups, *kernel)."""
        return len(self.basis_weight), self.num_inputs // self.num_groups, *self.basis_weight.shape[2:]

    @property
    def coefficients(self) -> Float[Tensor, "out in_per_group functions *kernel"]:
        """The basis weight with the functions as a dimension of their own: a view, so writing to it is allowed."""
        return self._split(self.by_output(self.basis_weight))

    def _split(
        self, weight: Float[Tensor, "out planes *kernel"]
    ) -> Float[Tensor, "out in_per_group functions *kernel"]:
        return rearrange(weight, "o (f c) ... -> o c f ...", f=self._basis.num_functions)

    def edge_weights(self) -> tuple[Tensor | None, Tensor]:
        """Base weight and basis weight as they count: without the edges that are masked."""
        return self.without_masked(self.base_weight, self.basis_weight)

    def without_masked(self, base: Tensor | None, basis: Tensor) -> tuple[Tensor | None, Tensor]:
        """A base weight and a basis weight, with zeros for the edges that are masked."""
        if self.edge_mask is None:
            return base, basis
        alive = self.alive_edges(basis)
        repeats = (1, self._basis.num_functions, *(1,) * (alive.ndim - 2))
        return None if base is None else base * alive, basis * alive.repeat(repeats)

    def masked_weights(self) -> dict[str, Tensor]:
        """``edge_weights`` by name, as they are stored."""
        weights = zip(("base_weight", "basis_weight"), self.edge_weights(), strict=True)
        return {name: self.as_stored(weight) for name, weight in weights if weight is not None}

    def edge_planes(self) -> Float[Tensor, "out in_per_group features *kernel"]:
        """The weights of every edge as they count, that of the base activation first if there is one."""
        base, basis = self.edge_weights()
        planes = self._split(basis)
        return planes if base is None else torch.cat([base.unsqueeze(2), planes], dim=2)

    @property
    def named_edges(self) -> SymbolicEdges | None:
        """``symbolic``, if it has any edges."""
        return self.symbolic if self.symbolic is not None and self.symbolic.functions else None

    def add_symbolic(self) -> SymbolicEdges:
        """``symbolic``, made now if there was none."""
        if self.symbolic is None:
            weight = self.basis_weight
            self.symbolic = SymbolicEdges(self.edge_shape, device=weight.device, dtype=weight.dtype)
            self.symbolic.requires_grad_(weight.requires_grad)
        return self.symbolic

    def options(self) -> dict[str, Any]:
        """The keyword arguments that make another layer like it."""
        own = {"basis": self.basis, "base_activation": self.base_activation, "backend": self.backend}
        return own | {"dtype": self.basis_weight.dtype}

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
