"""Exported files rounded to integers of eight bits, by ONNX Runtime's quantiser."""

import json
import os
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from convkan.export.classifier import ImageClassifier, raw_images
from convkan.export.engines import ENGINES, INPUT, require
from convkan.export.loading import load_exported
from convkan.export.writing import EXPORT_KEY, Exported, check, compared, shown_images
from convkan.files import write_atomically


@torch.no_grad()
def quantize_classifier(path: str | os.PathLike[str], model: nn.Module, batches: Iterable[Tensor]) -> Exported:
    """Round the convolutions and linear layers of an exported ONNX file to eight bits, in place.

    Weights are rounded by output channel, what they are multiplied with by its range in the batches; functions of KAN
    layers stay in float32.

    Args:
        path: A file of ``export_classifier`` for "onnx".
        model: The model that it was made of, to compare with.
        batches: A few batches of normalised images.

    Raises:
        ValueError: The file is none such or was rounded before, there are no batches, or what it would compute is not
            close to the model.
        ModuleNotFoundError: ONNX Runtime is not installed.
        OSError: The file cannot be written.
    """
    require("onnx", "onnxruntime")
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    path = Path(path)
    exported = load_exported(path)
    description, details = exported.description, exported.details
    if details.to != "onnx":
        raise ValueError(f"path must be of a file for onnx, got one for {details.to}: {path}")
    if details.int8:
        raise ValueError(f"path must be of a file in floating point, got one in integers: {path}")
    batches = list(batches)
    if not batches:
        raise ValueError("batches must hold at least one, got none")
    whole = ImageClassifier(deepcopy(model), description, details.images).eval()
    given = [raw_images(batch, description, details.images) for batch in batches]
    shown = shown_images(batches, description, details.images)

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(given)

        def get_next(self) -> dict[str, object] | None:
            batch = next(self.left, None)
            return None if batch is None else {INPUT: batch.numpy()}

    written: list[Exported] = []

    def write(partial: Path) -> None:
        with TemporaryDirectory() as folder:
            prepared = os.fspath(Path(folder) / "prepared.onnx")
            quant_pre_process(os.fspath(path), prepared, skip_symbolic_shape=True)
            quantize_static(
                prepared,
                os.fspath(partial),
                Reader(),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=["Conv", "Gemm", "MatMul"],
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                extra_options={"WeightSymmetric": True, "ActivationSymmetric": False},
                # Two products of eight bits overflow the sixteen that older processors add them in.
                reduce_range=True,
            )
        run = ENGINES["onnx"].load(partial, None)
        figures = compared(run, whole, whole, shown, False)
        result = replace(details, int8=True, **figures)
        check(result)
        ENGINES["onnx"].keep(partial, {EXPORT_KEY: json.dumps(asdict(result) | {"torch": torch.__version__})})
        written.append(result)

    write_atomically(path, write)
    return written[0]
