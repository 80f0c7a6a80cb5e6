"""The choice of hyper-parameters: as many trials for each side, judged on the validation part."""

import warnings
from collections.abc import Sequence
from typing import Any

import optuna

from experiments.common import spaces
from experiments.common.cli import UserError
from experiments.compare.suite import RESERVED, STEADY, Entry, Suite

OF_TRIALS = ("epochs", "train_fraction")  # which ``search`` itself says


def trials_of(suite: Suite, entry: Entry) -> list[dict[str, Any]]:
    """The settings to try for an entry: its own first, then points spread evenly over the space.

    They do not depend on each other's results, so they can run in any order, at once, and again after a kill.
    """
    search = suite.search
    assert search is not None
    applicable = {name: choice for name, choice in search.space.items() if spaces.applies(name, entry.model)}
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
    return spaces.split(settings, entry.model)


def best_of(trials: Sequence[dict[str, Any]], accuracies: Sequence[float]) -> dict[str, Any]:
    """The settings with the highest accuracy in validation, plain or balanced; the earlier of equals."""
    return trials[max(range(len(trials)), key=lambda index: accuracies[index])]


def check_search(suite: Suite) -> None:
    """Raise unless every name and range of the space makes sense, where there is a search.

    Raises:
        UserError: One does not.
    """
    search = suite.search
    if search is None:
        return
    if search.trials < 1 or search.epochs < 1:
        raise UserError(f"search.trials and epochs must be at least 1, got {search.trials} and {search.epochs}")
    decided = {*RESERVED, *OF_TRIALS}
    if suite.match and suite.match.size:
        decided.add("width")
    if suite.match and suite.match.time:
        decided |= {*STEADY, "adapt_until", "adapt_eps"}
    for name, choice in search.space.items():
        if name in decided:
            raise UserError(f"search.space must be without what the suite decides or match holds equal, got {name!r}")
        if not any(spaces.applies(name, entry.model) for entry in suite.entries):
            raise UserError(
                f"search.space must have options of experiments.train or of a model of the suite's, got {name!r}"
            )
        _distribution(name, choice)


def _own(suite: Suite, entry: Entry, space: dict[str, Any]) -> dict[str, Any]:
    return spaces.own_settings(space, entry.model, entry.options, {**suite.recipe, **entry.recipe})


def _distribution(name: str, choice: Any) -> optuna.distributions.BaseDistribution:
    if isinstance(choice, list) and choice:  # by number: the sampler spreads numbers alone
        return optuna.distributions.IntDistribution(0, len(choice) - 1)
    return spaces.distribution(f"search.space.{name}", choice)


def _chosen(choice: Any, value: Any) -> Any:
    return choice[value] if isinstance(choice, list) else spaces.chosen(choice, value)
