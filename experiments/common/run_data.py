"""The images a run began with: noted in its folder, and looked up when it goes on."""

import json
from pathlib import Path

from convkan.training import ImageData, write_atomically
from experiments.common.cli import UserError

NAME = "data.json"


def note_data(folder: Path, data: ImageData) -> None:
    """Leave in a run's folder how many images of each class its parts have."""
    text = json.dumps({"dataset": data.dataset, "images": data.counts()}, indent=1, ensure_ascii=False)
    write_atomically(folder / NAME, lambda partial: partial.write_text(text, encoding="utf-8"))


def check_data(folder: Path, data: ImageData) -> None:
    """Refuse to go on with a run on other images than it began with; one that noted none is trusted.

    Raises:
        UserError: The classes, or how many images of them there are, have changed.
    """
    path = folder / NAME
    if not path.exists():
        return
    before, now = json.loads(path.read_text(encoding="utf-8"))["images"], data.counts()
    for part, counts in now.items():
        if list(counts) != list(before[part]):
            differing = ", ".join(sorted({*counts} ^ {*before[part]})) or "another order"
            raise UserError(f"{folder} began with other classes than {data.root} has now: {differing}")
        changed = [f"{name} {before[part][name]} then, {count} now" for name, count in counts.items()
                   if count != before[part][name]]  # fmt: skip
        if changed:
            raise UserError(f"{folder} began with other images than {data.root} has now: in {part}, {changed[0]}")
