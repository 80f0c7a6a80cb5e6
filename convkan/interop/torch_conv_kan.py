"""Loaders of torch-conv-kan's convolutions in one, two and three dimensions.

y = act(norm(conv(b(x)) + conv(B(x)))) with zeros around the *features*, group by group; the state tells how many groups
and dimensions there are. Its layers keep neither grid nor norm in the state unless they learn, so these come from the
arguments. Dropout is left out. The parameters are those of the peer's constructors.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from convkan.basis import Chebyshev, Jacobi
from convkan.basis.jacobi import check_exponent
from convkan.interop.branches import TwoBranches
from convkan.interop.layers import State
from convkan.interop.peer_bases import ActivatedGram
from convkan.interop.state import agree, read_state
from convkan.interop.torch_conv_kan_bumps import fast_kan_conv, kan_conv, relu_kan_conv, wavelet_conv
from convkan.interop.torch_conv_kan_parts import Window, by_channel, by_function, feature_padded, in_groups, norm_of

Size = int | Sequence[int]


def legendre_conv(state: State) -> nn.Module:
    """Refused: its function of an image depends on the others of the batch."""
    raise ValueError(
        "source must compute one function of an input; KALNConvNDLayer scales each input by the least and the greatest "
        "number of the whole batch, so that a prediction depends on its neighbours, and no layer here does that "
        '(basis="legendre" takes tanh in its place; it has to be trained)'
    )


def gram_conv(
    state: State,
    input_dim: int | None = None,
    output_dim: int | None = None,
    degree: int | None = None,
    kernel_size: Size | None = None,
    groups: int | None = None,
    padding: Size = 0,
    stride: Size = 1,
    dilation: Size = 1,
    norm_layer: object = None,
    eps: float = 1e-5,
) -> nn.Sequential:
    """SiLU of its Gram polynomials of tanh x, SiLU as base, norm, SiLU."""
    parts = in_groups(state, "base_conv", input_dim, output_dim, kernel_size, groups)
    layout = parts.layout("base_conv", norm="out") | {"poly_weights": parts.stacked(), "beta_weights": "functions"}
    tensors, _ = read_state(state, layout, ignored=parts.ignored)
    coefficients = by_function(tensors["poly_weights"].flatten(0, 1), parts.in_group)
    layer = feature_padded(
        _gram(tensors["beta_weights"], coefficients.shape[2], degree),
        "silu",
        coefficients,
        parts.joined(tensors, "base_conv"),
        Window(stride, padding, dilation, parts.groups),
        parts.inputs,
    )
    return nn.Sequential(layer, norm_of(state, parts, "instance", norm_layer, eps), nn.SiLU())


def gram_conv_v2(
    state: State,
    input_dim: int | None = None,
    output_dim: int | None = None,
    degree: int | None = None,
    kernel_size: Size | None = None,
    groups: int = 1,
    padding: Size = 0,
    stride: Size = 1,
    dilation: Size = 1,
    norm_layer: object = None,
    eps: float = 1e-5,
) -> nn.Sequential:
    """The same in one group; in several its groups see each other's channels."""
    if groups != 1:
        raise ValueError(
            f"groups must be 1, got {groups}: KAGNConvNDLayerV2 orders features by function and cuts them into groups "
            "as if by channel, so that functions of one group's channels reach the outputs of another"
        )
    one = {
        f"{key.removesuffix('.weight')}.0.weight" if key.endswith("_conv.weight") else key: state[key] for key in state
    }
    renamed = {key.replace("layer_norm.", "layer_norm.0."): value for key, value in one.items()}
    if "poly_conv.0.weight" in renamed:
        renamed["poly_weights"] = renamed.pop("poly_conv.0.weight").unsqueeze(0)
    return gram_conv(renamed, input_dim, output_dim, degree, kernel_size, 1, padding, stride, dilation, norm_layer, eps)


def bottleneck_gram_conv(
    state: State,
    input_dim: int | None = None,
    output_dim: int | None = None,
    degree: int | None = None,
    kernel_size: Size | None = None,
    groups: int | None = None,
    padding: Size = 0,
    stride: Size = 1,
    dilation: Size = 1,
    norm_layer: object = None,
    eps: float = 1e-5,
) -> nn.Sequential:
    """The functions between two pointwise convolutions, added to a convolution of silu(x); norm, SiLU."""
    parts = in_groups(state, "base_conv", input_dim, output_dim, kernel_size, groups)
    layout = parts.layout("base_conv", "inner_proj", "out_proj", norm="out")
    layout |= {"poly_weights": parts.stacked("inner", "inner_planes"), "beta_weights": "functions"}
    tensors, sizes = read_state(state, layout, ignored=parts.ignored)
    window, pointwise = Window(stride, padding, dilation, parts.groups), Window(1, 0, 1, parts.groups)
    coefficients = by_function(tensors["poly_weights"].flatten(0, 1), sizes["inner"])
    inner = sizes["inner"] * parts.groups
    basis = _gram(tensors["beta_weights"], coefficients.shape[2], degree)
    functions = nn.Sequential(
        pointwise.plain(parts.joined(tensors, "inner_proj"), parts.inputs),
        feature_padded(basis, None, coefficients, None, window, inner),
        pointwise.plain(parts.joined(tensors, "out_proj"), inner),
    )
    both = TwoBranches(functions, window.plain(parts.joined(tensors, "base_conv"), parts.inputs), "silu")
    return nn.Sequential(both, norm_of(state, parts, "instance", norm_layer, eps), nn.SiLU())


def _gram(betas: Tensor, num_functions: int, degree: int | None) -> ActivatedGram:
    """The recurrence P_{n+1} = t·P_n − s_n·P_{n−1}, s_n = β_n·(2n + 1)·n²·(4n² − 1)/(n + 1)², with what it learned."""
    agree(degree=(degree, num_functions - 1))
    if num_functions < 2 or len(betas) != num_functions:
        raise ValueError(
            f"beta_weights must be one for each of at least 2 functions; got {len(betas)} for {num_functions} functions"
        )
    factors = [(2 * n + 1) * n**2 * (4 * n**2 - 1) / (n + 1) ** 2 for n in range(1, num_functions - 1)]
    return ActivatedGram(tuple(f * beta for f, beta in zip(factors, betas.tolist()[1:], strict=False)))


def chebyshev_conv(
    state: State,
    input_dim: int | None = None,
    output_dim: int | None = None,
    degree: int | None = None,
    kernel_size: Size | None = None,
    groups: int | None = None,
    padding: Size = 0,
    stride: Size = 1,
    dilation: Size = 1,
    norm_layer: object = None,
    eps: float = 1e-5,
) -> nn.Sequential:
    """T_n(tanh x) without a base, norm. It holds tanh x within ±(1 − 1e-7), by which T_n differs by up to 1e-7·n²."""
    given = degree
    first = state.get("arange")
    functions = first.numel() if isinstance(first, Tensor) else None if given is None else given + 1
    if functions is None:
        raise ValueError("degree must be given, since the state does not have the buffer arange")
    parts = in_groups(state, "poly_conv", input_dim, output_dim, kernel_size, groups, functions=functions)
    tensors, _ = read_state(state, parts.layout("poly_conv", norm="out"), ignored={"arange", *parts.ignored})
    agree(degree=(given, functions - 1))
    coefficients = by_channel(parts.joined(tensors, "poly_conv"), parts.in_group)
    layer = feature_padded(
        Chebyshev(functions - 1),
        None,
        coefficients,
        None,
        Window(stride, padding, dilation, parts.groups),
        parts.inputs,
    )
    return nn.Sequential(layer, norm_of(state, parts, "instance", norm_layer, eps))


def bernstein_conv(
    state: State,
    input_dim: int | None = None,
    output_dim: int | None = None,
    degree: int | None = None,
    kernel_size: Size | None = None,
    groups: int | None = None,
    padding: Size = 0,
    stride: Size = 1,
    dilation: Size = 1,
    norm_layer: object = None,
    eps: float = 1e-5,
) -> nn.Sequential:
    """The input itself as base, norm, SiLU, and a constant: its recursion begins with 1 for all, and stays there."""
    parts = in_groups(state, "base_conv", input_dim, output_dim, kernel_size, groups)
    tensors, _ = read_state(
        state, parts.layout("base_conv", norm="out") | {"poly_weights": parts.stacked()}, ignored=parts.ignored
    )
    coefficients = by_channel(tensors["poly_weights"].flatten(0, 1), parts.in_group)
    agree(degree=(degree, coefficients.shape[2] - 1))
    layer = feature_padded(
        Chebyshev(0),
        "identity",
        coefficients.sum(2, keepdim=True),
        parts.joined(tensors, "base_conv"),
        Window(stride, padding, dilation, parts.groups),
        parts.inputs,
    )
    return nn.Sequential(layer, norm_of(state, parts, "instance", norm_layer, eps), nn.SiLU())


def jacobi_conv(
    state: State,
    input_dim: int | None = None,
    output_dim: int | None = None,
    degree: int | None = None,
    kernel_size: Size | None = None,
    a: float = 1.0,
    b: float = 1.0,
    groups: int | None = None,
    padding: Size = 0,
    stride: Size = 1,
    dilation: Size = 1,
    norm_layer: object = None,
    eps: float = 1e-5,
) -> nn.Sequential:
    """P_n^{(a,b)}(tanh x), the input itself as base, norm, SiLU."""
    parts = in_groups(state, "base_conv", input_dim, output_dim, kernel_size, groups)
    tensors, _ = read_state(
        state, parts.layout("base_conv", norm="out") | {"poly_weights": parts.stacked()}, ignored=parts.ignored
    )
    coefficients = by_function(tensors["poly_weights"].flatten(0, 1), parts.in_group)
    agree(degree=(degree, coefficients.shape[2] - 1))
    layer = feature_padded(
        Jacobi(coefficients.shape[2] - 1, check_exponent("a", a), check_exponent("b", b)),
        "identity",
        coefficients,
        parts.joined(tensors, "base_conv"),
        Window(stride, padding, dilation, parts.groups),
        parts.inputs,
    )
    return nn.Sequential(layer, norm_of(state, parts, "instance", norm_layer, eps), nn.SiLU())


# Of all of them: how the first weights are drawn, what is dropped, and what the state of a norm tells.
IRRELEVANT: tuple[str, ...] = ("dropout", "ndim", "affine", "momentum", "track_running_stats")
LOADERS: dict[str, Any] = {
    "torch-conv-kan KANConvNDLayer": kan_conv,
    "torch-conv-kan FastKANConvNDLayer": fast_kan_conv,
    "torch-conv-kan KALNConvNDLayer": legendre_conv,
    "torch-conv-kan KAGNConvNDLayer": gram_conv,
    "torch-conv-kan KAGNConvNDLayerV2": gram_conv_v2,
    "torch-conv-kan BottleNeckKAGNConvNDLayer": bottleneck_gram_conv,
    "torch-conv-kan KACNConvNDLayer": chebyshev_conv,
    "torch-conv-kan KABNConvNDLayer": bernstein_conv,
    "torch-conv-kan KAJNConvNDLayer": jacobi_conv,
    "torch-conv-kan ReLUKANConvNDLayer": relu_kan_conv,
    "torch-conv-kan WavKANConvNDLayer": wavelet_conv,
}
# What only some have, and says nothing about the function either.
MORE_IRRELEVANT: dict[str, tuple[str, ...]] = {
    "torch-conv-kan KALNConvNDLayer": (
        *("input_dim", "output_dim", "degree", "kernel_size", "groups", "padding", "stride", "dilation", "norm_layer"),
    ),
    "torch-conv-kan BottleNeckKAGNConvNDLayer": ("dim_reduction", "min_internal"),
    "torch-conv-kan ReLUKANConvNDLayer": ("train_ab",),
}
