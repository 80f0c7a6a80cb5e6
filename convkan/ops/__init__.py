"""How a layer is evaluated: one definition, and backends that agree with it."""

from convkan.ops.dispatch import BACKENDS, Backend, check_backend, evaluate
from convkan.ops.plan import Channelwise, Convolution, Geometry, Linear, Plan

__all__ = [
    "BACKENDS",
    "Backend",
    "Channelwise",
    "Convolution",
    "Geometry",
    "Linear",
    "Plan",
    "check_backend",
    "evaluate",
]
