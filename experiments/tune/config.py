"""What is searched: the options of ``experiments.tune``."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from convkan.models import model_options
from experiments.common.cli import UserError, check_positive
from experiments.common.spaces import TRAIN_OPTIONS, applies, distribution, split
from experiments.common.train_config import TrainConfig

STORAGE_VARIABLE = "CONVKAN_STORAGE"
# What a study says itself of its runs, or must not: a search never sees the test set.
NOT_SEARCHED = ("test", "runs_root", "run_name", "resume", "on_resume", "continued", "data_root")


@dataclass(frozen=True)
class TuneConfig:
    """What to search, how, and who works on it.

    Attributes:
        name: Of the study, and of its folder in runs_root. Workers with the same name and storage work on one study.
        space: For options of the training script, and of the model, a list of choices, or {low: …, high: …}: a range on
            a logarithmic scale, or an even one with log: false; of whole numbers if both ends are.
        recipe: Options of the training script that are the same in all trials.
        trials: How many the study is to have, those of all workers together. With more, a finished study goes on.
        workers: Processes on this machine; they share its processors and GPUs. More can be started by hand, here or
            elsewhere, by the same command.
        storage: URL of the database of a team, as Optuna and SQLAlchemy take it; by default the environment variable
            CONVKAN_STORAGE, or the file study.db in the study's folder.
        sampler: tpe, which learns from the trials before, or random.
        pruner: Stops trials by their accuracy in validation after an epoch: median (if it is below the median of the
            others), hyperband, or none.
        seed: Seed of the search. That of training is an option of the recipe.
        stale_after: Seconds without a sign of life after which a worker counts as killed, and its trial is taken up.
        slot: Number of this worker among those of its machine, counted from 0, from which its GPU follows. It is for
            workers that are started by hand, as one of --workers.
        gpus: GPUs over which workers are spread.
        data_root: Where data sets lie; by default the environment variable CONVKAN_DATA, or ./data.
        runs_root: Where studies keep their runs.
        report: Write the report at the end.
        report_only: Report on what is done, and run nothing.
    """

    name: str = "digits"
    space: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    trials: int = 20
    workers: int = 1
    storage: str | None = None
    sampler: Literal["tpe", "random"] = "tpe"
    pruner: Literal["median", "hyperband", "none"] = "median"
    seed: int = 0
    stale_after: int = 60
    slot: int | None = None
    gpus: int = torch.cuda.device_count()
    data_root: str | None = None
    runs_root: str = "runs/tune"
    report: bool = True
    report_only: bool = False

    def __post_init__(self) -> None:
        check_positive(self, "trials", "workers", "stale_after")
        if self.gpus < 0 or self.seed < 0:
            raise ValueError(f"gpus and seed must not be negative, got {self.gpus} and {self.seed}")
        if self.slot is not None and not 0 <= self.slot < self.workers:
            raise ValueError(f"slot must be from 0 to workers - 1, {self.workers - 1}; got {self.slot}")
        if self.name != Path(self.name).name or not self.name.strip("."):
            raise ValueError(f"name must be that of a folder, got {self.name!r}")

    @property
    def folder(self) -> Path:
        """Where the study's runs and its report lie."""
        return Path(self.runs_root) / self.name

    @property
    def url(self) -> str:
        """The database of the study."""
        given = self.storage or os.environ.get(STORAGE_VARIABLE)
        return given or f"sqlite:///{(self.folder / 'study.db').resolve()}"

    @property
    def is_local(self) -> bool:
        """Whether the database is one file."""
        return self.url.startswith("sqlite")

    @property
    def models(self) -> Sequence[str]:
        """The models that trials may have."""
        searched = self.space.get("model")
        return searched if isinstance(searched, list) else [self.recipe.get("model", TrainConfig.model)]

    @property
    def epochs(self) -> int:
        """The most that a trial trains."""
        searched = self.space.get("epochs", self.recipe.get("epochs", TrainConfig.epochs))
        return int(searched["high"] if isinstance(searched, dict) else max(searched) if isinstance(searched, list)
                   else searched)  # fmt: skip

    @property
    def chosen_by(self) -> str:
        """The figure of validation by which trials are compared, the same for all of them."""
        return TrainConfig(class_weights=self.recipe.get("class_weights", "none")).chosen_by

    def check(self) -> None:
        """Raise unless the space and the recipe name options, and their ranges make sense.

        Raises:
            UserError: They do not.
        """
        if not self.space:
            raise UserError(
                "space must name the options to search, got none: "
                "try --config experiments/configs/tune/digits.yaml, or see docs/training.md"
            )
        for where, names in (("space", self.space), ("recipe", self.recipe)):
            for name in names:
                if name in NOT_SEARCHED or (where == "space" and name in ("model_options", "class_weights")):
                    raise UserError(f"{where} must not have {name}: {_reason(name)}")
        for name in self.recipe:
            if name not in TRAIN_OPTIONS:
                raise UserError(f"recipe must have options of experiments.train, got {name!r}: see its --help")
        known = self.recipe.get("model_options", {})
        for model in self.models:
            model_options(model)  # which raises if there is none of this name
        for name, choice in self.space.items():
            if not any(applies(name, model) for model in self.models):
                raise UserError(
                    f"space must have options of experiments.train or of {' or '.join(self.models)} "
                    f"({', '.join(model_options(self.models[0]))}), got {name!r}"
                )
            if name in self.recipe or name in known:
                raise UserError(f"space and recipe must have different options, got {name!r} in both")
            distribution(f"space.{name}", choice)

    def options_of(self, settings: dict[str, Any]) -> dict[str, Any]:
        """The options of the training script with these settings."""
        model = settings.get("model", self.recipe.get("model", TrainConfig.model))
        of_training, of_model = split(settings, model)
        own = {**self.recipe.get("model_options", {}), **of_model}
        return {**self.recipe, **of_training, **({"model_options": own} if own else {})}


def _reason(name: str) -> str:
    match name:
        case "test":
            return "trials are judged on the validation part, and never see the test set"
        case "model_options":
            return "options of the model stand beside those of training, by their own names"
        case "class_weights":
            return "it decides by which figure trials are compared; put it into the recipe"
        case "data_root":
            return "it is an option of this command"
    return "the study says it"
