"""What a unit does besides one function of each channel: gates, functions that follow the image, cheap gradients.

Each takes plain activations and learnable ones alike, so that a KAN and its twin differ in the functions alone.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from convkan.basis import Basis
from convkan.basis.activation import named_activation
from convkan.nn import KANLinear, LearnableActivation


def checked_base(base_activation: str | None) -> str:
    """The base activation, which functions must have whose splines send no gradient to their input."""
    if base_activation is None:
        raise ValueError("detached must come with a base_activation, whose gradient is the only one, got None")
    return base_activation


class TanhExp(nn.Module):
    """x·tanh(exp x), a smooth ReLU (Liu and Di, arXiv 2003.09855)."""

    def forward(self, x: Tensor) -> Tensor:
        """Of every number."""
        return x * x.exp().tanh()


class OfEachChannel(nn.Module):
    """(batch, functions, channels, …), as a function that channels share leaves them, by channels as others are."""

    def forward(self, y: Tensor) -> Tensor:
        """(batch, channels·functions, …)."""
        return y.transpose(1, 2).flatten(1, 2)


class Gated(nn.Module):
    """φ(a)·b: each channel's function times the channel half of all channels further on, its gate.

    Every channel is so once the input of its function and once the gate of another; the number of channels stays.

    Args:
        functions: From (batch, channels, …) to (batch, channels·functions of each, …).

    Shape:
        As of ``functions``.
    """

    def __init__(self, functions: nn.Module) -> None:
        super().__init__()
        self.functions = functions

    def forward(self, x: Float[Tensor, "batch channels ..."]) -> Float[Tensor, "batch outputs ..."]:
        """Apply and multiply."""
        y: Tensor = self.functions(x)
        gate = x.roll(x.shape[1] // 2, 1)
        return (y.unflatten(1, (x.shape[1], -1)) * gate.unsqueeze(2)).flatten(1, 2)


class Squeezed(nn.Module):
    """Σ_r s[c,r]·φ[c,r](x), s = 1 + what the means of the image's channels say through a few hidden features.

    With one function a channel this is squeeze-excitation, behind a plain activation as behind a learnable one. With
    several, each image has functions of its own, whose coefficients are a constant and a term of low rank in its means.

    Source: Hu et al., "Squeeze-and-excitation networks", arXiv 1709.01507; for functions that depend on the image, Ma
    et al., "Activate or not", arXiv 2009.04759.

    Args:
        functions: From (batch, channels, height, width) to (batch, channels·count, height, width).
        channels: Channels of the input.
        count: Functions of each.
        hidden: Hidden features.

    Shape:
        (batch, channels, height, width) → the same.
    """

    def __init__(self, functions: nn.Module, channels: int, count: int, hidden: int) -> None:
        super().__init__()
        self.functions, self.count = functions, count
        self.squeeze, self.excite = nn.Linear(channels, hidden), nn.Linear(hidden, channels * count)
        nn.init.zeros_(self.excite.weight)  # at first all images are alike
        nn.init.zeros_(self.excite.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Apply, scale by what the image is, and add."""
        scales = 1 + self.excite(self.squeeze(x.mean(dim=(2, 3))).relu())
        y = self.functions(x) * scales[:, :, None, None]
        return y if self.count == 1 else y.unflatten(1, (-1, self.count)).sum(2)


class DetachedLinear(nn.Module):
    """A ``KANLinear`` with a constant, of whose edges only the base activation sends a gradient to its input.

    Source: as of ``DetachedActivation``.

    Args:
        in_features: Inputs, in dimension 1.
        out_features: Outputs.
        basis: The univariate basis, or its name.
        base_activation: Name of the fixed part.

    Shape:
        (batch, in_features, …) → (batch, out_features, …).

    Raises:
        ValueError: There is no base activation, and so no gradient at all.
    """

    def __init__(self, in_features: int, out_features: int, basis: Basis | str, base_activation: str | None) -> None:
        super().__init__()
        self.base_activation = checked_base(base_activation)
        whole = KANLinear(in_features, out_features, basis=basis, base_activation=base_activation)
        self.splines = KANLinear(in_features, out_features, bias=True, basis=basis, base_activation=None)
        with torch.no_grad():  # as the whole is drawn
            self.splines.basis_weight.copy_(whole.basis_weight)
        assert whole.base_weight is not None
        self.base_weight = whole.base_weight

    def forward(self, x: Tensor) -> Tensor:
        """Both parts."""
        x = x.movedim(1, -1)
        base = named_activation(self.base_activation, "base_activation").value(x)
        y: Tensor = self.splines(x.detach()) + F.linear(base, self.base_weight)
        return y.movedim(-1, 1)


class DetachedActivation(nn.Module):
    """Learnable functions of which only the base activation sends a gradient to its input.

    The value, and the gradients of all weights, are those of ``LearnableActivation``; the splines' derivative by the
    input is left out, and half of their backward pass with it: an approximation, to be compared with the exact one.

    Source: arXiv 2602.03156.

    Args:
        num_channels: Channels of the input.
        num_functions: Functions of each.
        basis: The univariate basis, or its name.
        base_activation: Name of the fixed part.

    Shape:
        (batch, channels, …) → (batch, channels·functions, …).

    Raises:
        ValueError: There is no base activation, and so no gradient at all.
    """

    def __init__(self, num_channels: int, num_functions: int, basis: Basis | str, base_activation: str | None) -> None:
        super().__init__()
        self.base_activation = checked_base(base_activation)
        whole = LearnableActivation(num_channels, num_functions, basis=basis, base_activation=base_activation)
        self.splines = LearnableActivation(num_channels, num_functions, basis=basis, base_activation=None)
        with torch.no_grad():  # as the whole is drawn
            self.splines.basis_weight.copy_(whole.basis_weight)
        assert whole.base_weight is not None
        self.base_weight = nn.Parameter(whole.base_weight.detach().flatten())
        self.num_functions = num_functions

    def forward(self, x: Tensor) -> Tensor:
        """Both parts."""
        base = named_activation(self.base_activation, "base_activation").value(x)
        if self.num_functions > 1:
            base = base.repeat_interleave(self.num_functions, 1)
        return self.splines(x.detach()) + base * self.base_weight.view(-1, *[1] * (x.ndim - 2))
