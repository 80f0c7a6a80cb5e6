"""KAN layers that start as a plain layer of torch: its weight is that of a base activation that changes nothing."""

from typing import Any

import torch
from torch import Tensor, nn

from convkan.nn.memory import in_memory_format, keeps_channels_last
from convkan.nn.reparametrized import check_own

LINEAR = "identity"  # the base activation whose weight a plain layer's is


def convolution_arguments(conv: nn.Module, dims: int) -> tuple[Any, ...]:
    """The positional arguments of the convolution like ``conv``, from its channels on.

    Raises:
        TypeError: ``conv`` is not torch's convolution over ``dims`` dimensions.
        RuntimeError: Its weight is computed from others, or sharded.
    """
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    _check(conv, kind, "conv")
    assert isinstance(conv, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    window = (conv.kernel_size, conv.stride, conv.padding, conv.dilation)
    return conv.in_channels, conv.out_channels, *window, conv.groups, conv.bias is not None, conv.padding_mode


def transposed_arguments(conv: nn.Module, dims: int) -> tuple[Any, ...]:
    """The positional arguments of the transposed convolution like ``conv``, from its channels on.

    Raises:
        TypeError: ``conv`` is not torch's transposed convolution over ``dims`` dimensions.
        RuntimeError: Its weight is computed from others, or sharded.
    """
    kind = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[dims - 1]
    _check(conv, kind, "conv")
    assert isinstance(conv, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d)
    window = (conv.kernel_size, conv.stride, conv.padding, conv.output_padding)
    return conv.in_channels, conv.out_channels, *window, conv.groups, conv.bias is not None, conv.dilation


def linear_arguments(linear: nn.Module) -> tuple[Any, ...]:
    """The positional arguments of the linear layer like ``linear``.

    Raises:
        TypeError: ``linear`` is not torch's.
        RuntimeError: Its weight is computed from others, or sharded.
    """
    _check(linear, nn.Linear, "linear")
    assert isinstance(linear, nn.Linear)
    return linear.in_features, linear.out_features, linear.bias is not None


def where(plain: nn.Module) -> dict[str, Any]:
    """Device and dtype of a plain layer."""
    weight = plain.weight
    assert isinstance(weight, Tensor)
    return {"device": weight.device, "dtype": weight.dtype}


@torch.no_grad()
def take_over(layer: nn.Module, plain: nn.Module, weight: str) -> None:
    """Make the plain layer's parameters those of ``layer``, under the name ``weight`` and as bias.

    They are the same parameters, so that what else they belong to, an optimiser or a tied layer, goes on with them.
    """
    for name, parameter in plain._parameters.items():
        layer._parameters[weight if name == "weight" else name] = parameter
    layer.train(plain.training)


@torch.no_grad()
def silence(basis_weight: nn.Parameter, like: Tensor) -> None:
    """Make all coefficients 0, to be trained if ``like`` is, and in its memory format."""
    basis_weight.data = in_memory_format(torch.zeros_like(basis_weight), keeps_channels_last(like))
    basis_weight.requires_grad_(like.requires_grad)


def _check(plain: nn.Module, kind: type[nn.Module], argument: str) -> None:
    if not isinstance(plain, kind):
        raise TypeError(f"{argument} must be an nn.{kind.__name__}, got {type(plain).__name__}")
    check_own(plain, "weight", "bias")
