"""Checkpoints of other KAN libraries as modules of this one that compute the same function.

Everywhere y = conv(b(x̃), W_b) + conv(B(x̃), W_s). The libraries differ in keys, layouts and scale factors; the
factors are folded into W_b and W_s.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import signature
from typing import Any

from torch import Tensor, nn

from convkan.interop.convolutional import convolutional_kans_layer, starostin_conv_kan
from convkan.interop.linear import (
    cheby_kan_layer,
    efficient_kan,
    efficient_kan_linear,
    fast_kan_layer,
    pykan_layer,
)
from convkan.interop.torch_conv_kan import IRRELEVANT, LOADERS, MORE_IRRELEVANT


@dataclass(frozen=True)
class Peer:
    """How to load one kind of layer.

    Attributes:
        load: The loader. Its parameters after the state are those constructor arguments that say something
            about the function; None stands for what the state tells.
        irrelevant: The peer's other constructor arguments: how it draws its first weights, trains or reports,
            where it lies, and the range of a grid and the presence of a scaler, on which the state has the
            last word.
    """

    load: Callable[..., nn.Module]
    irrelevant: tuple[str, ...] = ()

    @property
    def arguments(self) -> tuple[str, ...]:
        """All arguments that the peer's constructor has."""
        return (*list(signature(self.load).parameters)[1:], *self.irrelevant)


_START = ("scale_noise", "scale_base", "scale_spline", "grid_eps", "grid_range")
_PYKAN_START = ("noise_scale", "scale_base", "scale_base_mu", "scale_base_sigma", "scale_sp", "sparse_init")
_PYKAN_TRAINING = ("grid_eps", "grid_range", "sp_trainable", "sb_trainable", "save_plot_data", "device")

PEERS: dict[str, Peer] = {
    "efficient-kan KANLinear": Peer(efficient_kan_linear, (*_START, "enable_standalone_scale_spline")),
    "efficient-kan KAN": Peer(efficient_kan, _START),
    "Convolutional-KANs KAN_Convolutional_Layer": Peer(convolutional_kans_layer, (*_START, "device")),
    "StarostinV ConvKAN": Peer(starostin_conv_kan, (*_START, "enable_standalone_scale_spline", "bias")),
    "ChebyKAN ChebyKANLayer": Peer(cheby_kan_layer),
    "fast-kan FastKANLayer": Peer(fast_kan_layer, ("spline_weight_init_scale",)),
    "pykan KANLayer": Peer(pykan_layer, (*_PYKAN_START, *_PYKAN_TRAINING)),
    **{name: Peer(load, (*IRRELEVANT, *MORE_IRRELEVANT.get(name, ()))) for name, load in LOADERS.items()},
}
SOURCES: tuple[str, ...] = tuple(PEERS)


def load_peer(source: str, state_dict: Mapping[str, Tensor], *, prefix: str = "", **config: Any) -> nn.Module:
    """A module that computes what another library's layer computes with this state.

    The state decides on the grid (its size, order, range and spacing), the dtype, the device and whether
    there is a scaler; arguments that repeat what it tells may be omitted, sizes that contradict it are
    refused. Other omitted arguments have the peer's defaults.

    Args:
        source: One of ``SOURCES``: the library and its class.
        state_dict: The layer's own state, or that of a model it belongs to.
        prefix: What its keys begin with in a model's state, as "layers.0."; others are left aside.
        config: Arguments of the peer's constructor. Activations are a class, module, function or name in any
            case.

    Returns:
        A KANLinear, a KANConv2d, or a composition where no single layer is exact: nn.Sequential for a
        network and for torch-conv-kan's layers, which have a norm of their own, ``NormalizedKANLinear`` for fast-kan's
        layer norm. It maps x to y alone and owns its tensors.

    Raises:
        TypeError: An argument is not one of this peer, or of a wrong type; a value of the state is not a
            floating point tensor.
        ValueError: The source is unknown; no key has the prefix; keys are missing or unexpected; shapes contradict
            each other or the arguments; tensors are not finite; knots do not strictly increase, or differ where ours
            have one grid; we do not have the activation; or the peer's function cannot be represented, and why.

    Example:
        >>> import torch
        >>> state = {"cheby_coeffs": torch.zeros(4, 3, 6)}
        >>> layer = load_peer("ChebyKAN ChebyKANLayer", state, input_dim=4, output_dim=3, degree=5)
        >>> layer(torch.ones(2, 4)).shape
        torch.Size([2, 3])
    """
    if not isinstance(source, str) or source not in PEERS:
        raise ValueError(f"source must be one of {', '.join(map(repr, SOURCES))}; got {source!r}")
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"state_dict must be a mapping from keys to tensors, got {type(state_dict).__name__}")
    if prefix:
        state_dict = _part_of(state_dict, prefix)
    peer = PEERS[source]
    unknown = [name for name in config if name not in peer.arguments]
    if unknown:
        raise TypeError(
            f"config of {source!r} must be among {', '.join(peer.arguments)}; got also {', '.join(unknown)}"
        )
    return peer.load(state_dict, **{k: v for k, v in config.items() if k not in peer.irrelevant})


def _part_of(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries whose keys begin with the prefix, without it."""
    part = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    if not part:
        raise ValueError(f"prefix must begin some key of the state, got {prefix!r} for {', '.join(state) or 'none'}")
    return part
