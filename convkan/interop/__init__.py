"""Models of other libraries, as modules of this one."""

from convkan.interop.fast_kan import NormalizedKANLinear, ScatteredRBF
from convkan.interop.peers import SOURCES, load_peer

__all__ = ["SOURCES", "NormalizedKANLinear", "ScatteredRBF", "load_peer"]
