"""Pictures in folders as people keep them: one folder for each class, in parts or all together.

A folder of class folders is one part of the data. ``train`` (or ``training``) lies beside ``val`` (``valid``,
``validation``) or ``test`` (``testing``) or both, the names in any case; without such names all images are one part.
"""

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from convkan.training.parts import DataError, Images, Parts, split_by_class
from convkan.training.pictures import PictureFiles, is_picture

DEFAULT_SIDE = 32
PART_NAMES = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
# Left behind by notebooks, archivers, network stores and file systems; names that begin with a dot are hidden, too.
LITTER = frozenset({"__MACOSX", "__pycache__", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"})
HELD_BYTES = 2**30  # of decoded pictures, at most, are held in memory unless asked otherwise
SAMPLE = 500  # pictures looked at where not all are held
DARK = 64  # pictures that never come above this of 255 are likely 10, 12 or 14 bits in 16
ADVICE = "--data-root DIR (or CONVKAN_DATA) says which folder holds one folder of pictures for each class"

Listing = dict[str, list[Path]]  # the pictures of each class


def load_folder(root: Path, image_size: int | None, in_memory: bool | None = None) -> Parts:
    """Read the pictures under ``root``; for a part that is not there, a fifth of the training images is for testing.

    Args:
        root: The folder.
        image_size: Side to which pictures are scaled.
        in_memory: Decode all pictures now and hold them, or each when it is needed; by default the former if they take
            1 GiB at most.

    Raises:
        DataError: There are no pictures, too few, in one class only, or in folders that can be read in two ways; a part
            lacks a class of another; or a picture cannot be read.
    """
    folders, notes = find_parts(root)
    listings = {}
    for part, folder in folders.items():
        listings[part], skipped = list_pictures(folder)
        notes += skipped
    _check_classes(root, folders, listings)
    side = image_size or DEFAULT_SIDE
    size = 3 * side**2 * sum(len(found) for listing in listings.values() for found in listing.values())
    held = size <= HELD_BYTES if in_memory is None else in_memory
    images = {part: _images_of(listing, side, held) for part, listing in listings.items()}
    names = list(listings["train"])
    if "test" in images:
        train, test = images["train"], images["test"]
    else:
        kept, held_out = _hold_out_test(root, images["train"].labels, len(names))
        train, test = images["train"].select(kept), images["train"].select(held_out)
        notes.append(f"a fifth of the images in {folders['train']} is held out for testing")
    if "val" in images:
        notes.append(f"images in {folders['val']} are for validation; val_fraction is not used")
    notes.append(
        f"pictures are scaled and cut to {side} × {side} pixels"
        + ("" if image_size else ", the default: --image-size chooses another")
    )
    if not held:
        notes.append(f"pictures are decoded when they are needed: all would take {size / 2**30:.1f} GiB of memory")
    brightest = max(int(part.sample(SAMPLE).max()) for part in images.values())
    if brightest < DARK:
        notes.append(
            f"pictures are dark, the brightest value is {brightest} of 255: if they are of 10 to 14 bits in files of "
            "16, or scaled otherwise, stretch them first"
        )
    return Parts(train, test, names, images.get("val"), [_found(root, folders, listings), *notes])


def find_parts(root: Path) -> tuple[dict[str, Path], list[str]]:
    """The folder of each part, "train" always among them, and what is left aside.

    Raises:
        DataError: ``root`` cannot be listed, or its folders can be read in two ways.
    """
    folders = _folders_in(root)
    named = {part: [folder for folder in folders if folder.name.lower() in names] for part, names in PART_NAMES.items()}
    matches = [folder for found in named.values() for folder in found]
    others = [folder for folder in folders if folder not in matches]
    shown = _joined(folder.name for folder in matches)
    loose = [folder for folder in matches if _holds_pictures(folder) and not _folders_in(folder)]
    if not matches or (len(loose) == len(matches) == 1 and others):  # "train" beside "bus" is a class
        return {"train": root}, []
    if loose:
        raise DataError(
            f"{root}: {_joined(folder.name for folder in loose)} must hold one folder of pictures for each class, "
            "but pictures lie in it directly"
        )
    for found in named.values():
        if len(found) > 1:
            raise DataError(
                f"{root}: {_joined(folder.name for folder in found)} would be the same part of the data: keep one"
            )
    classes = [folder.name for folder in others if _holds_pictures(folder)]
    if classes:
        raise DataError(
            f"{root} can be read in two ways: as parts ({shown}) and as classes ({_joined(classes)}): "
            "move one of them elsewhere"
        )
    if not named["train"]:
        raise DataError(f"{root} has {shown} but no folder train to train on")
    notes = [f"not used in {root}: {_joined(folder.name for folder in others)}"] if others else []
    return {part: found[0] for part, found in named.items() if found}, notes


def list_pictures(root: Path) -> tuple[Listing, list[str]]:
    """The pictures of each class under ``root``, however deep, and notes on files left aside.

    Raises:
        DataError: There is no folder of pictures, or a folder without any.
    """
    listing: Listing = {}
    skipped: Counter[str] = Counter()
    for folder in _folders_in(root):
        found: list[Path] = []
        for place, inner, names in os.walk(folder, followlinks=True):
            inner[:] = sorted(name for name in inner if _visible(name) and not _leads_back(Path(place, name)))
            paths = [Path(place, name) for name in sorted(filter(_visible, names))]
            found += filter(is_picture, paths)
            skipped.update(path.suffix.lower() or path.name for path in paths if not is_picture(path))
        name = unicodedata.normalize("NFC", folder.name)  # the same on every file system
        listing[name] = sorted(found, key=lambda path: (str(path.parent), path.name))
    if not listing:
        raise DataError(f"{root} must hold one folder of pictures for each class, and holds no folder; {ADVICE}")
    empty = [name for name, found in listing.items() if not found]
    if empty:
        raise DataError(f"{root} holds no pictures in {_joined(empty)}: move such folders elsewhere; {ADVICE}")
    notes = []
    # Litter that the system makes is not worth a word.
    skipped = Counter({suffix: count for suffix, count in skipped.items() if suffix not in (".db", ".ini")})
    if skipped:
        kinds = _joined(f"{count} {suffix}" for suffix, count in skipped.most_common())
        notes.append(f"files in {root} not taken for pictures: {kinds}")
    loose = sum(is_picture(path) and _visible(path.name) for path in root.iterdir())
    if loose:
        notes.append(f"pictures beside the class folders of {root} are not used: {loose}")
    return listing, notes


def _check_classes(root: Path, folders: dict[str, Path], listings: dict[str, Listing]) -> None:
    """Refuse a single class, and parts whose classes differ."""
    names = set(listings["train"])
    for part, listing in listings.items():
        if set(listing) != names:
            differences = [
                f"only in {folders[one].name}: {_joined(sorted(more))}"
                for one, more in (("train", names - set(listing)), (part, set(listing) - names))
                if more
            ]
            raise DataError(
                f"{folders['train']} and {folders[part]} must hold the same classes; {'; '.join(differences)}"
            )
    if len(names) == 1:
        [only] = names
        inside = folders["train"] / only
        hint = f"; if its folders are the classes, --data-root {inside}" if _folders_in(inside) else ""
        raise DataError(f"{root} must hold at least two classes to tell apart, found only {only}{hint}")


def _hold_out_test(root: Path, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Indices of the images that stay and of a fifth, drawn evenly from the classes, for testing."""
    from sklearn.model_selection import train_test_split

    if int(labels.bincount().min()) < 2:
        raise DataError(f"{root}: every class needs at least 2 images, so that one can be for testing")
    share = max(0.2, classes / len(labels))
    kept, held_out = train_test_split(np.arange(len(labels)), test_size=share, random_state=0, stratify=labels)
    if len(np.unique(labels[held_out])) == len(np.unique(labels[kept])) == classes:
        return torch.from_numpy(kept), torch.from_numpy(held_out)
    return split_by_class(labels, share, seed=0)  # it may round a small class away


def _images_of(listing: Listing, side: int, held: bool) -> Images:
    files = PictureFiles.of((path for found in listing.values() for path in found), side)
    labels = torch.tensor([label for label, found in enumerate(listing.values()) for _ in found])
    return Images(files[:] if held else files, labels)


def _found(root: Path, folders: dict[str, Path], listings: dict[str, Listing]) -> str:
    """What was found, in words."""
    counts = {part: sum(map(len, listing.values())) for part, listing in listings.items()}
    if folders["train"] == root:
        where = f"{counts['train']} images in {root}"
    else:
        where = f"in {root}: " + _joined(f"{counts[part]} images in {folder.name}" for part, folder in folders.items())
    totals = Counter({name: sum(len(listing[name]) for listing in listings.values()) for name in listings["train"]})
    return f"{where}, of {len(totals)} classes: {_joined(f'{name} {count}' for name, count in totals.items())}"


def _folders_in(root: Path) -> list[Path]:
    try:
        return sorted(path for path in root.iterdir() if _visible(path.name) and path.is_dir())
    except OSError as error:
        raise DataError(
            f"{root} must be a folder of pictures, but cannot be listed ({error.strerror}); {ADVICE}"
        ) from error


def _holds_pictures(folder: Path) -> bool:
    return any(is_picture(path) and _visible(path.name) for path in folder.iterdir())


def _leads_back(folder: Path) -> bool:
    """Whether a folder is a link to one that it lies in, and so would be found in itself without end."""
    return folder.is_symlink() and folder.resolve() in (parent.resolve() for parent in folder.parents)


def _visible(name: str) -> bool:
    return not name.startswith(".") and name not in LITTER


def _joined(words: Iterable[str], most: int = 20) -> str:
    """Words in a row, of very many the first."""
    found = list(words)
    return ", ".join(found[:most]) + (f", and {len(found) - most} more" if len(found) > most else "")
