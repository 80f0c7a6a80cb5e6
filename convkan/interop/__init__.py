"""Models of other libraries, as modules of this one."""

from convkan.interop.peers import SOURCES, NormalizedKANLinear, load_peer

__all__ = ["SOURCES", "NormalizedKANLinear", "load_peer"]
