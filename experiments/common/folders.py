"""Folders that one process at a time writes into."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from filelock import FileLock, Timeout

from convkan.files import PARTIAL
from experiments.common.cli import UserError

LOCK = ".lock"


def new_folder(root: Path, stem: str) -> Path:
    """Make a folder in ``root`` named after ``stem`` and the time, and numbered where another process was quicker.

    Raises:
        OSError: It cannot be made.
    """
    stem = f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    for number in count(2):
        folder = root / stem
        try:
            folder.mkdir(parents=True)  # the moment at which the name is taken
        except FileExistsError:
            if not folder.is_dir():  # a file stands where a folder is to be
                raise
            stem = f"{stem.removesuffix(f'+{number - 1}')}+{number}"
        else:
            return folder
    raise AssertionError("numbers do not end")


def is_used(folder: Path) -> bool:
    """Whether there is more in a folder, or another thing in its place, than one killed before it began leaves."""
    return not folder.is_dir() or any(
        path.name != LOCK and not path.name.startswith(PARTIAL) for path in folder.iterdir()
    )


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Have ``folder`` for this process alone within a ``with`` block, in which it is made if need be.

    The claim ends with the process, however that ends. A folder in which nothing was written is removed again.

    Raises:
        UserError: Another process has claimed it.
        OSError: It cannot be made.
    """
    with tidy(folder.parent):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK, blocking=False)
        try:
            lock.acquire()
        except Timeout:
            raise UserError(f"another process is writing into {folder}: wait for it, or choose another") from None
        try:
            yield
        finally:
            with suppress(OSError):  # where open files cannot be removed, it stays: a file that says nothing
                Path(lock.lock_file).unlink()
            lock.release()
            _remove_if_empty(folder)


@contextmanager
def tidy(folder: Path) -> Iterator[None]:
    """Remove ``folder``, and those above it, if they are made in a ``with`` block and empty at its end."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    finally:
        for path in made:
            _remove_if_empty(path)


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):  # it is not, or is gone
        folder.rmdir()
