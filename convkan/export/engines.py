"""The engines that a classifier is exported to: how each writes a file, what it keeps with it, and how it runs one.

Of each engine there are three functions: one writes a program to a path, one adds texts to that file, one opens it and
returns what runs it. What they need is imported when it is first used.
"""

import logging
import os
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

OPSET = 20  # of ONNX: the first with an operator for GELU, and read by ONNX Runtime from 1.17 on
INPUT, OUTPUT = "images", "logits"
PLAIN_DOMAINS = ("", "ai.onnx")

Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Engine:
    """What can run an exported file.

    Attributes:
        suffix: Of its files.
        write: Writes a program to a path.
        keep: Adds texts to a file.
        load: Opens a file, for so many threads where the engine has threads of its own.
    """

    suffix: str
    write: Callable[[ExportedProgram, Path], None]
    keep: Callable[[Path, Mapping[str, str]], None]
    load: Callable[[Path, int | None], Run]


def _write_onnx(program: ExportedProgram, path: Path) -> None:
    require("onnx", "onnxscript", "onnxruntime")
    import onnx

    try:
        with _quietly():
            found = torch.onnx.export(
                program,
                dynamo=True,
                input_names=[INPUT],
                output_names=[OUTPUT],
                opset_version=OPSET,
                verbose=False,
            )
            assert found is not None
            model = found.model_proto
    except torch.onnx.errors.OnnxExporterError as error:
        lacking = re.findall(r"op='([\w.]+)'", str(error))
        reason = f"it has no {lacking[0]}" if lacking else " ".join(str(error).split())
        raise ValueError(f"model must be made of operations that ONNX has: {reason}") from error
    foreign = {node.domain for node in model.graph.node} - set(PLAIN_DOMAINS)
    if foreign:
        raise ValueError(f"model must be made of operations that ONNX has; these are of {', '.join(foreign)}")
    _name_sizes(model)
    onnx.checker.check_model(model)
    onnx.save(model, os.fspath(path))


def _name_sizes(model: Any) -> None:
    """Call what may have any size by what it is, wherever it occurs alone."""
    sizes = model.graph.input[0].type.tensor_type.shape.dim
    names = {size.dim_param: name for size, name in zip(sizes, ("batch", "channels", "height", "width"), strict=False)}
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param in names and size.dim_param:
                size.dim_param = names[size.dim_param]


def _keep_in_onnx(path: Path, texts: Mapping[str, str]) -> None:
    import onnx

    model = onnx.load(os.fspath(path))
    kept = {entry.key: entry.value for entry in model.metadata_props} | dict(texts)
    onnx.helper.set_model_props(model, kept)
    onnx.save(model, os.fspath(path))


def _open_onnx(path: Path, threads: int | None) -> Run:
    require("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    lacks = onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented
    try:
        session = onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
    except lacks as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"model must be of operations and a dtype that ONNX Runtime has: {reason}") from error
    name = session.get_inputs()[0].name

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {name: images.numpy()})[0])

    return run


def _write_program(program: ExportedProgram, path: Path) -> None:
    with _quietly():
        torch.export.save(program, os.fspath(path))


def _open_program(path: Path, threads: int | None) -> Run:
    with _quietly():
        return torch.no_grad()(torch.export.load(os.fspath(path)).module().forward)


def _write_aoti(program: ExportedProgram, path: Path) -> None:
    with _quietly(), torch.no_grad():
        torch._inductor.aoti_compile_and_package(program, package_path=os.fspath(path))


def _open_aoti(path: Path, threads: int | None) -> Run:
    with _quietly():
        module = torch._inductor.aoti_load_package(os.fspath(path))
    return torch.no_grad()(lambda images: module(images))


def _keep_in_archive(path: Path, texts: Mapping[str, str]) -> None:
    """In a folder of their own, as torch keeps extra files."""
    with zipfile.ZipFile(path, "a") as archive:
        root = archive.namelist()[0].partition("/")[0]
        for name, text in texts.items():
            archive.writestr(f"{root}/extra/{name}", text)


ENGINES: dict[str, Engine] = {
    "onnx": Engine(".onnx", _write_onnx, _keep_in_onnx, _open_onnx),
    "torch-export": Engine(".pt2", _write_program, _keep_in_archive, _open_program),
    "aoti": Engine(".pt2", _write_aoti, _keep_in_archive, _open_aoti),
}


def kept_texts(path: Path) -> dict[str, str]:
    """The texts that are kept in a file of any engine.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is of no engine's kind, or damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    if path.suffix == ".onnx":
        require("onnx")
        import onnx
        from google.protobuf.message import DecodeError

        try:
            model = onnx.load(os.fspath(path))
        except DecodeError as error:
            raise ValueError(f"{path} is not a readable ONNX file: {error}") from error
        return {entry.key: entry.value for entry in model.metadata_props}
    try:
        with zipfile.ZipFile(path) as archive:
            extra = {name: name.partition("/extra/")[2] for name in archive.namelist()}
            return {kept: archive.read(name).decode() for name, kept in extra.items() if kept}
    except (zipfile.BadZipFile, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a readable archive of torch's: {error}") from error


def require(*packages: str) -> None:
    """Raise, with what to do, unless these packages are there.

    Raises:
        ModuleNotFoundError: One is not.
    """
    for package in packages:
        try:
            __import__(package)
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"ONNX files need the package {package}, which is not installed: pip install 'convkan-vision[export]'"
            ) from error


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what the exporters say of their own parts."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
