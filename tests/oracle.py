"""What the library computes, written again in numpy, scipy and plain loops."""

from itertools import product

import numpy as np
import scipy.interpolate
import scipy.special
import torch
from bumps import Bumps
from numpy.polynomial.chebyshev import chebvander
from numpy.polynomial.legendre import legvander

from convkan.basis import (
    RBF,
    Bernstein,
    BSpline,
    Chebyshev,
    DoG,
    Fourier,
    Gram,
    Jacobi,
    Legendre,
    MexicanHat,
    Morlet,
    Rational,
    ReLUKAN,
)
from convkan.nn import KANLayer

PADDING_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
ACTIVATIONS = {
    None: None,
    "identity": lambda x: x,
    "silu": lambda x: x / (1 + np.exp(-x)),
    "tanh": np.tanh,
}


def array(tensor: torch.Tensor) -> np.ndarray:
    """The numbers of a tensor, wherever it is."""
    return tensor.detach().cpu().numpy()


def scipy_bsplines(x: np.ndarray, knots: np.ndarray, order: int, derivative: int = 0) -> np.ndarray:
    """All B-splines of one channel: closed at the grid's right end, tapering to zero beyond it."""
    functions = np.eye(len(knots) - order - 1)
    inside = scipy.interpolate.BSpline(knots, functions, order)(x, derivative)
    longer = np.concatenate([[knots[0]] * order, knots, [knots[-1]] * order])
    padded = np.pad(functions, ((order, order), (0, 0)))
    outside = scipy.interpolate.BSpline(longer, padded, order, extrapolate=False)(x, derivative)
    on_grid = (x >= knots[order]) & (x <= knots[-order - 1])
    return np.where(on_grid[..., None], inside, np.nan_to_num(outside))


def basis_functions(basis, x: np.ndarray, knots: np.ndarray | None) -> np.ndarray:
    """All functions of a basis at the points of one channel, functions last."""
    match basis:
        case BSpline(extrapolation="zero"):
            return scipy_bsplines(x, knots, basis.order)
        case BSpline():
            ends = np.clip(x, knots[basis.order], knots[-basis.order - 1])
            values = scipy_bsplines(ends, knots, basis.order)
            if basis.extrapolation == "clamp":
                return values
            return values + scipy_bsplines(ends, knots, basis.order, 1) * (x - ends)[..., None]
        case Chebyshev():
            return chebvander(np.tanh(x), basis.degree)
        case RBF():
            centers = np.linspace(*basis.center_range, basis.num_centers)
            return np.exp(-(((x[..., None] - centers) / (centers[1] - centers[0])) ** 2))
        case Bumps():
            steps = np.diff(knots)
            widths = (np.append(steps[0], steps) + np.append(steps, steps[-1])) / 2
            return np.exp(-(((x[..., None] - knots) / widths) ** 2))
        case Legendre():
            return legvander(np.tanh(x), basis.degree)
        case Gram():
            # What Gram and Schmidt make of polynomials on the points.
            _, mixture = np.linalg.qr(legvander(np.linspace(-1, 1, basis.num_points), basis.degree))
            values = legvander(np.append(np.tanh(x), 1), basis.degree) @ np.linalg.inv(mixture)
            return (values / values[-1])[:-1].reshape(*x.shape, -1)
        case Jacobi():
            degrees = np.arange(basis.degree + 1)
            return scipy.special.eval_jacobi(degrees, basis.alpha, basis.beta, np.tanh(x)[..., None])
        case Bernstein():
            return scipy.interpolate.BPoly(np.eye(basis.degree + 1)[:, None], [-1, 1])(np.tanh(x))
        case Fourier():
            angle = 2 * np.pi * x[..., None] / basis.period * np.arange(1, basis.num_frequencies + 1)
            return np.concatenate([np.ones_like(x)[..., None], np.cos(angle), np.sin(angle)], axis=-1)
        case Rational():
            angle = 2 * np.arctan(x / basis.scale)[..., None] * np.arange(basis.degree + 1)
            return np.concatenate([np.cos(angle), np.sin(angle[..., 1:])], axis=-1)
        case MexicanHat() | Morlet() | DoG():
            return np.stack([wavelet(basis, (x - b) / a) for a, b in wavelet_grid(basis)], axis=-1)
        case ReLUKAN():
            width = basis.order + 1
            pairs = zip(knots[:-width], knots[width:], strict=True)
            return np.stack(
                [16 * (np.maximum(e - x, 0) * np.maximum(x - s, 0)) ** 2 / (e - s) ** 4 for s, e in pairs], axis=-1
            )
    raise NotImplementedError(f"write the oracle of {basis}")


def wavelet_grid(basis) -> list[tuple[float, float]]:
    """The scale and the translation of each wavelet."""
    low, high = basis.center_range
    levels = [np.linspace(low, high, 2**level + 1) for level in range(basis.num_levels)]
    return [(level[1] - level[0], center) for level in levels for center in level]


def wavelet(basis, u: np.ndarray) -> np.ndarray:
    """The mother wavelet."""
    gauss = np.exp(-(u**2) / 2)
    match basis:
        case MexicanHat():
            return 2 / (np.sqrt(3) * np.pi**0.25) * (1 - u**2) * gauss
        case Morlet():
            return np.real(np.exp(1j * basis.frequency * u)) * gauss
        case DoG():
            return -u * gauss
    raise NotImplementedError


def edge_features(layer: KANLayer, x: np.ndarray) -> np.ndarray:
    """(b(x), B_1(x) … B_K(x)) for each channel of (batch, channels, *space), features last."""
    planes = []
    for channel in range(x.shape[1]):
        knots = None if layer.grid is None else array(layer.grid[channel])
        values = basis_functions(layer.basis, x[:, channel], knots)
        base = ACTIVATIONS[layer.base_activation]
        if base is not None:
            values = np.concatenate([base(x[:, channel])[..., None], values], axis=-1)
        planes.append(values)
    return np.stack(planes, axis=1)


def edge_weights(layer: KANLayer) -> np.ndarray:
    """The weights of each edge, (out, in/groups, *kernel, features)."""
    weights = array(layer.coefficients.movedim(2, -1))
    if layer.base_weight is None:
        return weights
    return np.concatenate([array(layer.base_weight)[..., None], weights], axis=-1)


def kan_convolution(layer, x: np.ndarray) -> np.ndarray:
    """y[n,o,p] = Σ_{c in group} Σ_tap φ[o,c,tap](x̃[n,c, p·stride + tap·dilation]) + bias[o], loop by loop."""
    kernel, stride, dilation = layer.kernel_size, layer.stride, layer.dilation
    if layer.padding == "same":
        totals = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        amounts = [(total // 2, total - total // 2) for total in totals]
    elif layer.padding == "valid":
        amounts = [(0, 0)] * len(kernel)
    else:
        amounts = [(p, p) for p in layer.padding]
    features = edge_features(layer, np.pad(x, [(0, 0), (0, 0), *amounts], mode=PADDING_MODES[layer.padding_mode]))
    weights = edge_weights(layer)
    space = features.shape[2:-1]
    positions = [(n - d * (k - 1) - 1) // s + 1 for n, k, s, d in zip(space, kernel, stride, dilation, strict=True)]
    in_group, out_group = layer.in_channels // layer.groups, layer.out_channels // layer.groups
    y = np.zeros((len(x), layer.out_channels, *positions))
    for n, o in np.ndindex(y.shape[:2]):
        for position in np.ndindex(*positions):
            for c, tap in product(range(in_group), np.ndindex(*kernel)):
                pixel = tuple(p * s + t * d for p, s, t, d in zip(position, stride, tap, dilation, strict=True))
                channel = o // out_group * in_group + c
                y[(n, o, *position)] += weights[(o, c, *tap)] @ features[(n, channel, *pixel)]
            if layer.bias is not None:
                y[(n, o, *position)] += layer.bias[o].item()
    return y


def kan_transposed_convolution(layer, x: np.ndarray) -> np.ndarray:
    """Every pixel p adds φ[o,c,tap](x[n,c,p]) to y[n,o, p·stride + tap·dilation − padding], loop by loop."""
    features, space, count = edge_features(layer, x), x.shape[2:], layer.basis.num_functions
    steps = zip(space, layer.kernel_size, layer.stride, layer.dilation, layer.padding, strict=True)
    sizes = [(n - 1) * s + d * (k - 1) + 1 - 2 * p for n, k, s, d, p in steps]
    sizes = [size + more for size, more in zip(sizes, layer.output_padding, strict=True)]
    in_group, out_group = layer.in_channels // layer.groups, layer.out_channels // layer.groups
    y = np.zeros((len(x), layer.out_channels, *sizes))
    if layer.bias is not None:
        y += array(layer.bias).reshape(-1, *[1] * len(space))
    for n, channel in np.ndindex(x.shape[:2]):
        group, c = divmod(channel, in_group)
        rows = [(group * count + k) * in_group + c for k in range(count)]  # feature-major within each group
        weights = array(layer.basis_weight)[rows]
        if layer.base_weight is not None:
            weights = np.concatenate([array(layer.base_weight)[channel][None], weights])
        for pixel, tap in product(np.ndindex(*space), np.ndindex(*layer.kernel_size)):
            steps = zip(pixel, tap, layer.stride, layer.dilation, layer.padding, strict=True)
            place = tuple(p * s + t * d - off for p, t, s, d, off in steps)
            if all(0 <= at < size for at, size in zip(place, sizes, strict=True)):
                for o in range(out_group):
                    value = weights[(slice(None), o, *tap)] @ features[(n, channel, *pixel)]
                    y[(n, group * out_group + o, *place)] += value
    return y


def kan_linear(layer, x: np.ndarray) -> np.ndarray:
    """y[o] = Σ_i φ[o,i](x[i]) + bias[o]."""
    features, weights = edge_features(layer, x), edge_weights(layer)
    y = np.zeros((len(x), layer.out_features))
    for n, o in np.ndindex(*y.shape):
        y[n, o] = sum(weights[o, i] @ features[n, i] for i in range(layer.in_features))
        if layer.bias is not None:
            y[n, o] += layer.bias[o].item()
    return y


def learnable_activation(layer, x: np.ndarray) -> np.ndarray:
    """y[n, c·R + r, …] = ψ[c,r](x[n,c,…])."""
    features, weights = edge_features(layer, x), edge_weights(layer)
    count = layer.num_functions
    y = np.zeros((len(x), layer.num_channels * count, *x.shape[2:]))
    for c, r in product(range(layer.num_channels), range(count)):
        y[:, c * count + r] = features[:, c] @ weights[c * count + r, 0]
    return y
