"""What scripts have in common that fit, record and draw; a study says only what is its own.

It is filled cell by cell. After each the record is written, so that one that was stopped goes on where it was.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, replace
from itertools import count
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from matplotlib.figure import Figure

from convkan.training import write_atomically, write_text
from experiments.common.cli import parse
from experiments.common.folders import claimed
from experiments.common.progress import StudyProgress
from experiments.common.records import environment, read_record, write_record

Config = TypeVar("Config", bound=Any)  # a dataclass with the options ``out`` and ``quick``
Record = dict[str, Any]
# Options that say where things are, and change no result; of a run that was studied, its name is kept.
WHERE = ("out", "data_root")


@dataclass(frozen=True)
class Cell:
    """A piece of a study that is done in one go, kept when it is done, and then not done again.

    Attributes:
        title: What the progress says meanwhile.
        run: Does it, and returns what the record is to hold, in terms of JSON.
        place: Where in the record: the keys of mappings, and last, for an item of a list, its index: lists fill in
            order. None if ``run`` writes into the record by itself.
        steps: How many it counts for; ``run`` may tell of each by ``Work.advance``.
        done: Whether it was done before, for a cell without a place.
    """

    title: str
    run: Callable[[], Any]
    place: tuple[str | int, ...] | None
    steps: int = 1
    done: bool = False

    def is_in(self, record: Record) -> bool:
        """Whether the record has it."""
        if self.place is None:
            return self.done
        found: Any = record
        for key in self.place:
            try:
                found = found[key]
            except (KeyError, IndexError):
                return False
        return True

    def put(self, value: Any, record: Record) -> None:
        """Put what was found into the record, as it will be read back."""
        if self.place is None:
            return
        *path, last = self.place
        part: Any = record
        for key, following in zip(path, self.place[1:], strict=True):
            part = part.setdefault(key, [] if isinstance(following, int) else {})
        value = json.loads(json.dumps(value))
        if isinstance(last, int):
            part.append(value)
        else:
            part[last] = value


@dataclass(frozen=True)
class Work(Generic[Config]):
    """What cells are made of.

    Attributes:
        config: The configuration, quick settings and all.
        record: What was found so far.
        advance: To be called after each step of a cell that has several.
    """

    config: Config
    record: Record
    advance: Callable[[], None]


@dataclass(frozen=True)
class Study(Generic[Config]):
    """A study, by what is its own.

    Attributes:
        name: Its record, table and picture are NAME.json, NAME.md and NAME.png.
        description: The script's docstring.
        config: Its options, a dataclass. Of these ``out`` and ``quick`` must be there; ``threads`` are a single one
            unless there is such an option, and ``device`` is the CPU.
        quick: The options that ``--quick`` changes, and to what, unless they are given themselves.
        stages: For each stage, its cells; a stage is asked for them when the one before is done.
        table: Makes Markdown of the record.
        draw: Makes a picture of the record.
        complete: Gives the configuration with what the user left open filled in.
        about: What the record is to say at its top of what is studied, where that is not in the configuration.
    """

    name: str
    description: str | None
    config: type[Config]
    quick: Mapping[str, Any]
    stages: Sequence[Callable[[Work[Config]], Iterable[Cell]]]
    table: Callable[[Record], str]
    draw: Callable[[Record], Figure]
    complete: Callable[[Config], Config] = lambda config: config
    about: Callable[[Config], Record] = field(default=lambda config: {})

    def main(self) -> None:
        """Read the command line; run what is not done yet; leave the record, the table and the picture."""
        config = parse(self.config, self.description)
        with claimed(Path(config.out)):
            self.run(config)

    def run(self, config: Config) -> Record:
        """Run what is not done yet of a configuration; returns the record."""
        if config.quick:
            left_open = [option.name for option in fields(config) if getattr(config, option.name) == _default(option)]
            config = replace(config, **{name: value for name, value in self.quick.items() if name in left_open})
        config = self.complete(config)
        torch.set_num_threads(getattr(config, "threads", 1))
        path = Path(config.out) / f"{self.name}.json"
        record = self._begun(config, path)
        with StudyProgress() as progress:
            for stage in self.stages:
                self._fill(stage, config, record, path, progress)
        self._report(record, path)
        return record

    def _begun(self, config: Config, path: Path) -> Record:
        """The record on disk if it is of the same configuration and commit, else a new one, and that is put aside."""
        device = torch.device(getattr(config, "device", "cpu"))
        about = self.about(config)
        record = {"config": settings_of(config), **about, **environment(device)}
        if path.exists():
            earlier = read_record(path)
            if all(earlier.get(key) == record[key] for key in ("config", "git_commit", *about)):
                return earlier
            kept = next(other for n in count(1) if not (other := path.with_name(f"{path.stem}-{n}.json")).exists())
            path.rename(kept)
            print(f"{path} is of other settings or another commit: kept as {kept}")
        return record

    def _fill(
        self,
        stage: Callable[[Work[Config]], Iterable[Cell]],
        config: Config,
        record: Record,
        path: Path,
        progress: StudyProgress,
    ) -> None:
        bar = progress.add_task(self.name)
        cells = list(stage(Work(config, record, lambda: progress.advance(bar))))
        done = sum(cell.steps for cell in cells if cell.is_in(record))
        progress.update(bar, total=sum(cell.steps for cell in cells), completed=done)
        for cell in cells:
            if not cell.is_in(record):
                progress.update(bar, description=cell.title)
                cell.put(cell.run(), record)
                write_record(path, record)
                done += cell.steps
                progress.update(bar, completed=done)

    def _report(self, record: Record, path: Path) -> None:
        table, figure = self.table(record), self.draw(record)
        pages, picture = path.with_suffix(".md"), path.with_suffix(".png")
        write_text(pages, table + "\n")
        write_atomically(picture, lambda partial: figure.savefig(partial, format="png"))
        print(table)
        print(f"record {path}, table {pages}, plot {picture}")


def _default(option: Field[Any]) -> Any:
    return option.default if option.default_factory is MISSING else option.default_factory()


def settings_of(config: Any) -> Record:
    """What a record says of a configuration: all but where things are, as JSON has it."""
    settings = {name: value for name, value in asdict(config).items() if name not in WHERE}
    if "run" in settings:
        settings["run"] = Path(settings["run"]).name
    found: Record = json.loads(json.dumps(settings))
    return found
