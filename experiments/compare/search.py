"""The choice of hyper-parameters: as many trials for each side, judged on the validation part."""

import warnings
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import optuna

from convkan.models import model_options, suggested_learning_rate
from experiments.common.cli import UserError
from experiments.common.train_config import TrainConfig
from experiments.compare.suite import Entry, Search, Suite

TRAIN_OPTIONS = asdict(TrainConfig())


def trials_of(suite: Suite, entry: Entry) -> list[dict[str, Any]]:
    """The settings to try for an entry: its own first, then points spread evenly over the space.

    They do not depend on each other's results, so they can run in any order, at once, and again after a kill.
    """
    search = suite.search
    assert search is not None
    applicable = {name: choice for name, choice in search.space.items() if _applies(name, entry)}
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # it may change; results are kept
        sampler = optuna.samplers.QMCSampler(seed=search.seed, scramble=True, warn_independent_sampling=False)
    study = optuna.create_study(sampler=sampler)
    space = {name: _distribution(name, choice) for name, choice in applicable.items()}
    trials = [_own(suite, entry, applicable)]
    while len(trials) < search.trials:
        trial = study.ask(space)
        study.tell(trial, 0.0)  # the sampler counts what was told
        trials.append({name: _chosen(applicable[name], value) for name, value in trial.params.items()})
    return trials


def split(settings: dict[str, Any], entry: Entry) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings as those of the training script and those of the model."""
    of_model = {name: value for name, value in settings.items() if name in model_options(entry.model)}
    return {name: value for name, value in settings.items() if name not in of_model}, of_model


def best_of(trials: Sequence[dict[str, Any]], accuracies: Sequence[float]) -> dict[str, Any]:
    """The settings with the highest accuracy in validation, plain or balanced; the earlier of equals."""
    return trials[max(range(len(trials)), key=lambda index: accuracies[index])]


def check_search(search: Search) -> None:
    """Raise unless every name and range of the space makes sense.

    Raises:
        UserError: One does not.
    """
    if search.trials < 1 or search.epochs < 1:
        raise UserError(f"search.trials and epochs must be at least 1, got {search.trials} and {search.epochs}")
    for name, choice in search.space.items():
        _distribution(name, choice)


def _applies(name: str, entry: Entry) -> bool:
    return name in TRAIN_OPTIONS or name in model_options(entry.model)


def _own(suite: Suite, entry: Entry, space: dict[str, Any]) -> dict[str, Any]:
    settings = {}
    for name in space:
        if name in model_options(entry.model):
            settings[name] = entry.options.get(name, model_options(entry.model)[name])
        else:
            settings[name] = {**TRAIN_OPTIONS, **suite.recipe, **entry.recipe}[name]
    if settings.get("learning_rate", 0) is None:
        settings["learning_rate"] = suggested_learning_rate(entry.model)
    return settings


def _distribution(name: str, choice: Any) -> optuna.distributions.BaseDistribution:
    if isinstance(choice, list) and choice:
        return optuna.distributions.IntDistribution(0, len(choice) - 1)
    try:
        low, high = float(choice["low"]), float(choice["high"])
        if not 0 < low < high:
            raise ValueError
        return optuna.distributions.FloatDistribution(low, high, log=True)
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"search.space.{name} must be a list of choices or a mapping with 0 < low < high, got {choice!r}"
        ) from None


def _chosen(choice: Any, value: Any) -> Any:
    return choice[value] if isinstance(choice, list) else float(f"{value:.3g}")
