"""Write a trained classifier for another engine: ``python -m experiments.export --run RUNDIR --to onnx``.

The file takes images as they are, of bytes or of shares of full brightness, in batches of any size; the names of its
classes are in its metadata. It is there only if it computes what the model does.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from convkan.export import ENGINES, Exported, export_classifier, quantize_classifier
from convkan.files import write_atomically
from convkan.models import load_classifier
from experiments.common.classifiers import data_behind, find_weights, training_images
from experiments.common.cli import UserError, parse, run


@dataclass(frozen=True)
class ExportConfig:
    """What to write.

    Attributes:
        run: Folder of a finished run, or its model.safetensors.
        weights: Weights of the package in its place, by name: "kan_vgg-mnist".
        to: "onnx", for ONNX Runtime; "torch-export", for ``torch.export.load``; "aoti", compiled for this kind of CPU.
        images: What the file takes: "uint8", bytes 0 … 255, or "float", shares of full brightness in [0, 1].
        simplify: Make straight functions plain layers, and the others tables.
        form: What learnable activations become: "pieces", polynomials, the same function; "lines" or "steps", tables;
            "layers", as torch computes them. By default "pieces", with --simplify "steps".
        int8: Round weights and activations to eight bits, by ONNX Runtime's quantiser.
        samples: Training images that say how far tables reach and what can be rounded, for --simplify, tables and
            --int8; 0 for none.
        data_root: Where data sets lie; by default the environment variable CONVKAN_DATA, or ./data.
        threads: CPU threads.
        out: The file; by default ``model.onnx`` or ``model.pt2`` beside the run's weights, or NAME.onnx here.
    """

    run: str | None = None
    weights: str | None = None
    to: Literal["onnx", "torch-export", "aoti"] = "onnx"
    images: Literal["uint8", "float"] = "uint8"
    simplify: bool = False
    form: Literal["layers", "pieces", "lines", "steps"] | None = None
    int8: bool = False
    samples: int = 256
    data_root: str | None = None
    threads: int | None = None
    out: str | None = None

    def __post_init__(self) -> None:
        if self.samples < 0:
            raise ValueError(f"samples must be at least 0, got {self.samples}")
        if self.int8 and (self.to != "onnx" or not self.samples):
            raise ValueError("int8 must go with --to onnx, and with --samples of at least 1")


def main() -> None:
    """Write the file, and say what is in it."""
    config = parse(ExportConfig, __doc__)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    weights = find_weights(config.run, config.weights)
    model, description = load_classifier(weights.path)
    suffix = ENGINES[config.to].suffix
    default = weights.path.with_name(f"model{suffix}") if config.weights is None else Path(f"{config.weights}{suffix}")
    path = default if config.out is None else Path(config.out)
    if path.suffix != suffix:
        raise UserError(f"out must end in {suffix} for {config.to}, got {path}")
    needed = config.simplify or config.int8 or config.form in ("lines", "steps")
    batches = None
    if needed and config.samples:
        data = data_behind(weights, config.data_root)
        batches = training_images(data, description, config.samples).split(64)
    print(f"writing {description.model} for {config.to}", flush=True)
    started = time.perf_counter()
    options = {"to": config.to, "images": config.images, "form": config.form, "simplified": config.simplify}
    written: list[Exported] = []

    def write(partial: Path) -> None:
        written.append(export_classifier(model, description, partial, batches=batches, **options))  # type: ignore[arg-type]
        if config.int8:
            assert batches is not None
            written.append(quantize_classifier(partial, model, batches))

    write_atomically(path, write)  # or not at all: where rounding is refused, no file in floating point is left
    found = written[-1]
    height, width = description.image_size
    size = "any height and width" if found.any_size else f"{height} × {width}"
    print(f"takes {found.images} images, (batch, {description.in_channels}, height, width), {size}")
    print(f"gives logits of {len(description.class_names)} classes, whose names are in its metadata")
    if config.simplify:
        print(f"plain layers in place of straight functions: {', '.join(found.plain) or 'none'}")
    batches_of = " and ".join(map(str, found.batches))
    print(
        f"checked against torch at batches of {batches_of}: differs by {found.difference:.1e} of the greatest logit, "
        f"by {found.change:.1e} from the model as it was; {found.agreement:.0%} of answers agree"
    )
    opset = "" if found.opset is None else f", opset {found.opset}"
    seconds = time.perf_counter() - started
    print(f"{path}, {path.stat().st_size / 1000:.0f} kB{opset}, in {seconds:.0f} seconds")


if __name__ == "__main__":
    run(main)
