"""Writing files so that a half-written one never takes the place of a good one."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

# What a system says when nothing can be written, without saying where: the disk, a quota or a file is full or fails.
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}

PARTIAL = ".partial-"  # what the name of a file begins with while it is written


@contextmanager
def naming(path: str | os.PathLike[str], stand_in: str | os.PathLike[str] | None = None) -> Iterator[None]:
    """Within a ``with`` block, have the errors of a full disk name a file if they name none.

    Args:
        path: The file.
        stand_in: A file whose name means nothing to a user: ``path`` is named in its place, too.

    Raises:
        OSError: One that named none, with the path.
    """
    try:
        yield
    except OSError as error:
        nameless = error.filename is None and error.errno in FULL
        if nameless or (stand_in is not None and error.filename == os.fspath(stand_in)):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def write_atomically(path: str | os.PathLike[str], write: Callable[[Path], object]) -> Path:
    """Have ``write`` fill a temporary neighbour of ``path``, then put it in place in one step.

    The neighbour keeps the suffix, by which many writers choose a format. If ``write`` fails (a full disk, say),
    what stood at ``path`` is left as it was and the neighbour is removed.

    Args:
        path: The file to replace or make; its folder is made if need be.
        write: Called with the temporary path.

    Returns:
        ``path``.

    Raises:
        OSError: The file cannot be written; the message names it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{PARTIAL}{os.getpid()}-{path.name}")
    try:
        with naming(path, stand_in=partial):
            partial.touch()
            mode = partial.stat().st_mode
            write(partial)
            partial.chmod(mode)  # some writers make files that only their owner may read
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Write text in UTF-8, whatever the locale, in one step.

    Raises:
        OSError: It cannot be written; the message names the path.
    """
    return write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def remove_partial(folder: str | os.PathLike[str]) -> list[Path]:
    """Remove what processes that were killed had half written in a folder into which no other writes now.

    Returns:
        What was removed.

    Raises:
        OSError: It cannot be removed.
    """
    found = [path for path in Path(folder).rglob(f"{PARTIAL}*") if path.is_file()]
    for path in found:
        path.unlink(missing_ok=True)
    return found
