"""How far a study has come: a bar on terminals, and in logs a line now and then."""

import time
from typing import Any

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from convkan.training.callbacks import clock

LINE_SECONDS = 30.0


class StudyProgress(Progress):
    """Rich's progress with what is being done, how much of it is done, the time it took and the time it will take.

    Where the output is not a terminal, a line says so every ``LINE_SECONDS`` in place of the bar.

    Args:
        unit: What is counted; by default nothing in particular.
    """

    def __init__(self, unit: str = "") -> None:
        counted = TextColumn(f"{{task.completed}}/{{task.total}} {unit}") if unit else MofNCompleteColumn()
        # Names may have brackets in them, which mean nothing.
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), counted, TimeElapsedColumn())
        super().__init__(*columns, TextColumn("left"), TimeRemainingColumn())
        self.unit, self._last_line = unit, time.monotonic()

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """Count on."""
        super().advance(task_id, advance)
        self._say(task_id)

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """Change what is known of a task."""
        super().update(task_id, **changes)
        self._say(task_id)

    def _say(self, task_id: TaskID) -> None:
        if self.console.is_terminal or time.monotonic() - self._last_line < LINE_SECONDS:
            return
        self._last_line = time.monotonic()
        [task] = [task for task in self.tasks if task.id == task_id]
        total = "" if task.total is None else f"/{task.total:.0f}"
        left = "" if task.time_remaining is None else f", left {clock(task.time_remaining)}"
        counted = f"{task.completed:.0f}{total} {self.unit}".strip()
        print(f"{task.description}: {counted}, after {clock(task.elapsed or 0)}{left}", flush=True)
