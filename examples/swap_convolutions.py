"""Put KAN convolutions in place of those of a torchvision ResNet: ``python swap_convolutions.py``."""

import torch
from torch import nn
from torchvision.models import resnet18

from convkan import BSpline, KANConv2d
from convkan.grid import adapt_grids, coverages

torch.manual_seed(0)
net = resnet18(num_classes=10)
plain = sum(p.numel() for p in net.parameters())

# KANConv2d takes nn.Conv2d's arguments in their order. In a ResNet batch normalisation comes after convolutions and is
# followed by a ReLU, so most inputs lie between 0 and 3. Only one block is swapped here: a function has 3 + 3
# coefficients and a weight of its base, so each convolution grows to 7 times its parameters.
basis = BSpline(grid_size=3, grid_range=(-1, 3))
for name, conv in list(net.named_modules()):
    if name.startswith("layer2.1") and isinstance(conv, nn.Conv2d):
        swapped = KANConv2d(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            conv.stride,
            conv.padding,
            conv.dilation,
            conv.groups,
            conv.bias is not None,
            conv.padding_mode,
            basis=basis,
        )
        net.set_submodule(name, swapped)
        print(f"{name}: {swapped}")

print(f"\n{plain / 1e6:.1f} million parameters before, {sum(p.numel() for p in net.parameters()) / 1e6:.1f} after")

# One step of training, on noise. Whoever has data goes on from here.
images, labels = torch.randn(4, 3, 64, 64), torch.randint(10, (4,))
optimizer = torch.optim.SGD(net.parameters(), lr=1e-2, momentum=0.9)
loss = nn.functional.cross_entropy(net(images), labels)
loss.backward()
optimizer.step()
print(f"loss of the first step: {loss.item():.3f}")

# Inputs off the grid are seen by the base activation alone; the knots can be moved to where inputs are.
for when in ("as made", "adapted"):
    shares = {name: found.off_grid.mean().item() for name, found in coverages(net, [images]).items()}
    print(f"off the grid, {when}: " + ", ".join(f"{name} {share:.1%}" for name, share in shares.items()))
    if when == "as made":
        adapt_grids(net, [images])
