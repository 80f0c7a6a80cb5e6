"""What a comparison consists of, as read from a YAML file."""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from math import inf
from pathlib import Path
from typing import Any, Literal, get_type_hints

import yaml

from convkan.models import list_models, model_options, twin
from convkan.training.datasets import DATASETS
from experiments.common.cli import UserError
from experiments.common.train_config import TrainConfig
from experiments.compare.checking import check_names, checked
from experiments.compare.plugins import check_named, import_plugins

Measure = Literal["parameters", "multiply_adds", "step_time"]  # of a model: what its width is chosen by
Matched = Literal["parameters", "multiply_adds", "step_time", "time"]
# What a suite decides for every run, and an entry may not.
RESERVED = (
    *("dataset", "model", "model_options", "seed", "test", "data_root"),
    *("runs_root", "run_name", "resume", "on_resume", "continued"),
)
# What of a recipe changes how long steps take, or how many there are, and its values that do not.
STEADY: dict[str, Any] = {"refine": {}, "adapt_every": 0, "early_stopping": None, "devices": 1}


@dataclass(frozen=True)
class Match:
    """What is made equal: a size, by each entry's ``width``; the time of training, by its epochs; or both.

    Attributes:
        by: "parameters", "multiply_adds" or "step_time" (milliseconds of a training step, measured), whose ``target``
            each entry comes closest to; "time", for epochs by which all train for as long, as measured; or a list of
            "time" and one of the others.
        target: The size to come closest to. Entries that give a width keep it.
        seconds: For "time", how long each run trains; by default as long as the slowest entry does in its own epochs.
    """

    by: Matched | list[Matched]
    target: float | None = None
    seconds: float | None = None

    @property
    def names(self) -> tuple[Matched, ...]:
        """All that is made equal."""
        return tuple(self.by) if isinstance(self.by, list) else (self.by,)

    @property
    def size(self) -> Measure | None:
        """The measure that widths are chosen by, if there is one."""
        return next((name for name in self.names if name != "time"), None)

    @property
    def time(self) -> bool:
        """Whether epochs are chosen by time."""
        return "time" in self.names


@dataclass(frozen=True)
class Search:
    """Hyper-parameters tried for each entry on the validation part, the same number for all.

    Attributes:
        trials: Configurations tried for each entry and data set, the first being the entry's own. One whose loss
            becomes infinite is never the best.
        epochs: Epochs of a trial.
        train_fraction: Share of the training part that a trial sees.
        space: For each option of the training script, and for each option of a model (where it has it), a list of
            choices, or a range, {low: …, high: …}, on a logarithmic scale unless ``log: false`` is in it; of whole
            numbers where both ends are and the option takes no fractions.
        seed: Seed of the search.
    """

    trials: int
    epochs: int
    train_fraction: float = 1.0
    space: dict[str, Any] = field(default_factory=dict)
    seed: int = 0


@dataclass(frozen=True)
class Entry:
    """One row of the comparison.

    Attributes:
        name: How the report calls it.
        model: A registered model.
        options: Options of the model.
        recipe: Options of the training script that differ from the suite's.
        against: Names of the entries it is compared with, pair by pair; by default every plain one of the suite if
            this one is a KAN.
        published: Figures from elsewhere to print beside ours: ``accuracy`` in percent, ``source``, ….
    """

    name: str
    model: str
    options: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    against: list[str] | None = None
    published: dict[str, Any] = field(default_factory=dict)

    @property
    def is_plain(self) -> bool:
        """Whether it is an ordinary CNN."""
        return twin(self.model) == self.model

    @property
    def slug(self) -> str:
        """The name as part of a file's name."""
        return "".join(c if c.isalnum() else "-" for c in self.name).strip("-").lower()


@dataclass(frozen=True)
class Suite:
    """A comparison.

    Attributes:
        name: Name of its folder.
        title: First line of the report.
        datasets: Names of data sets, or of folders of images.
        seeds: One run each, for each entry and data set.
        entries: What is compared.
        recipe: Options of the training script for all.
        match: What is made equal; None to take the entries as they are.
        search: How hyper-parameters are chosen; None to take the recipe as it is.
        test: Whether final runs touch the test set. A suite by which something is to be chosen leaves it alone, and is
            judged on the validation part.
        plugins: Modules of the user's own to import first, whose models and data sets may then be named.
        folders: Folders of images, one within for each class, by the name as which ``datasets`` has them. Relative
            ones lie beside the suite.
    """

    name: str
    title: str
    datasets: list[str]
    seeds: list[int]
    entries: list[Entry]
    recipe: dict[str, Any] = field(default_factory=dict)
    match: Match | None = None
    search: Search | None = None
    test: bool = True
    plugins: list[str] = field(default_factory=list)
    folders: dict[str, str] = field(default_factory=dict)

    def entry(self, name: str) -> Entry:
        """The entry of this name."""
        return next(entry for entry in self.entries if entry.name == name)

    def pairs(self) -> Iterator[tuple[Entry, Entry]]:
        """The comparisons that the report makes: a KAN and what it is held against."""
        for entry in self.entries:
            plain = [rival.name for rival in self.entries if rival.is_plain and not entry.is_plain]
            rivals = plain if entry.against is None else entry.against
            for rival in rivals:
                yield entry, self.entry(rival)

    def chosen_by(self, entry: Entry) -> str:
        """The figure of validation by which an entry's settings are chosen, as its runs' epochs are."""
        return TrainConfig(model=entry.model, **{**self.recipe, **entry.recipe}).chosen_by

    @property
    def plain(self) -> set[str]:
        """The names of the entries that are ordinary CNNs."""
        return {entry.name for entry in self.entries if entry.is_plain}

    @property
    def judged_on(self) -> Literal["test", "val"]:
        """The part of the data by which accuracies are told."""
        return "test" if self.test else "val"


def suite_of(record: dict[str, Any]) -> Suite:
    """The suite that a comparison's record is of; what an older record does not know yet has its default."""
    values = dict(record["suite"])
    values["entries"] = [Entry(**entry) for entry in values["entries"]]
    for name, kind in (("match", Match), ("search", Search)):
        if values.get(name) is not None:
            values[name] = kind(**values[name])
    return Suite(**values)


def load_suite(path: Path) -> Suite:
    """Read and check a suite, and import its plugins.

    Raises:
        UserError: The file is missing or does not describe a suite; the message names the key, the rule and the value.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    suite: Suite = checked("", Suite, values)
    if not suite.seeds or not suite.datasets:
        raise UserError("seeds and datasets must name at least one each")
    for key in ("seeds", "datasets"):
        if len(set(getattr(suite, key))) < len(getattr(suite, key)):
            raise UserError(f"{key} must differ, got {', '.join(map(str, getattr(suite, key)))}")
    if suite.name != Path(suite.name).name or not suite.name.strip("."):
        raise UserError(f"name must be that of a folder, got {suite.name!r}")
    plugins = import_plugins(suite.plugins, path.parent)
    for name, folder in suite.folders.items():
        check_folder(name, path.parent / Path(folder).expanduser())
    check_names("datasets", suite.datasets, {**DATASETS, **suite.folders})
    names = [entry.name for entry in suite.entries]
    if len({entry.slug for entry in suite.entries}) < len(names) or not names:
        raise UserError(f"entries must have names of their own, and there must be one, got {names}")
    if suite.match is not None:
        _check_match(suite.match)
    suite = replace(suite, recipe=_checked_recipe("recipe", suite.recipe))
    suite = replace(suite, entries=[_checked_entry(entry, suite, names) for entry in suite.entries])
    check_named(plugins, {*suite.datasets, *(entry.model for entry in suite.entries)})
    return suite


def check_folder(name: str, folder: Path) -> None:
    """Raise UserError unless there is a folder of images, under a name that a data set may have."""
    if name in DATASETS:
        raise UserError(f"folders must have names that no registered data set has, got {name!r}")
    if name != Path(name).name or not name.strip("."):
        raise UserError(f"folders must have names as folders have, got {name!r}")
    if not folder.is_dir():
        raise UserError(f"folders.{name} must be a folder of images, got {str(folder)!r}")


def _checked_entry(entry: Entry, suite: Suite, names: list[str]) -> Entry:
    if entry.model not in list_models():
        raise UserError(f"model of {entry.name!r} must be one of {', '.join(list_models())}; got {entry.model!r}")
    known = model_options(entry.model)
    check_names(f"options of {entry.name!r}", entry.options, known)
    if suite.match and suite.match.size and "width" not in known:
        raise UserError(f"match needs models with an option width, and {entry.model} has none")
    check_names(f"against of {entry.name!r}", entry.against or [], names)
    if len(suite.datasets) > 1 and "accuracy" in entry.published:
        raise UserError(f"published.accuracy belongs to one data set, and the suite has {', '.join(suite.datasets)}")
    recipe = _checked_recipe(f"recipe of {entry.name!r}", entry.recipe)
    try:
        config = TrainConfig(model=entry.model, **{**suite.recipe, **recipe})
        config.recipe()
    except ValueError as error:
        raise UserError(f"recipe of {entry.name!r}, with the suite's: {error}") from error
    if suite.match and suite.match.time:
        _check_steady(entry.name, config)
    return replace(entry, recipe=recipe)


def _check_match(match: Match) -> None:
    if len(match.names) - match.time > 1 or len(set(match.names)) < len(match.names) or not match.names:
        raise UserError(f"match.by must be one measure, or a list of one of sizes and time, got {match.by}")
    for name, value, wanted in (("target", match.target, match.size), ("seconds", match.seconds, match.time)):
        if value is not None and not (wanted and 0 < value < inf):
            rule = "be positive" if wanted else f"be left out where match.by is {', '.join(match.names)}"
            raise UserError(f"match.{name} must {rule}, got {value}")
    if match.size and match.target is None:
        raise UserError(f"match must have a target where it is by {match.size}, got none")


def _check_steady(name: str, config: TrainConfig) -> None:
    """Raise UserError unless all of a run's steps take as long, to the last of its epochs."""
    # One step among all, after which knots are equally spaced as before; others take longer to evaluate.
    once = config.adapt_every == config.adapt_until and config.adapt_eps == 1
    for option, steady in STEADY.items():
        value = getattr(config, option)
        if value != steady and not (option == "adapt_every" and once):
            raise UserError(
                f"match.by must be without time where a run's steps change or its epochs may be fewer, got "
                f"{option} {value} in the recipe of {name!r}"
            )


def _checked_recipe(key: str, recipe: dict[str, Any]) -> dict[str, Any]:
    types = get_type_hints(TrainConfig)
    check_names(key, recipe, [f.name for f in fields(TrainConfig) if f.name not in RESERVED])
    return {name: checked(f"{key}.{name}", types[name], value) for name, value in recipe.items()}
