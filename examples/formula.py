"""From data to a formula and a picture: ``python formula.py``, after ``pip install "convkan-vision[interpret]"``."""

import torch

from convkan import KAN
from convkan.fitting import fit
from convkan.interpret import auto, importance, prune_nodes

torch.manual_seed(1)
x = 2 * torch.rand(300, 2, dtype=torch.float64) - 1
y = torch.exp(torch.sin(torch.pi * x[:, 0]) + x[:, 1] ** 2)

net = KAN([2, 5, 1], dtype=torch.float64)
fit(net, x, y, method="lbfgs", sparsity=0.03, steps=50, restarts=3)  # few edges come to say all there is to say
net = prune_nodes(net, importance(net, [x], propagate=False), 0.1)  # the others go
print(fit(net, x, y, grids=[5, 10]))  # finer and finer grids
for name, found in auto(net, [x]).items():  # each spline becomes the named function that comes closest
    print(name, *found, sep="\n  ")
print(fit(net, x, y))  # the constants of these
try:
    print(f"f = {net.formula(['x', 'y'], output=0, digits=4, data=x)}")
except ValueError as reason:  # more nodes stayed than the formula needs, as happens from some starts
    print(f"no formula this time; more restarts may find it: {reason}")
net.plot(x, input_names=["x", "y"], output_names=["f"]).savefig("formula.png")
