"""What a study found: the best settings, as a file that the training script takes, and one page."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.trial import FrozenTrial, TrialState

from convkan.training import write_text
from experiments.common.cli import UserError
from experiments.common.pages import render
from experiments.common.spaces import chosen
from experiments.tune.config import TuneConfig
from experiments.tune.worker import outcome

NEEDS_PLOTLY = "pictures need the package plotly, which is not installed: pip install 'convkan-vision[tune]'"


def best_options(trial: FrozenTrial, config: TuneConfig) -> dict[str, Any]:
    """The options of the training script with which a trial was made."""
    return config.options_of({name: chosen(config.space[name], value) for name, value in trial.params.items()})


def write_best(study: optuna.Study, config: TuneConfig) -> Path:
    """Leave the best settings so far as a configuration of the training script; it tests, as searches do not.

    Raises:
        UserError: No trial was completed.
    """
    options = {"dataset": "digits", **best_options(_best(study), config)}
    return write_text(config.folder / "best.yaml", yaml.safe_dump(options, sort_keys=False))


def write_report(study: optuna.Study, config: TuneConfig) -> list[Path]:
    """Write ``best.yaml``, ``trials.csv`` and ``report.html``, each in one step.

    Raises:
        UserError: No trial was completed.
    """
    best = write_best(study, config)
    trials = study.get_trials(deepcopy=False)
    frame = study.trials_dataframe(
        attrs=("number", "value", "state", "datetime_start", "duration", "params", "user_attrs")
    )
    table = write_text(config.folder / "trials.csv", frame.to_csv(index=False))
    pictures, notes = _pictures(study)
    names = list(config.space)
    context = {
        "title": f"Search for settings: {config.name}",
        "best": _best(study),
        "best_file": best.read_text(encoding="utf-8"),
        "command": f"python -m experiments.train --config {best}",
        "counts": _counts(trials),
        "measure": config.chosen_by.removeprefix("val_").replace("_", " "),
        "names": names,
        "rows": [
            (trial.number, outcome(trial), trial.user_attrs.get("seconds", ""), [_shown(trial, name) for name in names])
            for trial in sorted(trials, key=_rank)
        ],
        "pictures": pictures,
        "notes": notes,
    }
    page = write_text(config.folder / "report.html", render("tune.html.j2", context))
    return [page, best, table]


def _best(study: optuna.Study) -> FrozenTrial:
    if not study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        raise UserError(
            f"no trial of {study.study_name} was completed: all were stopped, diverged or failed; see its logs"
        )
    return study.best_trial


def _rank(trial: FrozenTrial) -> tuple[bool, float, int]:
    """The best first, then those without a result in the order in which they were made."""
    return trial.value is None or trial.state is not TrialState.COMPLETE, -(trial.value or 0.0), trial.number


def _shown(trial: FrozenTrial, name: str) -> str:
    value = trial.params.get(name, "")
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _counts(trials: list[FrozenTrial]) -> str:
    """How many trials there are of each kind."""
    words = [
        (TrialState.COMPLETE, "completed"),
        (TrialState.PRUNED, "stopped early"),
        (TrialState.FAIL, "failed or killed"),
    ]
    return ", ".join(f"{sum(trial.state is state for trial in trials)} {word}" for state, word in words)


def _pictures(study: optuna.Study) -> tuple[list[tuple[str, str]], list[str]]:
    """Optuna's figures as parts of a page, and why others are missing. The first brings what all of them need."""
    try:
        import plotly  # noqa: F401
    except ImportError:
        return [], [NEEDS_PLOTLY]
    from optuna import visualization

    draw: dict[str, Callable[[optuna.Study], Any]] = {
        "History": visualization.plot_optimization_history,
        "Importance of each option": visualization.plot_param_importances,
        "Accuracy by option": visualization.plot_slice,
        "Learning curves": visualization.plot_intermediate_values,
    }
    pictures: list[tuple[str, str]] = []
    notes: list[str] = []
    for title, plot in draw.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                figure = plot(study)
        except (RuntimeError, ValueError) as error:  # too few trials, or all with the same result
            notes.append(f"{title}: {error}")
            continue
        figure.update_layout(title=None, margin={"t": 30}, template="simple_white")
        pictures.append((title, figure.to_html(full_html=False, include_plotlyjs=not pictures)))
    return pictures, notes
