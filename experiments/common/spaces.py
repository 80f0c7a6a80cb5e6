"""Spaces of hyper-parameters, as suites and studies write them, and settings drawn from them."""

import json
from collections.abc import Iterable
from dataclasses import asdict, fields
from typing import Any, get_type_hints

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from convkan.models import model_options, suggested_learning_rate
from experiments.common.cli import UserError
from experiments.common.train_config import TrainConfig

TRAIN_OPTIONS = asdict(TrainConfig())
FRACTIONAL = {
    option.name for option in fields(TrainConfig) if get_type_hints(TrainConfig)[option.name] in (float, float | None)
}
OF_A_RANGE = {"low", "high", "log"}


def distribution(name: str, choice: Any) -> BaseDistribution:
    """What an option is drawn from.

    Args:
        name: The option, with what it stands in, for the message: its last part is the name of the option.
        choice: A list of choices, or {low: …, high: …}: a range, searched on a logarithmic scale unless ``log`` is
            false; of whole numbers if both ends are, and the option is not one of the training script that takes
            fractions.

    Raises:
        UserError: It is neither.
    """
    if isinstance(choice, list) and choice:
        return CategoricalDistribution([label(value) for value in choice])
    if isinstance(choice, dict) and {"low", "high"} <= set(choice) <= OF_A_RANGE:
        log, low, high = choice.get("log", True), _number(choice["low"]), _number(choice["high"])
        if log in (True, False) and low is not None and high is not None and low < high and (low > 0 or not log):
            if isinstance(low, int) and isinstance(high, int) and name.rpartition(".")[2] not in FRACTIONAL:
                return IntDistribution(low, high, log=log)
            return FloatDistribution(low, high, log=log)
    raise UserError(
        f"{name} must be a list of choices or a mapping with 0 < low < high (with log: false, low may be 0 or less), "
        f"got {choice!r}"
    )


def label(value: Any) -> bool | int | float | str | None:
    """A choice as a storage keeps it: itself if it is a number or a word, else its JSON."""
    return value if value is None or isinstance(value, bool | int | float | str) else json.dumps(value)


def chosen(choice: Any, value: Any) -> Any:
    """The setting that a drawn value stands for; fractions are rounded to three digits."""
    if isinstance(choice, list):
        return next(each for each in choice if label(each) == value and type(label(each)) is type(value))
    return float(f"{value:.3g}") if isinstance(value, float) else int(value)


def applies(name: str, model: str) -> bool:
    """Whether an option is one of the training script, or one that the model has."""
    return name in TRAIN_OPTIONS or name in model_options(model)


def split(settings: dict[str, Any], model: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings as those of the training script and those of the model."""
    of_model = {name: value for name, value in settings.items() if name in model_options(model)}
    return {name: value for name, value in settings.items() if name not in of_model}, of_model


def own_settings(names: Iterable[str], model: str, options: dict[str, Any], recipe: dict[str, Any]) -> dict[str, Any]:
    """What options are when nothing is searched: the model's own, or those of the recipe."""
    settings = {}
    for name in names:
        if name in model_options(model):
            settings[name] = options.get(name, model_options(model)[name])
        else:
            settings[name] = {**TRAIN_OPTIONS, **recipe}[name]
    if settings.get("learning_rate", 0) is None:
        settings["learning_rate"] = suggested_learning_rate(model)
    return settings


def _number(value: Any) -> int | float | None:
    """A number, also where YAML read a text, as it does 1e-3; None for what is none."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return None
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
