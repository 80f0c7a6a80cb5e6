"""How a layer is evaluated: one definition, and backends that agree with it."""

from convkan.modes import is_concrete
from convkan.ops.channelwise import shifts_well
from convkan.ops.convolution import Convolution
from convkan.ops.dispatch import BACKENDS, Backend, check_backend_name, evaluate
from convkan.ops.geometry import Channelwise, Geometry, Linear
from convkan.ops.kernels import compiled_kernels
from convkan.ops.knots import KnotFacts, knot_facts
from convkan.ops.plan import Expansion, Plan
from convkan.ops.transposed import TransposedConvolution

__all__ = [
    "BACKENDS",
    "Backend",
    "Channelwise",
    "Convolution",
    "Expansion",
    "Geometry",
    "KnotFacts",
    "Linear",
    "Plan",
    "TransposedConvolution",
    "check_backend_name",
    "compiled_kernels",
    "evaluate",
    "is_concrete",
    "knot_facts",
    "shifts_well",
]
