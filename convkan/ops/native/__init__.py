"""Kernels of our own for what most layers compute: B-splines on equally spaced knots, on a CPU.

They are plain C++ that includes nothing of torch. ``vectors.h`` is below all; on it are ``bases.h``, ``splines.h`` and
``tables.h``. ``features.h`` takes the closed form of ``splines.h``, and ``linear.h`` takes features; ``activations.h``
looks up polynomials, by ``pieces.h``. What is built is ``features.cpp``, in float32 and float64, and
``activations.cpp``, in float32.
``build.py`` builds them with the machine's compiler, once a machine, and ``calls.py`` hands tensors over to them, on
it ``activations.py`` and ``small_linear.py``. Where there is no compiler, or another basis, dtype or device,
``covers`` says so, and the operations of ``convkan.ops.kernels`` do the same.
"""

from convkan.ops.native.activations import activation, activation_backward
from convkan.ops.native.build import DISABLING_VARIABLE, is_enabled, native_kernels
from convkan.ops.native.calls import (
    computed_in,
    covers,
    covers_features,
    features,
    input_gradient,
    knots,
    plane_features,
    plane_gradient,
    splines,
)
from convkan.ops.native.small_linear import covers_linear, linear, linear_backward

__all__ = [
    "DISABLING_VARIABLE",
    "activation",
    "activation_backward",
    "computed_in",
    "covers",
    "covers_features",
    "covers_linear",
    "features",
    "input_gradient",
    "is_enabled",
    "knots",
    "linear",
    "linear_backward",
    "native_kernels",
    "plane_features",
    "plane_gradient",
    "splines",
]
