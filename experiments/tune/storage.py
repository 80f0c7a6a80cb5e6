"""Where a study is kept, and what of it is done: Optuna's database, which many workers share."""

import json
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import optuna
from filelock import FileLock
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError, SQLAlchemyError

from experiments.common.cli import UserError
from experiments.common.spaces import applies, distribution, label, own_settings
from experiments.common.train_config import TrainConfig
from experiments.tune.config import TuneConfig

FAILURE = "failure"  # what a trial's run says of why it failed; one whose worker was killed has none
BUSY_SECONDS = 60  # for which a writer waits for the others
RETRIES = 3  # of a trial whose worker ended: it may be what ends them
LOCK = ".study.lock"
ATTEMPTS = 5  # to open a database in which others make the tables


@dataclass(frozen=True)
class Progress:
    """How far a study has come.

    Attributes:
        settled: Trials that are done: completed, pruned or failed by themselves.
        running: Those of which a worker says that it is at them.
        waiting: Those that a worker is to take up next.
        best: The highest accuracy in validation; None without a completed trial.
    """

    settled: int
    running: int
    waiting: int
    best: float | None

    @classmethod
    def of(cls, study: optuna.Study) -> "Progress":
        """As the database has it now."""
        trials = study.get_trials(deepcopy=False)
        values = [trial.value for trial in trials if trial.state is TrialState.COMPLETE and trial.value is not None]
        count = {state: sum(trial.state is state for trial in trials) for state in TrialState}
        return cls(
            sum(is_settled(trial) for trial in trials),
            count[TrialState.RUNNING],
            count[TrialState.WAITING],
            max(values, default=None),
        )


def is_settled(trial: FrozenTrial) -> bool:
    """Whether a trial is done, and not to be made again as one whose worker was killed."""
    failed = trial.state is TrialState.FAIL and FAILURE in trial.user_attrs
    return failed or trial.state in (TrialState.COMPLETE, TrialState.PRUNED)


@contextmanager
def _experimental() -> Iterator[None]:
    """Within a ``with`` block, use what Optuna may change: heartbeats, whose effect is tested."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield


def retry(study: optuna.Study, trial: FrozenTrial) -> None:
    """Have a trial whose worker ended made again, with the same settings, if that has not been tried too often."""
    with _experimental():
        RetryHeartbeatStaleTrialCallback(RETRIES)(study, trial)


def begun_as(trial: FrozenTrial) -> int | None:
    """The number under which a trial was begun by a worker that ended; None for a new one."""
    with _experimental():
        return RetryHeartbeatStaleTrialCallback.retried_trial_number(trial)


def fail_stale_trials(study: optuna.Study) -> None:
    """Have trials made again of which there was no sign of life for too long."""
    with _experimental():
        optuna.storages.fail_stale_trials(study)


def numbered(study: optuna.Study, number: int) -> FrozenTrial:
    """The trial of this number."""
    return next(trial for trial in study.get_trials() if trial.number == number)


@contextmanager
def in_words(url: str) -> Iterator[None]:
    """Within a ``with`` block, have what a database complains of end in one line, without its password.

    Raises:
        UserError: It complained.
    """
    try:
        yield
    except (StorageInternalError, SQLAlchemyError, ImportError) as error:
        cause = error.__cause__ or error
        reason = str(cause).splitlines()[0]
        if isinstance(cause, ModuleNotFoundError):
            reason += ", which is this database's driver and has to be installed"
        try:
            where = make_url(url).render_as_string(hide_password=True)
        except SQLAlchemyError:
            where = "of the given URL"
        raise UserError(f"the database {where} cannot be used: {reason}") from error


def open_study(config: TuneConfig) -> optuna.Study:
    """The study of this name, made if there is none.

    Raises:
        UserError: The database cannot be used, or has a study of this name with another space or recipe.
    """
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    with in_words(config.url), alone(config), _experimental():
        storage = _storage(config)
        about = {"space": config.space, "recipe": config.recipe}
        wanted = {key: json.dumps(value, sort_keys=True, default=str) for key, value in about.items()}
        try:
            study = optuna.create_study(storage=storage, study_name=config.name, direction="maximize")
            for key, value in wanted.items():
                study.set_user_attr(key, value)
            _begin_with_own(study, config)
        except DuplicatedStudyError:
            study = optuna.load_study(storage=storage, study_name=config.name)
        changed = [key for key, value in wanted.items() if study.user_attrs.get(key, value) != value]
        if changed:
            raise UserError(
                f"the study {config.name} has another {' and '.join(changed)}: choose another --name, or remove it"
            )
        study.pruner = pruner_of(config)
    return study


def _storage(config: TuneConfig, attempts: int = ATTEMPTS) -> RDBStorage:
    """The database; of workers that come to an empty one at once without a common folder, one makes its tables."""
    engine = {"connect_args": {"timeout": BUSY_SECONDS}} if config.is_local else {"pool_pre_ping": True}
    try:
        return RDBStorage(
            config.url,
            engine_kwargs=engine,
            heartbeat_interval=max(1, config.stale_after // 6),
            grace_period=config.stale_after,
            heartbeat_stale_trial_callback=retry,
        )
    except (IntegrityError, ProgrammingError, OperationalError) as error:
        made_meanwhile = any(words in str(error) for words in ("already exists", "duplicate key"))
        if attempts == 1 or not made_meanwhile:
            raise
    time.sleep(1)
    return _storage(config, attempts - 1)


@contextmanager
def alone(config: TuneConfig) -> Iterator[FileLock]:
    """Have the study for this process alone among those that share its folder."""
    config.folder.mkdir(parents=True, exist_ok=True)
    with FileLock(config.folder / LOCK) as lock:
        yield lock


def sampler_of(config: TuneConfig, number: int) -> optuna.samplers.BaseSampler:
    """What draws the settings of trial ``number``: workers that begin at once must not draw the same."""
    seed = (config.seed * 1_000_003 + number) % 2**32
    if config.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    with _experimental():
        return optuna.samplers.TPESampler(seed=seed, constant_liar=True)


def pruner_of(config: TuneConfig) -> optuna.pruners.BasePruner:
    """What stops trials early."""
    match config.pruner:
        case "median":
            return optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1)
        case "hyperband":
            return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=config.epochs)
    return optuna.pruners.NopPruner()


def _begin_with_own(study: optuna.Study, config: TuneConfig) -> None:
    """The first trial has the settings of the recipe, where the space has them."""
    recipe = {"model": TrainConfig.model, **config.recipe}
    model = recipe["model"] if recipe["model"] in config.models else config.models[0]
    searched = [name for name in config.space if applies(name, model) and name != "model"]
    own: dict[str, Any] = own_settings(searched, model, recipe.get("model_options", {}), recipe)
    own |= {"model": model} if "model" in config.space else {}
    drawn = {
        # The choice itself, since 0 is the default 0.0, but another word for it.
        name: label(choice[choice.index(value)] if isinstance(choice := config.space[name], list) else value)
        for name, value in own.items()
        if _holds(name, config.space[name], value)
    }
    if drawn:
        study.enqueue_trial(drawn)


def _holds(name: str, choice: Any, value: Any) -> bool:
    if isinstance(choice, list):
        return value in choice
    space = distribution(name, choice)
    assert isinstance(space, FloatDistribution | IntDistribution)
    return isinstance(value, int | float) and space.low <= value <= space.high
