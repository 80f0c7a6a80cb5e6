"""The linear KAN layer."""

from typing import Self

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from convkan.basis import Basis, BSpline
from convkan.modes import is_jit_traced
from convkan.nn.layer import KANLayer
from convkan.nn.plain import LINEAR, linear_arguments, silence, take_over, where
from convkan.nn.sizes import check_channels
from convkan.nn.tracing import call_as_leaf
from convkan.ops import Linear, Plan, evaluate


def sum_linear(
    x: Tensor,
    base_weight: Tensor | None,
    basis_weight: Tensor,
    grid: Tensor | None,
    bias: Tensor | None,
    plan: Plan,
    backend: str,
) -> Tensor:
    """Sum the edges of each output: what the layer and its functional form both call."""
    y = evaluate(x, base_weight, basis_weight, grid, plan, backend)
    return y if bias is None else y + bias.to(y.dtype)


class KANLinear(KANLayer):
    """y[o] = Σ_i φ[o,i](x[i]) (+ bias[o]), a learnable function on every edge of a linear layer.

    Source: Liu et al., "KAN: Kolmogorov-Arnold Networks" (arXiv 2404.19756), eq. 2.5 and 2.10.

    Args:
        in_features: Size of the last dimension of the input.
        out_features: Size of the last dimension of the output.
        bias: Add a learnable constant. Off by default, since a spline holds one already.
        basis: The univariate basis, or its name.
        base_activation: Name of the fixed part of each edge, or None.
        backend: "auto", or the name of a backend.
        device: Where the parameters live.
        dtype: Floating point type of parameters and inputs.

    Raises:
        TypeError: A size is not an integer.
        ValueError: A size is not positive, or a name unknown.

    Shape:
        (…, in_features) → (…, out_features)

    Example:
        >>> import torch
        >>> KANLinear(4, 3)(torch.zeros(2, 5, 4)).shape
        torch.Size([2, 5, 3])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = False,
        *,
        basis: Basis | str = BSpline(),
        base_activation: str | None = "silu",
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        in_features, out_features = check_channels(in_features=in_features, out_features=out_features)
        super().__init__()
        self._make_edges(
            in_features,
            out_features,
            (),
            1,
            bias,
            Linear(),
            basis=basis,
            base_activation=base_activation,
            backend=backend,
            device=device,
            dtype=dtype,
        )
        self.in_features, self.out_features = in_features, out_features

    @classmethod
    def from_linear(cls, linear: nn.Module, *, basis: Basis | str = BSpline(), backend: str = "auto") -> Self:
        """The layer that starts as a plain linear one; see ``KANConv2d.from_conv``.

        Args:
            linear: An ``nn.Linear``.
            basis: The univariate basis, or its name. Its grid should hold what the layer is given.
            backend: "auto", or the name of a backend.

        Raises:
            TypeError: ``linear`` is another kind of layer.
            RuntimeError: Its weight is computed from others (weight normalisation, pruning), or sharded.

        Example:
            >>> import torch
            >>> linear, x = nn.Linear(4, 3), torch.randn(10, 4)
            >>> torch.allclose(KANLinear.from_linear(linear)(x), linear(x), atol=1e-6)
            True
        """
        arguments = linear_arguments(linear)
        layer = cls(*arguments, basis=basis, base_activation=LINEAR, backend=backend, **where(linear))
        take_over(layer, linear, "base_weight")
        assert layer.base_weight is not None
        silence(layer.basis_weight, layer.base_weight)
        return layer

    def forward(self, x: Tensor) -> Tensor:
        """Sum the edges of each output."""
        if isinstance(x, Proxy):
            return call_as_leaf(self, x)
        self.check_input(x)
        y = sum_linear(x, *self.edge_weights(), self.grid, self.bias, self.plan, self.backend)
        return self.add_named(y, x)

    def check_input(self, x: Tensor) -> None:
        """Raise unless ``x`` has the layer's features in its last dimension."""
        if not is_jit_traced() and (x.ndim == 0 or x.shape[-1] != self.in_features):
            raise ValueError(
                f"input must have {self.in_features} features in its last dimension, got shape {tuple(x.shape)}"
            )

    def as_batch(self, x: Tensor) -> Tensor:
        """An input, or an output, as rows."""
        return x.reshape(-1, x.shape[-1])

    def batch_shape(self, x: Tensor) -> torch.Size:
        """All dimensions but the last."""
        return x.shape[:-1]

    def resized(self, inputs: int, outputs: int, groups: int) -> Self:
        """A fresh layer of other sizes, with the same options."""
        return type(self)(inputs, outputs, self.bias is not None, **self.options())

    def extra_repr(self) -> str:
        """Sizes and options."""
        bias = self.bias is not None
        return f"{self.in_features}, {self.out_features}, bias={bias}, {super().extra_repr()}"
