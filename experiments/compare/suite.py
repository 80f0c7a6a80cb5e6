"""What a comparison consists of, as read from a YAML file."""

from collections.abc import Iterator
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import yaml

from convkan.models import list_models, model_options, twin
from convkan.training.datasets import DATASETS
from experiments.cli import UserError
from experiments.train_config import TrainConfig

Measure = Literal["parameters", "multiply_adds", "step_time"]
# What a suite decides for every run, and an entry may not.
RESERVED = ("dataset", "model", "model_options", "seed", "runs_root", "run_name", "resume", "data_root", "test")


@dataclass(frozen=True)
class Match:
    """How sizes are made equal: each entry's ``width`` is chosen so that it comes closest to the target.

    Attributes:
        by: "parameters", "multiply_adds" or "step_time" (milliseconds of a training step, measured).
        target: The figure to come closest to. Entries that give a width keep it.
    """

    by: Measure
    target: float


@dataclass(frozen=True)
class Search:
    """Hyper-parameters tried for each entry on the validation part, the same number for all.

    Attributes:
        trials: Configurations tried for each entry and data set, the first being the entry's own.
        epochs: Epochs of a trial.
        train_fraction: Share of the training part that a trial sees.
        space: For each option of the training script, and for each option of a model (where it has it), a list of
            choices, or {low: …, high: …} for a range searched on a logarithmic scale.
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
        datasets: Names of data sets.
        seeds: One run each, for each entry and data set.
        entries: What is compared.
        recipe: Options of the training script for all.
        match: How sizes are made equal; None to take the entries as they are.
        search: How hyper-parameters are chosen; None to take the recipe as it is.
        test: Whether final runs touch the test set. A suite by which something is to be chosen leaves it alone, and is
            judged on the validation part.
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

    def entry(self, name: str) -> Entry:
        """The entry of this name."""
        return next(entry for entry in self.entries if entry.name == name)

    def pairs(self) -> Iterator[tuple[Entry, Entry]]:
        """The comparisons that the report makes: a KAN and what it is held against."""
        plain = [entry.name for entry in self.entries if entry.is_plain]
        for entry in self.entries:
            rivals = entry.against if entry.against is not None else [] if entry.is_plain else plain
            for rival in rivals:
                yield entry, self.entry(rival)


def load_suite(path: Path) -> Suite:
    """Read and check a suite.

    Raises:
        UserError: The file is missing or does not describe a suite; the message says where.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    suite = _suite(values)
    for name in suite.datasets:
        if name not in DATASETS:
            raise UserError(f"datasets must be among {', '.join(DATASETS)}; got {name!r}")
    names = [entry.name for entry in suite.entries]
    if len({entry.slug for entry in suite.entries}) < len(names) or not names:
        raise UserError(f"entries must have names of their own, and there must be one, got {names}")
    for entry in suite.entries:
        if entry.model not in list_models():
            raise UserError(f"model of {entry.name!r} must be one of {', '.join(list_models())}; got {entry.model!r}")
        known = model_options(entry.model)
        _check_keys(f"options of {entry.name!r}", entry.options, known)
        _check_recipe(f"recipe of {entry.name!r}", entry.recipe)
        if suite.match and "width" not in known:
            raise UserError(f"match needs models with an option width, and {entry.model} has none")
        _check_keys(f"against of {entry.name!r}", dict.fromkeys(entry.against or []), dict.fromkeys(names))
    _check_recipe("recipe", suite.recipe)
    if len(suite.datasets) > 1 and any("accuracy" in entry.published for entry in suite.entries):
        raise UserError(f"published.accuracy belongs to one data set, and the suite has {', '.join(suite.datasets)}")
    if not isinstance(suite.test, bool):
        raise UserError(f"test must be true or false, got {suite.test!r}")
    if not suite.seeds or not suite.datasets:
        raise UserError("seeds and datasets must name at least one each")
    return suite


def _suite(values: Any) -> Suite:
    values = dict(_check_fields("the suite", Suite, values))
    values["entries"] = [Entry(**_check_fields("an entry", Entry, entry)) for entry in values["entries"]]
    if values.get("match") is not None:
        values["match"] = Match(**_check_fields("match", Match, values["match"]))
        if values["match"].by not in ("parameters", "multiply_adds", "step_time"):
            raise UserError(f"match.by must be parameters, multiply_adds or step_time, got {values['match'].by!r}")
    if values.get("search") is not None:
        values["search"] = Search(**_check_fields("search", Search, values["search"]))
    return Suite(**values)


def _check_fields(what: str, kind: type[Any], values: Any) -> dict[str, Any]:
    """``values``, if they are a mapping with the names of a dataclass, none missing."""
    if not isinstance(values, dict):
        raise UserError(f"{what} must be a mapping, got {values!r}")
    _check_keys(what, values, {f.name: None for f in fields(kind)})
    required = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]
    missing = [name for name in required if name not in values]
    if missing:
        raise UserError(f"{what} must have {', '.join(missing)}, got {', '.join(values)}")
    return values


def _check_recipe(what: str, recipe: dict[str, Any]) -> None:
    allowed = {f.name: None for f in fields(TrainConfig) if f.name not in RESERVED}
    _check_keys(what, recipe, allowed)


def _check_keys(what: str, values: dict[str, Any], known: dict[str, Any]) -> None:
    unknown = [str(name) for name in values if name not in known]
    if unknown:
        raise UserError(f"{what} must be among {', '.join(known)}; got {', '.join(unknown)}")
