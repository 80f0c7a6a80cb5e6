"""Loaders of torch-conv-kan's convolutions with functions that live somewhere: splines, Gaussians, ReLU-KAN, wavelets.

See ``torch_conv_kan`` for what they have in common.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from convkan.basis import BSpline, DoG, MexicanHat, Morlet, ReLUKAN
from convkan.basis.base import Basis, check_range
from convkan.interop.branches import TwoBranches
from convkan.interop.layers import State
from convkan.interop.peer_bases import OneWavelet, ScatteredReLU
from convkan.interop.state import activation_name, agree, rbf_basis, read_state
from convkan.interop.torch_conv_kan_parts import INSTANCE_NORMS, Window, by_channel, feature_padded, in_groups, norm_of

Size = int | Sequence[int]


def kan_conv(
    state: State,
    input_dim: int | None = None,
    output_dim: int | None = None,
    kernel_size: Size | None = None,
    spline_order: int = 3,
    groups: int | None = None,
    padding: Size = 0,
    stride: Size = 1,
    dilation: Size = 1,
    grid_size: int | None = None,
    base_activation: object = "gelu",
    grid_range: Sequence[float] = (-1.0, 1.0),
    eps: float = 1e-5,
) -> nn.Sequential:
    """B-splines, instance norm, PReLU."""
    parts = in_groups(state, "spline_conv", input_dim, output_dim, kernel_size, groups)
    layout = parts.layout("base_conv", "spline_conv", norm="out")
    layout |= {f"prelus.{g}.weight": "one" for g in range(parts.groups)}
    tensors, _ = read_state(state, layout, ignored=parts.ignored)
    coefficients = by_channel(parts.joined(tensors, "spline_conv"), parts.in_group)
    order = spline_order
    agree(grid_size=(grid_size, coefficients.shape[2] - order))
    if coefficients.shape[2] <= order:
        raise ValueError(
            f"spline_order must be less than the {coefficients.shape[2]} functions of the state, got {order}"
        )
    basis = BSpline(coefficients.shape[2] - order, order, check_range("grid_range", grid_range))
    layer = feature_padded(
        basis,
        activation_name("base_activation", base_activation),
        coefficients,
        parts.joined(tensors, "base_conv"),
        Window(stride, padding, dilation, parts.groups),
        parts.inputs,
    )
    slopes = torch.cat([tensors[f"prelus.{g}.weight"] for g in range(parts.groups)])
    prelu = nn.PReLU(parts.outputs, device=slopes.device, dtype=slopes.dtype)
    with torch.no_grad():
        prelu.weight.copy_(slopes.repeat_interleave(parts.outputs // parts.groups))
    return nn.Sequential(layer, norm_of(state, parts, "instance", INSTANCE_NORMS[parts.dims], eps), prelu)


def fast_kan_conv(
    state: State,
    input_dim: int | None = None,
    output_dim: int | None = None,
    kernel_size: Size | None = None,
    groups: int | None = None,
    padding: Size = 0,
    stride: Size = 1,
    dilation: Size = 1,
    grid_size: int | None = None,
    base_activation: object = "silu",
    grid_range: Sequence[float] = (-2.0, 2.0),
    norm_layer: object = None,
    eps: float = 1e-5,
) -> TwoBranches:
    """Gaussians of the normalised input, and a convolution of the activated one."""
    parts = in_groups(state, "spline_conv", input_dim, output_dim, kernel_size, groups)
    layout = parts.layout("base_conv", "spline_conv", norm="in") | {"rbf.grid": "centers"}
    tensors, _ = read_state(state, layout, ignored=parts.ignored)
    coefficients = by_channel(parts.joined(tensors, "spline_conv"), parts.in_group)
    agree(grid_size=(grid_size, coefficients.shape[2]))
    window = Window(stride, padding, dilation, parts.groups)
    functions = feature_padded(
        rbf_basis("rbf.grid", tensors["rbf.grid"], *check_range("grid_range", grid_range)),
        None,
        coefficients,
        None,
        window,
        parts.inputs,
    )
    norm = norm_of(state, parts, "instance", norm_layer, eps, channels=parts.inputs)
    base = window.plain(parts.joined(tensors, "base_conv"), parts.inputs)
    return TwoBranches(nn.Sequential(norm, functions), base, activation_name("base_activation", base_activation))


def relu_kan_conv(
    state: State,
    input_dim: int | None = None,
    output_dim: int | None = None,
    kernel_size: Size | None = None,
    g: int = 5,
    k: int = 3,
    groups: int | None = None,
    padding: Size = 0,
    stride: Size = 1,
    dilation: Size = 1,
    norm_layer: object = None,
    eps: float = 1e-5,
) -> nn.Sequential:
    """ReLU-KAN's bumps, SiLU as base, norm, SiLU; refused where channels have learned phases of their own."""
    parts = in_groups(state, "relukan_conv", input_dim, output_dim, kernel_size, groups)
    space = " ".join(f"single{d}" for d in range(parts.dims))
    phases = dict.fromkeys(("phase_low", "phase_high"), f"one in functions {space}")
    tensors, _ = read_state(
        state, parts.layout("base_conv", "relukan_conv", norm="out") | phases, ignored=parts.ignored
    )
    coefficients = by_channel(parts.joined(tensors, "relukan_conv"), parts.in_group)
    if g + k != coefficients.shape[2]:
        raise ValueError(f"g and k must add up to the {coefficients.shape[2]} functions of the state, got {g} and {k}")
    layer = feature_padded(
        _bumps(tensors, g, k),
        "silu",
        coefficients,
        parts.joined(tensors, "base_conv"),
        Window(stride, padding, dilation, parts.groups),
        parts.inputs,
    )
    return nn.Sequential(layer, norm_of(state, parts, "instance", norm_layer, eps), nn.SiLU())


def _bumps(tensors: Mapping[str, Tensor], g: int, k: int) -> Basis:
    """The basis of these phases."""
    sides = []
    for key in ("phase_low", "phase_high"):
        rows = tensors[key].flatten(1).unflatten(1, (tensors[key].shape[1], -1))[0]
        if not bool((rows == rows[0]).all()):
            raise ValueError(
                f"{key} must be the same for all channels, since the functions of a layer here are one basis "
                f"for all of them; got {rows.tolist()}"
            )
        sides.append(rows[0])
    starts = torch.arange(-k, g, dtype=sides[0].dtype, device=sides[0].device) / g
    if torch.equal(sides[0], starts) and torch.equal(sides[1], starts + (k + 1) / g):
        return ReLUKAN(g, k, (0.0, 1.0))
    return ScatteredReLU(tuple(sides[0].tolist()), tuple(sides[1].tolist()), 4 * g * g / (k + 1) ** 2)


_FAMILIES = {"mexican_hat": (MexicanHat(), -1.0), "morlet": (Morlet(), 1.0), "dog": (DoG(), 1.0)}


def wavelet_conv(
    state: State,
    input_dim: int | None = None,
    output_dim: int | None = None,
    kernel_size: Size | None = None,
    groups: int | None = None,
    padding: Size = 0,
    stride: Size = 1,
    dilation: Size = 1,
    wav_version: str = "fast",
    wavelet_type: str = "mexican_hat",
    norm_layer: object = None,
    eps: float = 1e-5,
) -> nn.Sequential:
    """One wavelet an edge, a pointwise convolution of the sums, SiLU as base, norm.

    Refused where edges have learned scales and translations of their own.
    """
    if wavelet_type not in _FAMILIES:
        raise ValueError(
            f"wavelet_type must be one of {', '.join(_FAMILIES)}; got {wavelet_type!r}: there is no such basis here "
            "(and torch-conv-kan's Shannon wavelet has a window over the channels: it is no function of a number)"
        )
    parts = in_groups(state, "base_conv", input_dim, output_dim, kernel_size, groups)
    layout = parts.layout("base_conv", norm="out") | parts.wavelets(wav_version)
    tensors, _ = read_state(state, layout, ignored=parts.ignored)
    scales = torch.stack([tensors[f"wavelet_conv.{n}.scale"].flatten() for n in range(parts.groups)])
    shifts = torch.stack([tensors[f"wavelet_conv.{n}.translation"].flatten() for n in range(parts.groups)])
    for name, values in (("scale", scales), ("translation", shifts)):
        if not bool((values == values[0, 0]).all()):
            low, high = values.aminmax()
            raise ValueError(
                f"wavelet_conv.0.{name} must be the same for all edges, since the functions of a layer here are one "
                f"basis for all of them, and not linear in their {name}; got {low.item():g} to {high.item():g}"
            )
    family, sign = _FAMILIES[wavelet_type]
    weights = parts.joined_wavelets(tensors, wav_version)
    mixing = torch.stack([tensors[f"wavelet_conv.{n}.wavelet_out.weight"].flatten(1) for n in range(parts.groups)])
    mixed = torch.einsum("goi,gi...->go...", mixing, weights.unflatten(0, (parts.groups, -1))).flatten(0, 1)
    layer = feature_padded(
        OneWavelet(family, scales[0, 0].item(), shifts[0, 0].item()),
        "silu",
        sign * mixed.unsqueeze(2),
        parts.joined(tensors, "base_conv"),
        Window(stride, padding, dilation, parts.groups),
        parts.inputs,
    )
    return nn.Sequential(layer, norm_of(state, parts, "batch", norm_layer, eps))
