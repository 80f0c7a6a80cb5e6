"""Which times are held against which, and how far apart they should be."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Ratio:
    """The time of one contender's pass beside that of another, and the most it should be.

    A memory ratio compares bytes kept for the backward pass with those of the input and the weights.
    """

    title: str
    workload: str
    above: str
    below: str
    at_most: float
    at_least: bool = False


RATIOS = [
    Ratio("KANConv2d compiled / floor, float32", "W1", "KANConv2d, float32, compiled", "floor, float32, eager", 1.15),
    Ratio("KANConv2d eager / floor, float32", "W1", "KANConv2d, float32, eager", "floor, float32, eager", 2.0),
    Ratio("KANConv2d compiled / floor, bfloat16", "W1", "KANConv2d, bfloat16, compiled", "floor, bfloat16, eager", 1.5),
    Ratio("bytes kept / input and weights, eager float32", "W1", "KANConv2d, float32, eager", "bytes", 1.1),
    Ratio(
        "LowRankKANConv2d rank 1 compiled / nn.Conv2d + ReLU",
        "W1",
        "LowRankKANConv2d, rank 1, float32, compiled",
        "nn.Conv2d + ReLU, float32, eager",
        1.5,
    ),
    Ratio(
        "LearnableActivation, grid 64 / grid 8",
        "activation",
        "LearnableActivation, grid 64, float32, eager",
        "LearnableActivation, grid 8, float32, eager",
        2.0,
    ),
    Ratio(
        "adapted / uniform knots, compiled",
        "W1",
        "KANConv2d, adapted knots, float32, compiled",
        "KANConv2d, float32, compiled",
        1.5,
    ),
    Ratio(
        "inkan / KANLinear compiled, batch 1024",
        "linear1024",
        "inkan, float32, eager",
        "KANLinear, float32, compiled",
        2.0,
        at_least=True,
    ),
    Ratio(
        "training step of kanc_mlp_small / cnn_small, compiled",
        "step:kanc_mlp_small",
        "kanc_mlp_small, float32, compiled",
        "cnn_small, float32, compiled",
        3.0,
    ),
]
