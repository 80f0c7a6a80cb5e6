"""Train a small convolutional KAN on scikit-learn's digits with a loop of one's own: ``python classify_digits.py``."""

import torch
from sklearn.datasets import load_digits
from torch import nn

from convkan import BSpline, KANConv2d, KANLinear
from convkan.grid import adapt_grids, coverages, refine_grids
from convkan.optim import parameter_groups

EPOCHS, ADAPT_AFTER, REFINE_AFTER = 8, 2, 4

torch.manual_seed(0)
digits = load_digits()  # 1797 images of 8×8 pixels, from 0 to 16
images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 8 - 1  # (n, 1, 8, 8) in [−1, 1]
labels = torch.tensor(digits.target)
order = torch.randperm(len(images))
train, test = order[:1400], order[1400:]

# Normalised inputs lie within three standard deviations, almost always: so the grid reaches from −3 to 3.
on_grid = BSpline(grid_size=5, grid_range=(-3, 3))
model = nn.Sequential(
    KANConv2d(1, 8, kernel_size=3, padding=1),  # the images themselves lie in [−1, 1], the default grid
    nn.BatchNorm2d(8, affine=False),
    nn.MaxPool2d(2),
    KANConv2d(8, 12, kernel_size=3, padding=1, basis=on_grid),
    nn.BatchNorm2d(12, affine=False),
    nn.AdaptiveAvgPool2d(1),
    nn.Flatten(),
    nn.BatchNorm1d(12, affine=False),
    KANLinear(12, 10, bias=True, basis=on_grid),
)

# Biases and normalisation do not decay; coefficients of functions may have a rate and a decay of their own.
optimizer = torch.optim.AdamW(parameter_groups(model, weight_decay=1e-4), lr=1e-2)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)


@torch.no_grad()
def accuracy(part: torch.Tensor) -> float:
    """The share of a part's images that the model, in eval mode, gets right."""
    model.eval()
    right = sum((model(images[batch]).argmax(1) == labels[batch]).sum().item() for batch in part.split(64))
    model.train()
    return right / len(part)


for epoch in range(1, EPOCHS + 1):
    total = 0.0
    for batch in train[torch.randperm(len(train))].split(100):
        loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(batch) / len(train)
    schedule.step()
    note = ""
    if epoch == ADAPT_AFTER:  # move knots to where the inputs of each layer are, evenly spaced, which is faster
        adapt_grids(model, images[train].split(64), grid_eps=1.0)
        note = ", grids adapted"
    if epoch == REFINE_AFTER:  # more intervals, the same functions; the optimiser is given the new coefficients
        refine_grids(model, 10, optimizer, keep_beyond=False)
        note = ", grids refined to 10 intervals"
    print(f"epoch {epoch:2}: loss {total:.3f}{note}")

print(f"\ntest accuracy {accuracy(test):.3f} with {sum(p.numel() for p in model.parameters())} parameters")
print("share of each layer's inputs that lie off its grid, on the test images:")
for name, found in coverages(model, images[test].split(64)).items():
    print(f"  layer {name}: {found.off_grid.mean():.2%}")
