"""A classifier written for another engine, and checked against torch before the file is there."""

import json
import os
from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from convkan.export.classifier import ImageClassifier, Images, drawn_images, raw_images
from convkan.export.engines import ENGINES, OPSET, Run
from convkan.export.lowering import Form, check_form, lowered
from convkan.files import write_atomically
from convkan.interop import simplify
from convkan.models import Description
from convkan.models.saved import KEY

EXPORT_KEY = "convkan_export"
BATCHES = (1, 3)  # sizes of those by which a file is checked
MORE = (8, 16)  # pixels by which images of another size are larger
EXPORTED = 2  # images that a program is traced with: one would be taken for a size that never changes
# How far a file may be from torch, relative to the greatest logit. Where functions are steps, a rounding error can take
# a number to the next.
CLOSE, ROUGH = 1e-3, 0.2


@dataclass(frozen=True)
class Exported:
    """A file for another engine.

    Attributes:
        to: The engine, a name in ``ENGINES``.
        images: What it takes: "uint8", bytes, or "float", shares of full brightness; see ``ImageClassifier``.
        form: What learnable activations are in it; see ``convkan.export.lowered``.
        any_size: Whether images may have any size; else that of the description.
        plain: The layers that became plain ones, if it was simplified.
        opset: Of ONNX, else None.
        batches: Sizes of the batches by which it was checked.
        difference: The greatest difference of its logits from those of what was exported, as torch evaluates it,
            relative to the greatest logit.
        change: The same from the model itself, whose functions may have been simplified.
        agreement: The share of images whose answer is the model's.
        int8: Whether its weights and activations are integers of eight bits.
    """

    to: str
    images: Images
    form: Form
    any_size: bool
    plain: list[str]
    opset: int | None
    batches: tuple[int, ...]
    difference: float
    change: float
    agreement: float
    int8: bool = False


@torch.no_grad()
def export_classifier(
    model: nn.Module,
    description: Description,
    path: str | os.PathLike[str],
    *,
    to: str = "onnx",
    images: Images = "uint8",
    form: Form | None = None,
    simplified: bool = False,
    batches: Iterable[Tensor] | None = None,
) -> Exported:
    """Write a classifier for another engine, normalisation and class names included.

    The file takes images (batch, channels, height, width) and returns logits (batch, classes); batches of any size, and
    images of any size where the model takes such. Its metadata hold the description and the ``Exported`` returned.

    Args:
        model: The model; it is left as it is.
        description: What it was trained as.
        path: Where to; it is written in one step, after the check.
        to: "onnx": for ONNX Runtime and others, standard operators alone. "torch-export": for ``torch.export.load``.
            "aoti": machine code for this kind of CPU, compiled by AOTInductor, which takes minutes.
        images: What the file is to take: "uint8", bytes, or "float", shares of full brightness in [0, 1].
        form: What to make of learnable activations; see ``lowered``. By default "pieces", or "steps" if simplified.
        simplified: Put plain layers in place of those whose functions are straight, as ``convkan.simplify`` does.
        batches: A few batches of normalised images, which say what functions are given: for ``simplified``, and for how
            far tables reach.

    Raises:
        ValueError: A name is unknown, the engine lacks an operation, or the file does not compute what the model does.
        ModuleNotFoundError: The engine is not installed.
        OSError: The file cannot be written; what stood there is left as it was.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from convkan.models import create_model
        >>> description = Description("plain_cnn", 1, (8, 8), ["a", "b"], [0.5], [0.5], {"widths": [2]})
        >>> with TemporaryDirectory() as folder:
        ...     found = export_classifier(description.create(), description, f"{folder}/model.pt2", to="torch-export")
        >>> found.any_size, found.difference < 1e-6
        (True, True)
    """
    if to not in ENGINES:
        raise ValueError(f"to must be one of {', '.join(ENGINES)}; got {to!r}")
    form = form or ("steps" if simplified else "pieces")
    check_form(form)
    engine, path = ENGINES[to], Path(path)
    if path.suffix != engine.suffix:
        raise ValueError(f"path must end in {engine.suffix} for {to}, got {path}")
    given = None if batches is None else list(batches)
    whole = ImageClassifier(deepcopy(model), description, images).eval()
    network, plain = model, []
    if simplified:
        found = simplify(model, given)
        network, plain = found.model, list(found.layers)
    module = ImageClassifier(lowered(network, form, given).cpu(), description, images).eval()
    any_size = takes_any_size(module, description, images)
    example, shown = drawn_images(description, EXPORTED, images), shown_images(given, description, images)
    written: list[Exported] = []

    def write(partial: Path) -> None:
        nonlocal any_size
        try:
            engine.write(traced(module, example, any_size), partial)
        except ValueError:
            if not any_size:
                raise
            any_size = False  # ONNX pads the output of a transposed convolution by numbers that are known
            engine.write(traced(module, example, any_size), partial)
        figures = compared(engine.load(partial, None), module, whole, shown, any_size)
        opset = OPSET if to == "onnx" else None
        result = Exported(to, images, form, any_size, plain, opset, BATCHES, **figures)
        check(result)
        engine.keep(partial, texts(description, result))
        written.append(result)

    write_atomically(path, write)
    return written[0]


def texts(description: Description, result: Exported) -> dict[str, str]:
    """What a file's metadata say of it."""
    return {
        KEY: json.dumps(description.to_config(), ensure_ascii=False),
        EXPORT_KEY: json.dumps(asdict(result) | {"torch": torch.__version__}),
    }


def shown_images(batches: Sequence[Tensor] | None, description: Description, images: Images) -> Tensor:
    """Images to check a file by, as many as the greatest of ``BATCHES``: of batches, again if too few, or of noise."""
    count = max(BATCHES)
    if not batches:
        return drawn_images(description, count, images)
    found = raw_images(batches[0][:count], description, images)
    return found[torch.arange(count) % len(found)]


def takes_any_size(module: nn.Module, description: Description, images: Images) -> bool:
    """Whether a classifier takes images of another size than it was trained on."""
    try:
        module(_larger(drawn_images(description, 1, images)))
    except (RuntimeError, ValueError):
        return False
    return True


def _larger(images: Tensor) -> Tensor:
    """Images of another size, by repeating rows and columns."""
    rows, columns = (
        torch.arange(side + more) * side // (side + more) for side, more in zip(images.shape[2:], MORE, strict=True)
    )
    return images[:, :, rows][..., columns]


def traced(module: nn.Module, example: Tensor, any_size: bool) -> ExportedProgram:
    """The program of a module, for batches of any size, and images of any size or of the example's.

    Raises:
        ValueError: It cannot be traced.
    """
    sizes: dict[int, Any] = {0: Dim.DYNAMIC} | ({2: Dim.AUTO, 3: Dim.AUTO} if any_size else {})
    return torch.export.export(module, (example,), dynamic_shapes=(sizes,))


class Figures(TypedDict):
    """How near a file is, as ``Exported`` has it."""

    difference: float
    change: float
    agreement: float


def compared(run: Run, module: nn.Module, whole: nn.Module, shown: Tensor, any_size: bool) -> Figures:
    """What a file's logits differ by from those of the module that was exported, and of the whole model.

    Args:
        run: The file.
        module: What was exported.
        whole: The model, normalisation included.
        shown: Images, as many as the greatest of ``BATCHES``.
        any_size: Show them in another size, too.
    """
    device = next((parameter.device for parameter in whole.parameters()), torch.device("cpu"))
    off, changes, same = [], [], []
    for index, count in enumerate(BATCHES):
        given = shown[-count:]
        given = _larger(given) if any_size and index else given
        found, expected, before = run(given), module(given), whole(given.to(device)).cpu()
        off.append(_relative(found, expected))
        changes.append(_relative(found, before))
        same.append((found.argmax(1) == before.argmax(1)).double().mean().item())
    return {"difference": max(off), "change": max(changes), "agreement": sum(same) / len(same)}


def _relative(found: Tensor, expected: Tensor) -> float:
    """The greatest difference, relative to the greatest number."""
    size = expected.abs().amax().clamp_min(1e-6)
    return ((found - expected).abs().amax() / size).item()


def check(result: Exported) -> None:
    """Raise unless a file computes what was exported, and that is close to the model.

    Raises:
        ValueError: It does not, or is not.
    """
    jumps = result.form == "steps" or result.int8
    changed = jumps or result.form == "lines" or bool(result.plain)
    for what, off, bound in (
        ("what was exported", result.difference, ROUGH if jumps else CLOSE),
        ("the model", result.change, ROUGH if changed else CLOSE),
    ):
        if not off <= bound:
            raise ValueError(
                f"the file must compute what torch does, to {bound:g} of the greatest logit, but differs by {off:.1e} "
                f"from {what}: it was not written"
            )
