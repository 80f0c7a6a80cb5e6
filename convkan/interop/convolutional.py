"""Loaders of other libraries' convolutions; the parameters are those of the peer's constructor."""

from collections.abc import Sequence
from math import isqrt, prod

import torch

from convkan.interop.layers import State, conv, count_entries, efficient_layout, scaled
from convkan.interop.state import activation_name, agree, read_state, shared_grid, spline_basis
from convkan.nn import KANConv2d
from convkan.nn.sizes import check_channels, per_dimension


def convolutional_kans_layer(
    state: State,
    in_channels: int | None = None,
    out_channels: int | None = None,
    kernel_size: int | Sequence[int] | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    grid_size: int | None = None,
    spline_order: int | None = None,
    base_activation: object = "silu",
) -> KANConv2d:
    """Convolutional-KANs keeps one KANLinear of K² inputs and one output for each pair of channels."""
    count = count_entries(state, "convs")
    prefixes = [f"convs.{n}.conv." for n in range(count)]
    layout: dict[str, str] = {}
    for prefix in prefixes:
        layout |= efficient_layout(state, prefix, edges="one taps", inputs="taps")
    tensors, sizes = read_state(state, layout)
    if sizes["one"] != 1:
        raise ValueError(f"{prefixes[0]}base_weight must have one row, got {sizes['one']}")
    pairs = out_channels, in_channels = _channels(count, out_channels, in_channels)
    side, taps = isqrt(sizes["taps"]), sizes["taps"]
    kernel = (side, side) if kernel_size is None else per_dimension("kernel_size", kernel_size, 2, 1)
    if kernel[0] != kernel[1]:
        # It unfolds kernel_size[0]² taps whatever kernel_size[1] is, which its KANLinear then does not take.
        raise ValueError(f"kernel_size must be square, since this peer runs with no other; got {kernel}")
    if prod(kernel) != taps:
        raise ValueError(f"kernel_size must have {taps} taps, as the state has it; got {kernel}")
    # Kernels are numbered out·in_channels + in.
    coefficients = torch.cat([scaled(tensors, prefix) for prefix in prefixes])
    base_weight = torch.cat([tensors[f"{prefix}base_weight"] for prefix in prefixes])
    grids = torch.stack([tensors[f"{prefix}grid"] for prefix in prefixes]).unflatten(0, pairs)
    grid = shared_grid(
        grids.transpose(0, 1).flatten(1, 2),
        lambda channel, copy: f"{prefixes[copy // taps * in_channels + channel]}grid[{copy % taps}]",
    )
    basis = spline_basis(f"{prefixes[0]}grid", grid, sizes["functions"])
    agree(grid_size=(grid_size, basis.grid_size), spline_order=(spline_order, basis.order))
    return conv(
        basis,
        activation_name("base_activation", base_activation),
        coefficients.unflatten(1, kernel).unflatten(0, pairs),
        base_weight.unflatten(1, kernel).unflatten(0, pairs),
        grid,
        stride=stride,
        padding=per_dimension("padding", padding, 2, 0),
        dilation=dilation,
    )


def _channels(count: int, out_channels: int | None, in_channels: int | None) -> tuple[int, int]:
    """Outputs and inputs of a layer with ``count`` kernels, which the state keeps in one list."""
    given = {"out_channels": out_channels, "in_channels": in_channels}
    check_channels(**{name: size for name, size in given.items() if size is not None})
    if out_channels is None and in_channels is None:
        if count > 1:
            raise ValueError(f"in_channels must be given, since the state tells only that kernels are {count}")
        in_channels = 1
    out_channels = out_channels or count // (in_channels or 1)
    in_channels = in_channels or count // out_channels
    if out_channels * in_channels != count:
        raise ValueError(
            f"in_channels times out_channels must be {count}, the number of kernels in the state; "
            f"got {in_channels} and {out_channels}"
        )
    return out_channels, in_channels


def starostin_conv_kan(
    state: State,
    in_channels: int | None = None,
    out_channels: int | None = None,
    kernel_size: int | Sequence[int] = 3,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int | None = None,
    padding_mode: str = "zeros",
    grid_size: int | None = None,
    spline_order: int | None = None,
    base_activation: object = "silu",
) -> KANConv2d:
    """StarostinV's ConvKAN keeps a KANLinear a group, of unfolded taps in the order channel, row, column."""
    prefix = "kan_layer."
    # Releases before groups stored matrices without the first dimension, and some of them mixed up pixels and
    # channels; nothing in the state tells which.
    layout = efficient_layout(state, prefix, edges="groups out inputs", inputs="groups inputs")
    tensors, sizes = read_state(state, layout)
    kernel = per_dimension("kernel_size", kernel_size, 2, 1)
    taps = prod(kernel)
    per_group, rest = divmod(sizes["inputs"], taps)
    if rest:
        raise ValueError(f"kernel_size must divide the {sizes['inputs']} inputs of the state; got {kernel}")
    agree(
        groups=(groups, sizes["groups"]),
        in_channels=(in_channels, per_group * sizes["groups"]),
        out_channels=(out_channels, sizes["out"] * sizes["groups"]),
    )
    grid = shared_grid(
        tensors[f"{prefix}grid"].flatten(0, 1).unflatten(0, (-1, taps)),
        lambda channel, tap: f"{prefix}grid[{channel // per_group}, {channel % per_group * taps + tap}]",
    )
    basis = spline_basis(f"{prefix}grid", grid, sizes["functions"])
    agree(grid_size=(grid_size, basis.grid_size), spline_order=(spline_order, basis.order))
    if padding == "same":
        # Symmetric, and with any stride; torch adds the odd row of an even kernel at the end.
        spread = zip(per_dimension("dilation", dilation, 2, 1), kernel, strict=True)
        padding = tuple(d * (k - 1) // 2 for d, k in spread)
    return conv(
        basis,
        activation_name("base_activation", base_activation),
        scaled(tensors, prefix).flatten(0, 1).unflatten(1, (per_group, *kernel)),
        tensors[f"{prefix}base_weight"].flatten(0, 1).unflatten(1, (per_group, *kernel)),
        grid,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=sizes["groups"],
        # The peer hands every other word to torch's pad, which knows zeros by this name.
        padding_mode="zeros" if padding_mode == "constant" else padding_mode,
    )
