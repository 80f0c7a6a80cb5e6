"""A worker: trials one after the other until the study has as many as it is to have."""

import os
import time
from collections.abc import Callable

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from experiments.common.cli import UserError
from experiments.tune.config import TuneConfig
from experiments.tune.storage import (
    FAILURE,
    Progress,
    alone,
    begun_as,
    fail_stale_trials,
    in_words,
    is_settled,
    numbered,
    retry,
    sampler_of,
)
from experiments.tune.trial import FOLDER, TrialFailedError, run_trial

WAIT_SECONDS = 0.5
FAILURES = 3  # one after the other, after which a worker gives up


def work(study: optuna.Study, config: TuneConfig, report: Callable[[Progress], None]) -> None:
    """Make trials until there are ``config.trials``; at the end, wait for those of others, which may be killed.

    Args:
        study: The study.
        config: What is searched.
        report: Told how far the study has come.

    Raises:
        UserError: The database cannot be used, or runs failed: the first of all, or three one after the other.
    """
    failures, told_of = 0, 0
    silent: dict[int, float] = {}
    with in_words(config.url):
        while True:
            _take_from_the_dead(study, config, silent)
            trial, progress = _next(study, config)
            report(progress)
            if trial is None and not progress.running:
                return
            if trial is None:
                if progress.running != told_of:
                    print(f"waiting for {progress.running} trials of other workers", flush=True)
                    told_of = progress.running
                time.sleep(WAIT_SECONDS)
                continue
            print(sentence(trial), flush=True)
            failures = failures + 1 if FAILURE in trial.user_attrs else 0
            if failures == FAILURES or (failures and Progress.of(study).best is None):
                raise UserError(trial.user_attrs[FAILURE])


def sentence(trial: FrozenTrial) -> str:
    """What came of a trial, and of which settings, in a line."""
    settings = ", ".join(f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
                         for name, value in trial.params.items())  # fmt: skip
    return f"trial {trial.number}: {outcome(trial)} ({settings})"


def outcome(trial: FrozenTrial) -> str:
    """What came of a trial."""
    reached = max(trial.intermediate_values.values(), default=None)
    match trial.state:
        case TrialState.COMPLETE:
            assert trial.value is not None
            return f"validation {trial.value:.2%}"
        case TrialState.PRUNED if trial.user_attrs.get("diverged"):
            return "diverged"
        case TrialState.PRUNED if reached is not None:
            return f"stopped in epoch {max(trial.intermediate_values)} at {reached:.2%}"
        case TrialState.FAIL:
            return "failed" if FAILURE in trial.user_attrs else "its worker was killed"
    return trial.state.name.lower()


def _next(study: optuna.Study, config: TuneConfig) -> tuple[FrozenTrial | None, Progress]:
    """Make the next trial, if the study is to have one more; and how far the study was before it."""
    threads = max(1, (os.cpu_count() or 1) // config.workers)
    made: list[int] = []
    with alone(config) as lock:  # until it is counted, so that no two workers make the last one
        progress = Progress.of(study)
        if progress.settled + progress.running >= config.trials:
            return None, progress
        study.sampler = sampler_of(config, progress.settled + progress.running)

        def objective(trial: optuna.Trial) -> float:
            made.append(trial.number)
            lock.release(force=True)
            return run_trial(trial, config, threads, begun_as(numbered(study, trial.number)))

        try:
            study.optimize(objective, n_trials=1, catch=(TrialFailedError,))
        except UpdateFinishedTrialError:
            print(f"trial {made[-1]} was given to another worker: no sign of life came from here for too long")
        except KeyboardInterrupt:
            if made:
                study.tell(made[-1], state=TrialState.FAIL, skip_if_finished=True)
                retry(study, numbered(study, made[-1]))
            raise
    return numbered(study, made[-1]), progress


def _take_from_the_dead(study: optuna.Study, config: TuneConfig, silent: dict[int, float]) -> None:
    """Have trials of killed workers made again.

    Optuna knows a worker as dead by its last sign of life. Of one that was killed before its first there is none: its
    trial has no folder, and is taken from it after as long a time.
    """
    fail_stale_trials(study)
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    for trial in running:
        if FOLDER not in trial.user_attrs:
            since = silent.setdefault(trial.number, time.monotonic())
            if time.monotonic() - since > config.stale_after:
                study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
                retry(study, numbered(study, trial.number))


def is_over(study: optuna.Study, config: TuneConfig) -> bool:
    """Whether a study has all of its trials."""
    return sum(map(is_settled, study.get_trials(deepcopy=False))) >= config.trials
