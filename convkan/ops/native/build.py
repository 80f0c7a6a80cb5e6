"""Builds the kernels with the machine's C++ compiler: at the first use, which takes some seconds, once a machine.

The library is put in a folder of the user's, ``$CONVKAN_CACHE`` or else ``convkan`` in the folder for caches, under a
name made from the source, the compiler and the instructions of the processor, so that an upgrade or another processor
builds its own.
"""

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch

CACHE_VARIABLE = "CONVKAN_CACHE"
DISABLING_VARIABLE = "CONVKAN_COMPILE"
SOURCES = Path(__file__).parent
SECONDS = 120  # after which a compiler is given up
# No flag may change what NaN and infinity mean.
FLAGS = ("-std=c++17", "-O3", "-shared", "-fPIC", "-ffp-contract=fast", "-Wno-psabi")
INSTRUCTIONS = {
    "AVX2": ("-mavx2", "-mfma"),
    "AVX512": ("-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mavx2", "-mfma"),
}

# As in splines.h.
EXTRAPOLATIONS = {"zero": 0, "clamp": 1, "linear": 2}

# Whoever wants to hear of a library that is built: each is called with True before, and with False after.
LISTENERS: list[Callable[[bool], None]] = []

_enabled = os.environ.get(DISABLING_VARIABLE, "1") != "0"
_log = logging.getLogger(__name__)


def is_enabled() -> bool:
    """Whether kernels may be built and used."""
    return _enabled


@contextmanager
def native_kernels(enabled: bool) -> Iterator[None]:
    """Allow, or forbid, the kernels within a ``with`` block."""
    global _enabled
    before, _enabled = _enabled, enabled
    try:
        yield
    finally:
        _enabled = before


@cache
def library(source: str, order: int, extrapolation: str | None = None, double: bool = False) -> ctypes.CDLL | None:
    """The kernels of a source for splines of one kind, built where they are not; None where they cannot be."""
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None or platform.system() == "Windows":
        _log.info("no C++ compiler: kernels are not built")
        return None
    try:
        return ctypes.CDLL(str(_built(shlex.split(compiler), source, order, extrapolation, double)))
    except (OSError, subprocess.SubprocessError, ValueError, RuntimeError) as error:  # the last: there is no home
        _log.info("kernels are not built: %s", getattr(error, "stderr", None) or error)
        return None


def _built(
    compiler: list[str], source: str, order: int, extrapolation: str | None = None, double: bool = False
) -> Path:
    """The file of the library; it is there whole or not at all, however many processes build it."""
    flags = [*FLAGS, *INSTRUCTIONS.get(torch.backends.cpu.get_cpu_capability(), ()), f"-DCONVKAN_ORDER={order}"]
    if extrapolation is not None:
        flags.append(f"-DCONVKAN_EXTRAPOLATION={EXTRAPOLATIONS[extrapolation]}")
    flags += ["-DCONVKAN_DOUBLE"] if double else []
    version = subprocess.run([*compiler, "--version"], capture_output=True, check=True, timeout=SECONDS).stdout
    name = hashlib.sha256(_sources() + version + " ".join([*compiler, *flags]).encode()).hexdigest()[:16]
    kind = [source, f"order{order}", extrapolation, "double" if double else None, name]
    path = _folder() / ("-".join(filter(None, kind)) + ".so")
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with _told(), tempfile.TemporaryDirectory(dir=path.parent) as folder:
        partial = Path(folder, path.name)
        for threads in (["-fopenmp"], []):  # a compiler without OpenMP makes kernels for one thread
            command = [*compiler, *flags, *threads, str(SOURCES / f"{source}.cpp"), "-o", str(partial)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=not threads)
            if done.returncode == 0:
                break
        partial.replace(path)
    return path


@contextmanager
def _told() -> Iterator[None]:
    listeners = list(LISTENERS)
    for listener in listeners:
        listener(True)
    try:
        yield
    finally:
        for listener in listeners:
            listener(False)


def _sources() -> bytes:
    """All that is compiled."""
    return b"".join(path.read_bytes() for path in sorted(SOURCES.iterdir()) if path.suffix in (".h", ".cpp"))


def _folder() -> Path:
    """Where libraries are kept."""
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "convkan"
