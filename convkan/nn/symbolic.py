"""Edges of a layer that compute a named function instead of a spline."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from convkan.basis.functions import get_function
from convkan.ops import Convolution, Linear, Plan
from convkan.ops.dense import pixels_of


class SymbolicEdges(nn.Module):
    """Σ c·f(a·x + b) + d over some edges of a layer, with a trainable a, b, c and d for each edge.

    A layer adds it to its splines; see ``convkan.interpret.fix``. Everything is in the ``state_dict``, the names of
    functions as bytes, so that a layer it is loaded into computes the same.

    Args:
        kernel_size: Taps of the layer in each dimension.
        device: Where the parameters live.
        dtype: Floating point type of the parameters.

    Attributes:
        edges: Output, input within the group, and tap of each edge, (edges, 2 + spatial dimensions).
        affine: a, b, c, d of each edge, (edges, 4).
        functions: The name of each edge's function.
    """

    edges: Int[Tensor, "edges indices"]
    names: Int[Tensor, " bytes"]

    def __init__(
        self,
        kernel_size: tuple[int, ...],
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.register_buffer("edges", torch.zeros(0, 2 + len(kernel_size), dtype=torch.long, device=device))
        self.register_buffer("names", torch.zeros(0, dtype=torch.uint8, device=device))
        self.affine = nn.Parameter(torch.zeros(0, 4, device=device, dtype=dtype))
        self.functions: tuple[str, ...] = ()
        self._alike: list[tuple[str, list[int], list[list[int]]]] = []

    @torch.no_grad()
    def replace(
        self, edges: Int[Tensor, "edges indices"], functions: Sequence[str], affine: Float[Tensor, "edges 4"]
    ) -> None:
        """Compute these edges, and no others; ``affine`` becomes a new parameter.

        Raises:
            ValueError: A function has no known name, or the arguments differ in length.
        """
        if not len(edges) == len(functions) == len(affine):
            lengths = f"{len(edges)}, {len(functions)}, {len(affine)}"
            raise ValueError(f"edges, functions and affine must have one entry an edge, got {lengths}")
        for name in functions:
            get_function(name)
        self.edges = edges.to(self.edges.device, torch.long, copy=True)
        self.names = torch.tensor(list("\n".join(functions).encode()), dtype=torch.uint8, device=self.names.device)
        self.affine = nn.Parameter(affine.to(self.affine, copy=True), requires_grad=self.affine.requires_grad)
        self.functions = tuple(functions)
        alike: dict[tuple[str, tuple[int, ...]], list[int]] = defaultdict(list)
        indices = self.edges.tolist()
        for row, (name, edge) in enumerate(zip(functions, indices, strict=True)):
            alike[name, tuple(edge[2:])].append(row)
        # Those of one function and tap are evaluated together. Plain lists: a compiler can read them.
        self._alike = [(name, rows, [indices[row] for row in rows]) for (name, _), rows in alike.items()]

    def forward(self, x: Tensor, plan: Plan, outputs: int) -> Tensor:
        """What these edges add to the layer's output.

        Args:
            x: The layer's input.
            plan: How the layer is evaluated.
            outputs: Its output channels.
        """
        geometry = plan.geometry
        pixels = pixels_of(x, plan)  # (batch, *space, groups, channels in a group)
        groups = geometry.groups if isinstance(geometry, Linear | Convolution) else pixels.shape[-1]
        fan_in, fan_out, pixels = pixels.shape[-2:].numel() // groups, outputs // groups, pixels.flatten(-2)
        values, places = [], []
        for name, rows, edges in self._alike:
            seen = self._at_tap(pixels, edges[0][2:], plan)
            channels = [output // fan_out * fan_in + input_ for output, input_, *_ in edges]
            a, b, c, d = self.affine[rows].to(x.dtype).unbind(1)
            values.append(c * get_function(name).value(a * seen[..., channels] + b) + d)
            places += [output for output, *_ in edges]
        together = torch.cat(values, dim=-1)
        y = together.new_zeros(*together.shape[:-1], outputs)
        y = y.index_add(-1, torch.tensor(places, device=x.device), together)
        return y if isinstance(geometry, Linear) else y.movedim(-1, 1)

    def _at_tap(self, pixels: Tensor, tap: list[int], plan: Plan) -> Float[Tensor, "batch *positions channels"]:
        """What a tap sees at every output position."""
        if not isinstance(plan.geometry, Convolution):
            return pixels
        steps = zip(tap, self.kernel_size, plan.geometry.stride, plan.geometry.dilation, strict=True)
        for dimension, (index, size, stride, dilation) in enumerate(steps, start=1):
            start, behind = index * dilation, (size - 1 - index) * dilation
            positions = (pixels.shape[dimension] - start - behind - 1) // stride + 1
            pixels = pixels.narrow(dimension, start, (positions - 1) * stride + 1)
            pixels = pixels[(slice(None),) * dimension + (slice(None, None, stride),)]
        return pixels

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Adopt the edges of the state."""
        edges, names, affine = (state_dict.get(prefix + key) for key in ("edges", "names", "affine"))
        if isinstance(edges, Tensor) and isinstance(names, Tensor) and isinstance(affine, Tensor):
            functions = bytes(names.tolist()).decode().split("\n") if len(edges) else []
            try:
                self.replace(edges, functions, affine)
            except ValueError as error:
                args[-1].append(f"{prefix.rstrip('.')}: {error}")
                return
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        """How many edges, of which functions."""
        return f"edges={len(self.functions)}, functions={sorted(set(self.functions))}"
