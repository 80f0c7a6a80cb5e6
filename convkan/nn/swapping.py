"""Which KAN layer stands for which plain one, and the way back."""

from torch import nn

from convkan.basis import Basis
from convkan.nn.conv import KANConv1d, KANConv2d, KANConv3d
from convkan.nn.linear import KANLinear
from convkan.nn.lowrank import LowRankKANConv2d


def layer_in_place_of(plain: nn.Module, *, basis: Basis | str, rank: int | None = None) -> nn.Module:
    """The KAN layer that starts as a plain one, with the same parameters; see ``KANConv2d.from_conv``.

    Args:
        plain: A convolution or linear layer of torch.
        basis: The univariate basis, or its name.
        rank: Functions a channel of a low-rank convolution; None for a full layer.

    Raises:
        TypeError: There is no such layer in its place.
        RuntimeError: Its weight is computed from others, or sharded.
    """
    if rank is not None:
        return LowRankKANConv2d.from_conv(plain, rank=rank, basis=basis)
    if isinstance(plain, nn.Linear):
        return KANLinear.from_linear(plain, basis=basis)
    for kind, layer in ((nn.Conv1d, KANConv1d), (nn.Conv2d, KANConv2d), (nn.Conv3d, KANConv3d)):
        if isinstance(plain, kind):
            return layer.from_conv(plain, basis=basis)
    raise TypeError(f"plain must be a convolution or linear layer of torch, got {type(plain).__name__}")
