"""Search for good settings: ``python -m experiments.tune --config FILE.yaml``.

Optuna proposes options of ``experiments.train``, trials train with them, and those that fall behind in validation are
stopped. The study is kept in a database: any number of workers, started by ``--workers`` or by hand, work on it at
once, and the same command goes on after a kill. It ends with the best settings as a file for ``experiments.train``, and
one page.
"""

from rich.progress import TaskID

from experiments.common.cli import GOES_ON, parse, run
from experiments.common.folders import tidy
from experiments.common.parent import end_with_parent
from experiments.common.progress import StudyProgress
from experiments.tune.config import TuneConfig
from experiments.tune.report import write_best, write_report
from experiments.tune.storage import Progress, in_words, open_study
from experiments.tune.supervising import supervise
from experiments.tune.worker import work


def main() -> None:
    """Search and report."""
    end_with_parent()
    config = parse(TuneConfig, __doc__)
    config.check()
    with tidy(config.folder):
        study = open_study(config)
        if not config.report_only:
            print(f"study {config.name}: {config.trials} trials in {config.folder}; if it is stopped, {GOES_ON}")
            with StudyProgress("trials") as progress:
                task: TaskID = progress.add_task(config.name, total=config.trials)
                known: list[float | None] = [None]

                def report(now: Progress) -> None:
                    best = "" if now.best is None else f", best {now.best:.2%}"
                    progress.update(task, completed=now.settled, description=f"{config.name}{best}")
                    if now.best != known[0] and config.report:
                        write_best(study, config)
                    known[0] = now.best

                is_worker = config.workers == 1 or config.slot is not None
                (work if is_worker else supervise)(study, config, report)
        if config.report:
            with in_words(config.url):
                page, best, table = write_report(study, config)
                print(
                    f"best: validation {study.best_value:.2%}, trial {study.best_trial.number} of {len(study.trials)}"
                )
            print(f"report in {page}, all trials in {table}; train the best with: "
                  f"python -m experiments.train --config {best}")  # fmt: skip


if __name__ == "__main__":
    run(main, GOES_ON)
