"""From random starts on a coarse grid to the finest: what a fit does one after the other."""

import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from math import inf, isfinite
from typing import Any, Literal

import torch
from torch import Tensor, nn

from convkan.basis import GriddedBasis
from convkan.fitting.gradient_steps import adam, lbfgs
from convkan.fitting.history import History, Line, Stage
from convkan.fitting.levenberg_marquardt import levenberg_marquardt
from convkan.fitting.objective import Objective, Term
from convkan.grid import adapt_grids, refine_grids
from convkan.nn import KANLayer
from convkan.nn.recording import evaluating

Method = Literal["lm", "lbfgs", "adam"]
LESS = 1e-3  # relative: by how much a score must fall to count as falling
FOLLOWS = 1.0  # ``grid_eps``: grids go where inputs are, and stay equally spaced


@dataclass(frozen=True)
class Plan:
    """What a fit is to do; arguments as of ``convkan.fitting.fit``, checked and complete."""

    method: Method
    steps: int
    learning_rate: float
    grids: tuple[int | None, ...]
    adapt: bool
    restarts: int
    carried: int
    patience: int | None
    noise: float | None
    seconds: float | None
    smoothness: float
    seed: int
    sparsity: float


@dataclass(frozen=True)
class Found:
    """A stage, the state it ended in, and by what this is chosen."""

    stage: Stage
    state: dict[str, Any]
    score: float


@dataclass
class Fit:
    """A fit under way.

    Attributes:
        model: What is fitted.
        terms: What is squared.
        points: Inputs of the model, for grids to follow.
        validate: The mean square error on the validation part, for the model as it is; or None.
        plan: What is to be done.
        line: Where it shows that it goes on.
        history: How it went so far.
        began: When it began.
    """

    model: nn.Module
    terms: Sequence[Term]
    points: Sequence[Tensor]
    validate: Callable[[], float] | None
    plan: Plan
    line: Line
    history: History = field(default_factory=History)
    began: float = field(default_factory=time.perf_counter)

    def run(self) -> History:
        """Do it; the model is left in the best state found.

        Raises:
            ValueError: From no start is there a finite residual to begin with.
        """
        plan = self.plan
        with evaluating(self.model):
            firsts: list[Found] = []
            begun = deepcopy(self.model.state_dict())
            for start in range(plan.restarts):
                if start:
                    self.model.load_state_dict(begun)
                    reset(self.model, plan.seed + start)
                firsts.append(self.first(start))
                if self.is_over() or self.is_noise(firsts[-1].stage.score):
                    break
            if not any(isfinite(one.stage.loss) for one in firsts):
                self.line.close()
                self.model.load_state_dict(begun)
                raise ValueError(
                    "model must begin with finite residuals, from one of the starts at least, "
                    f"got mean squares {', '.join(str(one.stage.loss) for one in firsts)}"
                )
            firsts.sort(key=lambda one: one.score)
            best = min((self.later(one) for one in firsts[: plan.carried]), key=lambda one: one.score)
            self.model.load_state_dict(best.state)
        self.model.zero_grad(set_to_none=True)
        self.history.best = next(index for index, one in enumerate(self.history.stages) if one is best.stage)
        self.line.close()
        return self.history

    def first(self, start: int) -> Found:
        """The coarsest grid: grids go where inputs are, and again once the functions are known."""
        found = self.stage(start, self.plan.grids[0], None)
        done = self.is_over() or self.is_noise(found.stage.score) or not isfinite(found.stage.loss)
        if self.plan.adapt and not done and grid_sizes(self.model):
            found = self.stage(start, self.plan.grids[0], found)
        return found

    def later(self, found: Found) -> Found:
        """The finer grids, as long as each does better than the one before."""
        for grid_size in self.plan.grids[1:]:
            if self.is_over() or self.is_noise(found.stage.score):
                break
            before = found
            found = self.stage(before.stage.start, grid_size, before)
            if found is before:
                break
        return found

    def stage(self, start: int, grid_size: int | None, before: Found | None) -> Found:
        """One stage, from a state or the model's own; returns its best state, or that before if it is no worse."""
        if before is not None:
            self.model.load_state_dict(before.state)
        self.prepare(grid_size)
        objective = Objective(self.model, self.terms, self.plan.smoothness, self.plan.sparsity)
        watch = Watch(self, objective, f"start {start + 1}" + (f", grid size {grid_size}" if grid_size else ""))
        taken = 0 if watch.ended else self.optimise(objective, watch)
        watched = (watch.loss, watch.validation)
        ended = watch.ended or ("steps" if taken >= self.plan.steps else "converged")
        stage = Stage(start, grid_size, taken, *watched, time.perf_counter() - self.began, ended)
        self.history.stages.append(stage)
        if before is not None and not watch.score < before.score:
            return before
        return Found(stage, watch.state, watch.score)

    def prepare(self, grid_size: int | None) -> None:
        """Grids where the inputs are, and as fine as wanted."""
        sizes = grid_sizes(self.model)
        if self.plan.adapt and sizes:
            adapt_grids(self.model, self.points, grid_eps=FOLLOWS)
        if grid_size is not None and any(size != grid_size for size in sizes):
            refine_grids(self.model, grid_size)

    def optimise(self, objective: Objective, watch: "Watch") -> int:
        """Take the steps of a stage; returns how many."""
        plan = self.plan
        if plan.method == "lm":
            return levenberg_marquardt(objective, plan.steps, watch.look)
        steps = lbfgs if plan.method == "lbfgs" else adam
        return steps(objective, plan.steps, plan.learning_rate, watch.look)

    def is_over(self) -> bool:
        """Whether the time is spent."""
        return self.plan.seconds is not None and time.perf_counter() - self.began > self.plan.seconds

    def is_noise(self, score: float) -> bool:
        """Whether what is left is noise."""
        return self.plan.noise is not None and score <= self.plan.noise**2


class Watch:
    """Looks on while a stage goes, keeps its best state, and says when to stop.

    Attributes:
        score: The least score so far, by which states are chosen.
        loss: The loss of that state.
        validation: Its validation error, or None without a validation part.
        state: That state.
        ended: Why it said to stop, or None.
    """

    def __init__(self, fit: Fit, objective: Objective, title: str) -> None:
        self.fit, self.objective, self.title = fit, objective, title
        self.steps = self.fell = 0
        self.ended: str | None = None
        self.score = self.loss = inf
        self.validation: float | None = None
        self.state: dict[str, Any] = {}
        self.note(self.fresh_loss(), first=True)
        if not isfinite(self.loss):  # no step leads from there
            self.ended = "diverged"

    def fresh_loss(self) -> float:
        """The mean square residual for the model as it is."""
        with torch.no_grad():
            return float(self.objective.residuals(self.objective.vector()).square().sum())

    def look(self, loss: float, taken: int) -> bool:
        """Note how it stands after so many steps; returns whether to stop."""
        self.steps = taken
        fit, plan = self.fit, self.fit.plan
        loss = loss if plan.method == "lm" else self.fresh_loss()  # others tell that before the step, with penalties
        self.note(loss)
        if not isfinite(loss):
            self.ended = "diverged"
        elif fit.is_noise(self.loss if self.validation is None else self.validation):
            self.ended = "noise"
        elif fit.is_over():
            self.ended = "seconds"
        elif plan.patience is not None and taken - self.fell >= plan.patience:
            self.ended = "patience"
        return self.ended is not None

    def note(self, loss: float, first: bool = False) -> None:
        """Put a look into the history, and keep the state if it is the best."""
        fit = self.fit
        validation = None if fit.validate is None else fit.validate()
        if validation is not None:
            fit.history.validation.append(validation)
        score = loss if validation is None else validation
        fit.history.loss.append(loss)
        fit.history.stage.append(len(fit.history.stages))
        fit.history.seconds.append(time.perf_counter() - fit.began)
        fit.line.say(f"{self.title}, step {self.steps}: RMSE {abs(score) ** 0.5:.2e}")
        if fit.plan.sparsity:  # the state wanted is not that with the least error
            score += self.objective.spread()
        score = score if isfinite(score) else inf
        if score < self.score * (1 - LESS):
            self.fell = self.steps
        if first or score < self.score:
            self.score, self.loss, self.validation = score, loss, validation
            self.state = deepcopy(fit.model.state_dict())


def grid_sizes(model: nn.Module) -> list[int]:
    """The grid size of each layer that has one."""
    bases = [module.basis for module in model.modules() if isinstance(module, KANLayer)]
    return [basis.grid_size for basis in bases if isinstance(basis, GriddedBasis)]


def reset(model: nn.Module, seed: int) -> None:
    """Draw a model's parameters anew, as its modules do when they are made; a module with fixed ones stays."""
    devices = {tensor.device.index or 0 for tensor in model.parameters() if tensor.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(devices)):
        torch.manual_seed(seed)
        for module in model.modules():
            draw = getattr(module, "reset_parameters", None)
            if callable(draw) and all(parameter.requires_grad for parameter in module.parameters()):
                draw()
