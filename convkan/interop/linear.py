"""Loaders of other libraries' linear layers; the parameters are those of the peer's constructor."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from convkan.basis import Chebyshev
from convkan.interop.fast_kan import NormalizedKANLinear
from convkan.interop.layers import State, count_entries, efficient_layout, linear, scaled
from convkan.interop.state import activation_name, agree, rbf_basis, read_state, spline_basis
from convkan.nn import KANLinear


def _efficient_layer(
    tensors: Mapping[str, Tensor],
    prefix: str,
    base_activation: object,
    grid_size: int | None,
    spline_order: int | None,
) -> KANLinear:
    coefficients, grid = scaled(tensors, prefix), tensors[f"{prefix}grid"]
    basis = spline_basis(f"{prefix}grid", grid, coefficients.shape[-1])
    agree(grid_size=(grid_size, basis.grid_size), spline_order=(spline_order, basis.order))
    activation = activation_name("base_activation", base_activation)
    return linear(basis, activation, coefficients, tensors[f"{prefix}base_weight"], grid)


def efficient_kan_linear(
    state: State,
    in_features: int | None = None,
    out_features: int | None = None,
    grid_size: int | None = None,
    spline_order: int | None = None,
    base_activation: object = "silu",
) -> KANLinear:
    """efficient-kan's layer: the original of the layout that others copied."""
    tensors, sizes = read_state(state, efficient_layout(state))
    agree(in_features=(in_features, sizes["in"]), out_features=(out_features, sizes["out"]))
    return _efficient_layer(tensors, "", base_activation, grid_size, spline_order)


def efficient_kan(
    state: State,
    layers_hidden: Sequence[int] | None = None,
    grid_size: int | None = None,
    spline_order: int | None = None,
    base_activation: object = "silu",
) -> nn.Sequential:
    """efficient-kan's network: its layers, one behind the other."""
    depth = count_entries(state, "layers")
    layout: dict[str, str] = {}
    for n in range(depth):
        # Layers share the width between them, but each may have been refined to a grid size of its own.
        inputs = f"width{n}"
        edges = f"width{n + 1} {inputs}"
        layout |= efficient_layout(state, f"layers.{n}.", edges=edges, inputs=inputs, number=f"{n}")
    tensors, sizes = read_state(state, layout)
    widths = [sizes[f"width{n}"] for n in range(depth + 1)]
    given = list(layers_hidden) if isinstance(layers_hidden, Sequence) else layers_hidden
    agree(layers_hidden=(given, widths))
    return nn.Sequential(
        *(_efficient_layer(tensors, f"layers.{n}.", base_activation, grid_size, spline_order) for n in range(depth))
    )


def cheby_kan_layer(
    state: State, input_dim: int | None = None, output_dim: int | None = None, degree: int | None = None
) -> KANLinear:
    """ChebyKAN's layer: T_n(tanh x) without a base."""
    # Some releases keep the degrees 0, 1, … in a buffer.
    tensors, sizes = read_state(state, {"cheby_coeffs": "in out functions"}, ignored={"arange"})
    agree(
        input_dim=(input_dim, sizes["in"]),
        output_dim=(output_dim, sizes["out"]),
        degree=(degree, sizes["functions"] - 1),
    )
    return linear(Chebyshev(sizes["functions"] - 1), None, tensors["cheby_coeffs"].transpose(0, 1))


def fast_kan_layer(
    state: State,
    input_dim: int | None = None,
    output_dim: int | None = None,
    grid_min: float | None = None,
    grid_max: float | None = None,
    num_grids: int | None = None,
    use_base_update: bool | None = None,
    use_layernorm: bool | None = None,
    base_activation: object = "silu",
) -> nn.Module:
    """fast-kan's layer: Gaussians of the normalised input, and a linear map of the activated one."""
    if use_layernorm is None:
        use_layernorm = any(str(key).startswith("layernorm.") for key in state)
    if use_base_update is None:
        use_base_update = any(str(key).startswith("base_linear.") for key in state)
    layout = {"rbf.grid": "centers", "spline_linear.weight": "out planes"}
    if use_layernorm:
        layout |= {"layernorm.weight": "in", "layernorm.bias": "in"}
    if use_base_update:
        layout |= {"base_linear.weight": "out in", "base_linear.bias": "out"}
    tensors, sizes = read_state(state, layout)
    agree(num_grids=(num_grids, sizes["centers"]), output_dim=(output_dim, sizes["out"]))
    in_features = sizes.get("in", sizes["planes"] // sizes["centers"])
    if sizes["planes"] != in_features * sizes["centers"]:
        raise ValueError(
            f"spline_linear.weight must have {sizes['centers']} columns for each input, one for each of "
            f"rbf.grid; got {sizes['planes']} columns for {in_features} inputs"
        )
    agree(input_dim=(input_dim, in_features))
    basis = rbf_basis("rbf.grid", tensors["rbf.grid"], grid_min, grid_max)
    coefficients = tensors["spline_linear.weight"].unflatten(1, (in_features, sizes["centers"]))
    activation = activation_name("base_activation", base_activation)
    weight, bias = tensors.get("base_linear.weight"), tensors.get("base_linear.bias")
    if not use_layernorm:
        return linear(basis, activation if use_base_update else None, coefficients, weight, bias=bias)
    spline = linear(basis, None, coefficients)
    norm = nn.LayerNorm(in_features, device="meta", dtype=coefficients.dtype).to_empty(device=coefficients.device)
    norm.load_state_dict({"weight": tensors["layernorm.weight"], "bias": tensors["layernorm.bias"]})
    if weight is None or bias is None:
        return nn.Sequential(norm, spline)
    layer = NormalizedKANLinear(
        in_features, sizes["out"], basis=basis, base_activation=activation, device="meta", dtype=weight.dtype
    ).to_empty(device=weight.device)
    layer.norm, layer.spline = norm, spline
    layer.base.load_state_dict({"weight": weight, "bias": bias})
    return layer


def pykan_layer(
    state: State,
    in_dim: int | None = None,
    out_dim: int | None = None,
    num: int | None = None,
    k: int | None = None,
    base_fun: object = "silu",
) -> KANLinear:
    """The layer of pykan: weights stored (in, out), scaled twice and masked."""
    edges = dict.fromkeys(("scale_base", "scale_sp", "mask"), "in out")
    tensors, sizes = read_state(state, {"grid": "in knots", "coef": "in out functions"} | edges)
    basis = spline_basis("grid", tensors["grid"], sizes["functions"])
    agree(in_dim=(in_dim, sizes["in"]), out_dim=(out_dim, sizes["out"]))
    agree(num=(num, basis.grid_size), k=(k, basis.order))
    no_base = isinstance(base_fun, str) and base_fun.lower() == "zero"
    mask = tensors["mask"]
    coefficients = (mask * tensors["scale_sp"]).unsqueeze(-1) * tensors["coef"]
    return linear(
        basis,
        None if no_base else activation_name("base_fun", base_fun),
        coefficients.transpose(0, 1),
        None if no_base else (mask * tensors["scale_base"]).T,
        tensors["grid"],
    )
