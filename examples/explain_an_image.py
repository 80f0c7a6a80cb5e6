"""What each pixel of a digit says for and against a class: ``python explain_an_image.py [PICTURE.png]``."""

import sys

import torch
from sklearn.datasets import load_digits
from torch import nn

from convkan import BSpline, KANConv2d, KANLinear
from convkan.interpret import attribute
from convkan.interpret.plot import plot_contributions

torch.manual_seed(0)
digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 8 - 1  # (n, 1, 8, 8) in [−1, 1]
labels = torch.tensor(digits.target)
train, test = slice(0, 1400), slice(1400, None)

on_grid = BSpline(grid_range=(-3, 3))
model = nn.Sequential(
    KANConv2d(1, 6, 3, padding=1),
    nn.BatchNorm2d(6, affine=False),
    nn.MaxPool2d(2),
    nn.Flatten(),
    KANLinear(6 * 16, 10, basis=on_grid),
)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
for _ in range(5):
    for batch in torch.randperm(1400).split(64):
        loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
model.eval()
with torch.no_grad():
    predicted = torch.cat([model(part).argmax(1) for part in images[test].split(64)])
print(f"test accuracy {(predicted == labels[test]).float().mean():.3f}")

# The rise of the predicted class's logit over that of a blank image, shared out exactly among the pixels: every layer
# here is a sum of functions of one variable, or affine, or max pooling.
shown = images[test][:4]
found = attribute(model, shown, predicted[:4], baseline=-1.0)
sums = found.values.flatten(1).sum(1)
for index in range(4):
    rise = (found.logit - found.baseline_logit)[index].item()
    brightest = found.values[index, 0].flatten().argmax().item()
    print(
        f"image {index}: a {predicted[index]}; logit {rise:+.3f} over blank, pixels sum to {sums[index]:+.3f}, "
        f"most by row {brightest // 8}, column {brightest % 8}"
    )

path = sys.argv[1] if len(sys.argv) > 1 else "explained.png"
titles = [f"says {guess}, is {truth}" for guess, truth in zip(predicted[:4], labels[test][:4], strict=True)]
plot_contributions(shown, found.values, titles).savefig(path, dpi=150)
print(f"picture of what speaks for the class and against it: {path}")
