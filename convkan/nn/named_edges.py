"""Edges of a layer that compute a named function instead of a spline."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from convkan.basis.functions import get_function
from convkan.nn.constants import HoldsConstants
from convkan.ops import Geometry
from convkan.ops.plan import at_least_float32


class SymbolicEdges(HoldsConstants):
    """Σ c·f(a·x + b) + d over some edges of a layer, with a trainable a, b, c and d for each edge.

    A layer adds it to its splines; see ``convkan.interpret.fix``. Everything is in the ``state_dict``, the names of
    functions as bytes, so that a layer it is loaded into computes the same; edges and names are no buffers. Beyond its
    domain a function keeps the value at the domain's end. Half precision is evaluated in float32.

    Args:
        shape: Of the layer's edges, (out, in/groups, *kernel).
        device: Where the parameters live.
        dtype: Floating point type of the parameters.

    Attributes:
        edges: Output, input within the group, and tap of each edge, (edges, 2 + spatial dimensions).
        affine: a, b, c, d of each edge, (edges, 4).
        functions: The name of each edge's function.
    """

    constants: ClassVar[tuple[str, ...]] = ("edges", "names")
    edges: Int[Tensor, "edges indices"]
    names: Int[Tensor, " bytes"]

    def __init__(
        self, shape: tuple[int, ...], *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.edges = torch.zeros(0, len(shape), dtype=torch.long, device=device)
        self.names = torch.zeros(0, dtype=torch.uint8, device=device)
        self.affine = nn.Parameter(torch.zeros(0, 4, device=device, dtype=dtype))
        self.functions: tuple[str, ...] = ()
        self._alike: list[tuple[str, list[int], list[list[int]]]] = []

    @torch.inference_mode(False)
    @torch.no_grad()
    def replace(
        self, edges: Int[Tensor, "edges indices"], functions: Sequence[str], affine: Float[Tensor, "edges 4"]
    ) -> None:
        """Compute these edges, and no others; ``affine`` becomes a new parameter.

        Raises:
            ValueError: A function has no known name, an edge does not exist, or the arguments differ in length.
        """
        self._name(edges, functions, len(affine))
        self.affine = nn.Parameter(affine.to(self.affine, copy=True), requires_grad=self.affine.requires_grad)

    def _name(self, edges: Int[Tensor, "edges indices"], functions: Sequence[str], constants: int) -> None:
        """Take these edges and functions; their constants are another matter."""
        if not len(edges) == len(functions) == constants:
            lengths = f"{len(edges)}, {len(functions)}, {constants}"
            raise ValueError(f"edges, functions and affine must have one entry an edge, got {lengths}")
        for name in functions:
            get_function(name)
        indices = edges.tolist()
        for edge in indices:
            if len(edge) != len(self.shape) or not all(0 <= i < n for i, n in zip(edge, self.shape, strict=True)):
                raise ValueError(f"edges must lie within {self.shape}, (out, in/groups, *kernel), got {tuple(edge)}")
        device = self.edges.device
        self.edges = edges.to(device, torch.long, copy=True)
        self.names = torch.tensor(list("\n".join(functions).encode()), dtype=torch.uint8, device=device)
        self.functions = tuple(functions)
        alike: dict[tuple[str, tuple[int, ...]], list[int]] = defaultdict(list)
        for row, (name, edge) in enumerate(zip(functions, indices, strict=True)):
            alike[name, tuple(edge[2:])].append(row)
        # Those of one function and tap are evaluated together. Plain lists: a compiler can read them.
        self._alike = [(name, rows, [indices[row] for row in rows]) for (name, _), rows in alike.items()]

    def forward(
        self, x: Float[Tensor, "batch channels *padded"], geometry: Geometry, groups: int, outputs: int
    ) -> Float[Tensor, "batch out *positions"]:
        """What these edges add to the layer's output.

        Args:
            x: The layer's input, as its edges see it.
            geometry: How the layer sums its edges.
            groups: Groups of its channels that do not mix.
            outputs: Its output channels.
        """
        pixels = at_least_float32(x.movedim(1, -1))
        fan_in, fan_out = pixels.shape[-1] // groups, outputs // groups
        y: Tensor | None = None
        for name, rows, edges in self._alike:
            tap = tuple(edges[0][2:])
            seen = pixels[(slice(None), *geometry.window(tap, self.shape[2:], pixels.shape[1:-1]))]
            channels = [output // fan_out * fan_in + input_ for output, input_, *_ in edges]
            places = torch.tensor([output for output, *_ in edges], device=x.device)
            a, b, c, d = self.affine[rows].to(pixels.dtype).unbind(1)
            values = get_function(name).at(a * seen[..., channels] + b)
            # One product multiplies by c and sums by output, and keeps nothing but the values for the backward pass.
            into = torch.diag_embed(c) @ nn.functional.one_hot(places, outputs).to(c.dtype)
            constants = c.new_zeros(outputs).index_add(0, places, d)
            part = geometry.placed(values @ into + constants, tap, self.shape[2:], pixels.shape[1:-1])
            y = part if y is None else y + part
        assert y is not None
        return y.movedim(-1, 1)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Adopt the edges of the state, in place so that optimisers keep hold."""
        edges, names, affine = (state_dict.get(prefix + key) for key in ("edges", "names", "affine"))
        if isinstance(edges, Tensor) and isinstance(names, Tensor) and isinstance(affine, Tensor):
            try:
                functions = bytes(names.tolist()).decode().split("\n") if len(edges) else []
                self._name(edges, functions, len(affine))
            except ValueError as error:  # of which a wrong encoding is one
                args[-1].append(f"{prefix.rstrip('.')}: {error}")
                return
            if self.affine.shape != affine.shape:
                self.affine.data = self.affine.data.new_empty(affine.shape)
                self.affine.grad = None
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        """How many edges, of which functions."""
        return f"edges={len(self.functions)}, functions={sorted(set(self.functions))}"
