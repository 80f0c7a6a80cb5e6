"""The dense KAN layer."""

import torch
from torch import Tensor
from torch.fx import Proxy

from convkan.basis import Basis, BSpline
from convkan.basis.base import is_jit_traced
from convkan.nn.layer import KANLayer, check_channels
from convkan.nn.tracing import call_as_leaf
from convkan.ops import Linear


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
        super().__init__(
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

    def forward(self, x: Tensor) -> Tensor:
        """Sum the edges of each output."""
        if isinstance(x, Proxy):
            return call_as_leaf(self, x)
        if not is_jit_traced() and (x.ndim == 0 or x.shape[-1] != self.in_features):
            raise ValueError(
                f"input must have {self.in_features} features in its last dimension, got shape {tuple(x.shape)}"
            )
        y = self.sum_of_edges(x)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def extra_repr(self) -> str:
        """Sizes and options."""
        bias = self.bias is not None
        return f"{self.in_features}, {self.out_features}, bias={bias}, {super().extra_repr()}"
