"""One step of Levenberg–Marquardt: min over δ of ‖r + Jδ‖² + ‖√λ·δ‖², in five ways that one size or another needs.

``linearized`` chooses. The triangle of J by QR loses no digits, for few parameters; JᵀJ by Cholesky takes less time,
and where J is kept, what it loses is found again; JJᵀ is the smaller of both where residuals are few; and where neither
fits, LSMR never makes a matrix. J itself is made a chunk of samples at a time, and kept only where it is small.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from convkan.fitting.objective import Objective

MOST_FOR_QR = 600  # parameters
MOST_FOR_GRAM = 5000
MOST_NUMBERS = 2**26  # of a J that is kept
LEAST_SHARE = 1e-10  # of damping in a column's sum of squares: of less Cholesky's rounding is too much of a step
REFINEMENTS = 2
LSMR_ITERATIONS = 200


class Linearized(ABC):
    """The problem near a vector of parameters.

    Attributes:
        gradient: Jᵀr, (parameters,).
        squares: The sum of squares of each column of J, (parameters,).
    """

    gradient: Float[Tensor, " parameters"]
    squares: Float[Tensor, " parameters"]

    @abstractmethod
    def step(self, damping: Float[Tensor, " parameters"]) -> Float[Tensor, " parameters"] | None:
        """δ for positive λ; None if numbers do not suffice, and more damping is needed."""


def linearized(objective: Objective, vector: Float[Tensor, " parameters"]) -> Linearized:
    """The problem near a vector, in the way that suits its size."""
    size, rows = objective.size, objective.count
    if size <= MOST_FOR_QR:
        return Refined(objective, vector) if rows * size <= MOST_NUMBERS else Triangle(objective, vector)
    if not objective.smoothing.blocks and rows < size and rows * size <= MOST_NUMBERS:
        return Residuals(objective, vector)
    return Normal(objective, vector) if size <= MOST_FOR_GRAM else Products(objective, vector)


class Triangle(Linearized):
    """J as R of its QR decomposition, residuals an extra column.

    Args:
        objective: What is to be minimised.
        vector: Where.
        chunks: J and the residuals in parts, if they are known already.
    """

    def __init__(
        self, objective: Objective, vector: Tensor, chunks: Iterable[tuple[Tensor, Tensor]] | None = None
    ) -> None:
        smooth = objective.smoothing
        constant = smooth.matrix().to(vector)
        triangle = _triangle(torch.cat([constant, smooth.rows(vector).unsqueeze(1)], dim=1))
        for rows, residuals in objective.jacobian(vector) if chunks is None else chunks:
            triangle = _triangle(torch.cat([triangle, torch.cat([rows, residuals.unsqueeze(1)], dim=1)]))
        self.triangle = triangle
        self.gradient = triangle[:, :-1].mT @ triangle[:, -1]
        self.squares = triangle[:, :-1].square().sum(0)

    def step(self, damping: Tensor) -> Tensor | None:
        """By QR of R over √λ."""
        more = torch.cat([damping.sqrt().diag(), damping.new_zeros(len(damping), 1)], dim=1)
        whole = _triangle(torch.cat([self.triangle, more]))
        size = len(damping)
        if not whole.isfinite().all() or (whole[:size, :size].diagonal() == 0).any():
            return None
        return -torch.linalg.solve_triangular(whole[:size, :size], whole[:size, size:], upper=True)[:, 0]


def _triangle(matrix: Tensor) -> Tensor:
    return torch.linalg.qr(matrix, mode="r").R


class Refined(Linearized):
    """JᵀJ by Cholesky, and J as it is, by which steps are made right again; by QR where damping is too small for that.

    Source: Björck, "Numerical Methods for Least Squares Problems" (1996), sec. 2.9.3, iterative refinement of the
    normal equations.
    """

    def __init__(self, objective: Objective, vector: Tensor) -> None:
        rows, residuals = zip(*objective.jacobian(vector), strict=True)
        self.objective, self.vector, self.smooth = objective, vector, objective.smoothing
        self.rows, self.residuals = torch.cat(rows), torch.cat(residuals)
        self.rough = self.smooth.rows(vector)
        self.gram = self.rows.mT @ self.rows
        self.smooth.add_gram(self.gram)
        self.gradient = self._back(self.residuals, self.rough)
        self.squares = self.gram.diagonal().clone()

    @cached_property
    def triangle(self) -> Triangle:
        """The other way."""
        return Triangle(self.objective, self.vector, [(self.rows, self.residuals)])

    def _back(self, residuals: Tensor, rough: Tensor) -> Tensor:
        return self.rows.mT @ residuals + self.smooth.back(rough)

    def step(self, damping: Tensor) -> Tensor | None:
        """By Cholesky of columns of equal size."""
        squares = self.squares + damping
        if not (damping >= LEAST_SHARE * squares).all():
            return self.triangle.step(damping)
        root = squares.sqrt()
        scaled = self.gram / root / root.unsqueeze(1)
        scaled.diagonal().fill_(1)
        factor, info = torch.linalg.cholesky_ex(scaled)
        if info:
            return self.triangle.step(damping)
        move, wrong = torch.zeros_like(root), self.gradient
        for _ in range(1 + REFINEMENTS):
            move = move - torch.cholesky_solve((wrong / root).unsqueeze(1), factor)[:, 0] / root
            left = self.rows @ move + self.residuals, self.smooth.rows(move) + self.rough
            wrong = self._back(*left) + damping * move
        return move


class Normal(Linearized):
    """JᵀJ and Jᵀr, summed up."""

    def __init__(self, objective: Objective, vector: Tensor) -> None:
        smooth = objective.smoothing
        self.gram = vector.new_zeros(len(vector), len(vector))
        smooth.add_gram(self.gram)
        self.gradient = smooth.back(smooth.rows(vector))
        for rows, residuals in objective.jacobian(vector):
            self.gram.addmm_(rows.mT, rows)
            self.gradient += rows.mT @ residuals
        self.squares = self.gram.diagonal().clone()

    def step(self, damping: Tensor) -> Tensor | None:
        """By Cholesky."""
        factor, info = torch.linalg.cholesky_ex(self.gram + damping.diag())
        if info:
            return None
        return -torch.cholesky_solve(self.gradient.unsqueeze(1), factor)[:, 0]


class Residuals(Linearized):
    """J as it is, with fewer rows than columns: δ = −λ⁻¹Jᵀ·(Jλ⁻¹Jᵀ + 1)⁻¹·r."""

    def __init__(self, objective: Objective, vector: Tensor) -> None:
        rows, residuals = zip(*objective.jacobian(vector), strict=True)
        self.rows, self.residuals = torch.cat(rows), torch.cat(residuals)
        self.gradient = self.rows.mT @ self.residuals
        self.squares = self.rows.square().sum(0)

    def step(self, damping: Tensor) -> Tensor | None:
        """By Cholesky of the smaller matrix."""
        scaled = self.rows / damping
        gram = scaled @ self.rows.mT
        gram.diagonal().add_(1)
        factor, info = torch.linalg.cholesky_ex(gram)
        if info:
            return None
        return -scaled.mT @ torch.cholesky_solve(self.residuals.unsqueeze(1), factor)[:, 0]


class Products(Linearized):
    """Products of J and Jᵀ with vectors alone, by backward derivatives, those of J by the derivative of Jᵀ's.

    Source of the method: Fong and Saunders, "LSMR: an iterative algorithm for sparse least-squares problems" (2011).
    """

    def __init__(self, objective: Objective, vector: Tensor) -> None:
        self.objective = objective
        values, self.pull = torch.func.vjp(objective.rows, objective.unpack(vector))[:2]
        self.push = torch.func.vjp(lambda rows: self.pull(rows)[0], torch.zeros_like(values))[1]
        self.values = values
        smooth = objective.smoothing
        self.gradient = smooth.back(smooth.rows(vector))
        self.squares = smooth.squares().to(vector)
        residuals = []
        for rows, found in objective.jacobian(vector):
            self.gradient += rows.mT @ found
            self.squares += rows.square().sum(0)
            residuals.append(found)
        self.residuals = torch.cat([*residuals, smooth.rows(vector)])

    def forward(self, direction: Tensor) -> Tensor:
        """J times a vector."""
        [found] = self.push(self.objective.unpack(direction))
        return torch.cat([found.detach().double(), self.objective.smoothing.rows(direction)])

    def backward(self, rows: Tensor) -> Tensor:
        """Jᵀ times a vector."""
        count = len(self.values)
        [found] = self.pull(rows[:count].to(self.values))
        whole = torch.cat([found[name].detach().double().flatten() for name in self.objective.trained])
        return whole + self.objective.smoothing.back(rows[count:])

    def step(self, damping: Tensor) -> Tensor | None:
        """By LSMR in the variables √λ·δ."""
        lsmr, operator = _scipy()
        root = damping.sqrt()
        shape = (len(self.residuals), len(root))

        def forward(scaled: Any) -> Any:
            return self.forward(torch.from_numpy(scaled).to(root) / root).cpu().numpy()

        def backward(rows: Any) -> Any:
            return (self.backward(torch.from_numpy(rows).to(root)) / root).cpu().numpy()

        matrix = operator(shape, matvec=forward, rmatvec=backward, dtype="float64")
        found = lsmr(matrix, -self.residuals.cpu().numpy(), damp=1.0, atol=1e-8, btol=1e-8, maxiter=LSMR_ITERATIONS)[0]
        return torch.from_numpy(found).to(root) / root


def _scipy() -> tuple[Any, Any]:
    try:
        from scipy.sparse.linalg import LinearOperator, lsmr
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"fitting more than {MOST_FOR_GRAM:,} parameters by Levenberg–Marquardt needs the package scipy, which is "
            'not installed: pip install "convkan-vision[interpret]"'
        ) from None
    return lsmr, LinearOperator
