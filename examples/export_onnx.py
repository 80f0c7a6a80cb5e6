"""Write a KAN as an ONNX file and run it without torch: ``python export_onnx.py [MODEL.onnx]``."""

import sys
from pathlib import Path

import onnxruntime
import torch
from torch import nn

from convkan import BSpline, KANConv2d, KANLinear
from convkan.grid import adapt_grids

torch.manual_seed(0)
on_grid = BSpline(grid_range=(-3, 3))
model = nn.Sequential(
    KANConv2d(1, 4, 3, padding=1, basis=on_grid),
    nn.BatchNorm2d(4),
    nn.AdaptiveAvgPool2d(1),
    nn.Flatten(),
    KANLinear(4, 10, basis=on_grid),
)
adapt_grids(model, [torch.randn(64, 1, 8, 8)])  # knots go into the file as they are
model.eval()

path = Path(sys.argv[1] if len(sys.argv) > 1 else "model.onnx")
example = torch.randn(2, 1, 8, 8)
batch = torch.export.Dim("batch", min=1)
torch.onnx.export(
    model,
    (example,),
    path,
    input_names=["images"],
    output_names=["logits"],
    dynamic_shapes=({0: batch},),
    dynamo=True,
    external_data=False,  # weights in the same file
    verbose=False,
)
print(f"{path}: {path.stat().st_size / 1024:.0f} kB")

session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
for size in (1, 2, 7):  # the batch may have any size
    images = torch.randn(size, 1, 8, 8)
    [logits] = session.run(None, {"images": images.numpy()})
    with torch.no_grad():
        difference = (model(images) - torch.from_numpy(logits)).abs().max().item()
    print(f"batch of {size}: logits {logits.shape}, greatest difference from torch {difference:.1e}")
