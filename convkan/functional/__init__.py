"""The layers as functions of their parameters, for those who hold these themselves.

A layer keeps ready what these functions find out at each call: that all shapes fit, and whether knots are equally
spaced. With that in hand both go on the same way, so they compute the same. Code that is compiled with
``fullgraph=True`` takes layers: to look at knots, these functions interrupt the graph.
"""

from convkan.functional.convolution import kan_conv1d, kan_conv2d, kan_conv3d
from convkan.functional.dense import kan_linear, learnable_activation
from convkan.functional.transposed import kan_conv_transpose1d, kan_conv_transpose2d, kan_conv_transpose3d

__all__ = [
    "kan_conv1d",
    "kan_conv2d",
    "kan_conv3d",
    "kan_conv_transpose1d",
    "kan_conv_transpose2d",
    "kan_conv_transpose3d",
    "kan_linear",
    "learnable_activation",
]
