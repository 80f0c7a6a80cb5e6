"""What a fit remembers of itself, and how it shows that it goes on."""

import sys
import time
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Stage:
    """One stage of a fit, on one grid, from one start.

    Attributes:
        start: Which random start, from 0.
        grid_size: Intervals of the grids; None for a model left as it is.
        steps: Steps taken.
        loss: Mean square residual of the state that was kept, over the samples fitted.
        validation: Its mean square error on the validation part, or None without one.
        seconds: From the beginning of the fit to the end of the stage.
        ended: Why it ended: "steps", "seconds", "noise", "patience", "converged", or "diverged", to what is no number.
    """

    start: int
    grid_size: int | None
    steps: int
    loss: float
    validation: float | None
    seconds: float
    ended: str

    @property
    def score(self) -> float:
        """What states are chosen by: the validation error if there is one, else the loss."""
        return self.loss if self.validation is None else self.validation


@dataclass
class History:
    """How a fit went: a number for each look at it in the first four, in the order they were taken.

    Attributes:
        loss: Mean square residual over the samples fitted, without penalties.
        validation: Mean square error on the validation part; empty without one.
        stage: The index in ``stages`` of the stage it belongs to.
        seconds: Time since the beginning.
        stages: The stages, in the order they were done.
        best: The index in ``stages`` of the one whose state the model was left in.
    """

    loss: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    stage: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    stages: list[Stage] = field(default_factory=list)
    best: int = 0

    @property
    def kept(self) -> Stage:
        """The stage whose state the model was left in."""
        return self.stages[self.best]

    @property
    def rmse(self) -> float:
        """Root mean square error of the state kept: on the validation part if there is one."""
        return float(self.kept.score**0.5)

    @property
    def steps(self) -> int:
        """Steps taken in all stages."""
        return sum(stage.steps for stage in self.stages)

    def __repr__(self) -> str:
        """A line a stage."""
        lines = []
        for index, one in enumerate(self.stages):
            grid = "" if one.grid_size is None else f", grid size {one.grid_size}"
            validation = "" if one.validation is None else f", validation {one.validation**0.5:.2e}"
            kept = " (kept)" if index == self.best else ""
            lines.append(
                f"  start {one.start}{grid}: RMSE {one.loss**0.5:.2e}{validation}, {one.steps} steps, "
                f"{one.seconds:.1f} s, ended by {one.ended}{kept}"
            )
        return "\n".join(["History", *lines])


class Line:
    """A line on a terminal that is written over; nothing where standard error is none.

    Args:
        shown: Whether to show it; by default if standard error is a terminal.
    """

    EVERY = 0.2  # seconds

    def __init__(self, shown: bool | None) -> None:
        self.shown = sys.stderr.isatty() if shown is None else shown
        self.last = 0.0

    def say(self, text: str) -> None:
        """Show a text in place of the last, unless that came a moment ago."""
        now = time.monotonic()
        if self.shown and now - self.last > self.EVERY:
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()
            self.last = now

    def close(self) -> None:
        """Leave the line empty."""
        if self.shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
