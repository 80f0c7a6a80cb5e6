"""Other people's models: KAN layers put into them, and those of other KAN libraries read."""

from convkan.interop.branches import FeaturePadded, TwoBranches
from convkan.interop.calibration import calibrate
from convkan.interop.convert import convert
from convkan.interop.counting import analyze_flops
from convkan.interop.fast_kan import NormalizedKANLinear, ScatteredRBF
from convkan.interop.peer_bases import ActivatedGram, OneWavelet, ScatteredReLU
from convkan.interop.peers import SOURCES, load_peer
from convkan.interop.simplify import Simplified, simplify

__all__ = [
    "SOURCES",
    "ActivatedGram",
    "FeaturePadded",
    "NormalizedKANLinear",
    "OneWavelet",
    "ScatteredRBF",
    "ScatteredReLU",
    "Simplified",
    "TwoBranches",
    "analyze_flops",
    "calibrate",
    "convert",
    "load_peer",
    "simplify",
]
