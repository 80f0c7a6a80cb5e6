"""Which KAN layer stands for which plain one, and the way back."""

from typing import Any

from torch import Tensor, nn

from convkan.basis import Basis
from convkan.nn.conv import ConvolutionLayer, KANConv1d, KANConv2d, KANConv3d
from convkan.nn.linear import KANLinear
from convkan.nn.lowrank import LowRankKANConv2d
from convkan.nn.plain import LINEAR
from convkan.nn.transposed import KANConvTranspose1d, KANConvTranspose2d, KANConvTranspose3d, TransposedLayer


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
    for layer, kind in (_CONVOLUTIONS | _TRANSPOSED).items():
        if isinstance(plain, kind):
            return layer.from_conv(plain, basis=basis)
    raise TypeError(f"plain must be a convolution or linear layer of torch, got {type(plain).__name__}")


def plain_in_place_of(layer: nn.Module, weight: Tensor, bias: Tensor | None) -> nn.Module | None:
    """The plain layer with this weight and bias that sees its input as a KAN layer does; None for other layers.

    Args:
        layer: A KAN convolution or linear layer.
        weight: As the plain layer has it: (out, in/groups, *kernel), or (in, out/groups, *kernel) of a transposed
            convolution. A parameter becomes that of the plain layer.
        bias: (out,), or None; likewise.
    """
    plain: nn.Module
    window: tuple[Any, ...]
    if type(layer) is KANLinear:
        plain = nn.Linear(layer.in_features, layer.out_features, bias is not None, device="meta")
    elif type(layer) in (*_CONVOLUTIONS, LowRankKANConv2d):
        assert isinstance(layer, ConvolutionLayer)
        window = (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
        kind: Any = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[layer.dims - 1]
        window = (*window, layer.groups, bias is not None, layer.padding_mode)
        plain = kind(layer.in_channels, layer.out_channels, *window, device="meta")
    elif type(layer) in _TRANSPOSED:
        assert isinstance(layer, TransposedLayer)
        window = (layer.kernel_size, layer.stride, layer.padding, layer.output_padding)
        window = (*window, layer.groups, bias is not None, layer.dilation)
        plain = _TRANSPOSED[type(layer)](layer.in_channels, layer.out_channels, *window, device="meta")
    else:
        return None
    plain.register_parameter("weight", _parameter(weight))
    plain.register_parameter("bias", None if bias is None else _parameter(bias))
    return plain.train(layer.training)


def linear_weight(layer: nn.Module) -> nn.Parameter | None:
    """The weight of the plain layer that a KAN layer is no different from, its own parameter; None if it is."""
    if not isinstance(layer, KANLinear | ConvolutionLayer | TransposedLayer) or layer.edge_mask is not None:
        return None
    functions, weight = layer.functions, layer._parameters.get("base_weight")
    if functions is not layer:
        ones = functions.base_weight is not None and bool((functions.base_weight == 1).all())
        weight = layer._parameters.get("weight") if ones and len(functions.basis_weight) == layer.num_inputs else None
    linear = functions.base_activation == LINEAR and not bool(functions.basis_weight.any())
    return weight if linear else None


_CONVOLUTIONS: dict[Any, type[nn.Module]] = {KANConv1d: nn.Conv1d, KANConv2d: nn.Conv2d, KANConv3d: nn.Conv3d}
_TRANSPOSED: dict[Any, type[nn.Module]] = {
    KANConvTranspose1d: nn.ConvTranspose1d,
    KANConvTranspose2d: nn.ConvTranspose2d,
    KANConvTranspose3d: nn.ConvTranspose3d,
}


def _parameter(values: Tensor) -> nn.Parameter:
    return values if isinstance(values, nn.Parameter) else nn.Parameter(values)
