"""Least-squares fits of c·f(a·x + b) + d, for many curves and many functions f at once.

A search over a and b first, in which c and d are left to linear regression; curves that share their points share the
values of f, so the search is a matrix product. Then Gauss–Newton steps on a and b alone, c and d eliminated as before
(variable projection, Golub and Pereyra 1973; the derivative is Kaufman's 1975), in float64.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from convkan.basis.functions import NamedFunction
from convkan.interpret.symbolic.domains import affine_of, slopes_of, starts

NUMBERS_AT_A_TIME = 2**21  # in one array of the search
NUMBERS_IN_CACHE = 2**17  # in one array of the refinement
STARTS = 2  # refined for each curve, function and, where it matters, sign of a
FIRST_STEPS, LAST_STEPS = 6, 40
FLATTEST = 1e-7  # spread of f over its size, below which rounding would be fitted


@dataclass(frozen=True)
class Samples:
    """Curves at the points of their channel, brought to a common scale: u in [−1, 1], y of mean 0 and norm 1.

    Attributes:
        u: Points in order.
        y: Values; 0 for curves that are constant to rounding.
        middle: x is middle + half·u.
        half: See there; 1 for channels without spread.
        mean: Values were mean + norm·y.
        norm: See there; 0 for constant curves.
        eps: Relative precision of the values.
    """

    u: Float[Tensor, "channels points"]
    y: Float[Tensor, "channels curves points"]
    middle: Float[Tensor, " channels"]
    half: Float[Tensor, " channels"]
    mean: Float[Tensor, "channels curves"]
    norm: Float[Tensor, "channels curves"]
    eps: float

    @classmethod
    def of(
        cls, x: Float[Tensor, "channels points"], y: Float[Tensor, "channels curves points"], eps: float
    ) -> "Samples":
        """Samples of curves at points in order."""
        x, y = x.double(), y.double()
        low, high = x.amin(1), x.amax(1)
        half = (high - low) / 2
        flat = half <= 8 * eps * torch.maximum(low.abs(), high.abs())
        half = torch.where(flat, 1, half)
        mean = y.mean(2)
        rise = y - mean.unsqueeze(2)
        norm = rise.norm(dim=2)
        norm = torch.where((norm <= 8 * eps * y.norm(dim=2)) | flat.unsqueeze(1), 0, norm)
        shape = torch.where(norm.unsqueeze(2) > 0, rise / norm.unsqueeze(2).clamp_min(torch.finfo(y.dtype).tiny), 0)
        middle = (low + high) / 2
        return cls(((x - middle.unsqueeze(1)) / half.unsqueeze(1)).clamp(-1, 1), shape, middle, half, mean, norm, eps)


@dataclass(frozen=True)
class Fits:
    """One function fitted to every curve.

    Attributes:
        theta: See ``affine_of``.
        sign: Of a.
        unexplained: The share of the variance that is not explained, 1 − R².
    """

    theta: Float[Tensor, "channels curves 2"]
    sign: Float[Tensor, "channels curves"]
    unexplained: Float[Tensor, "channels curves"]


@torch.no_grad()
def fit(samples: Samples, function: NamedFunction) -> Fits:
    """A good fit of the function to every curve; ``refined`` makes it a precise one."""
    if function.name == "0":
        zero = samples.norm.new_zeros(())
        return Fits(zero.expand(*samples.norm.shape, 2), zero.expand_as(samples.norm), (samples.norm > 0).double())
    theta, sign = _searched(samples, function)  # (channels, curves, starts, …)
    count = theta.shape[2]
    channel = torch.arange(len(samples.u), device=theta.device).view(-1, 1, 1).expand(sign.shape)
    curve = torch.arange(samples.y.shape[1], device=theta.device).view(1, -1, 1).expand(sign.shape)
    theta, unexplained = _refined(
        samples, function, theta.flatten(0, 2), sign.flatten(), channel.flatten(), curve.flatten(), FIRST_STEPS
    )
    theta, unexplained = theta.view(*sign.shape, 2), unexplained.view(sign.shape)
    best = (
        unexplained.argmin(2, keepdim=True) if count > 1 else torch.zeros_like(unexplained[..., :1], dtype=torch.long)
    )
    return Fits(
        theta.gather(2, best.unsqueeze(-1).expand(-1, -1, 1, 2)).squeeze(2),
        sign.gather(2, best).squeeze(2),
        unexplained.gather(2, best).squeeze(2),
    )


@torch.no_grad()
def refined(samples: Samples, function: NamedFunction, fits: Fits, wanted: Tensor) -> Fits:
    """More steps for the fits of some curves, (channels, curves) of booleans."""
    channel, curve = wanted.nonzero(as_tuple=True)
    if function.name == "0" or not len(channel):
        return fits
    theta, unexplained = _refined(samples, function, fits.theta[wanted], fits.sign[wanted], channel, curve, LAST_STEPS)
    all_theta, all_unexplained = fits.theta.clone(), fits.unexplained.clone()
    all_theta[wanted], all_unexplained[wanted] = theta, unexplained
    return Fits(all_theta, fits.sign, all_unexplained)


def _searched(samples: Samples, function: NamedFunction) -> tuple[Tensor, Tensor]:
    """The best θ and sign for each curve, in each of a few ranges of a: (channels, curves, starts, 2) and without 2."""
    grid, sign = starts(function, samples.u)
    count, points = grid.shape[1], samples.u.shape[1]
    both_signs = function.parity is None and function.free == "ab"
    parts = min(STARTS * (1 + both_signs), count)
    found = []
    for part in torch.arange(len(samples.u), device=grid.device).split(max(1, NUMBERS_AT_A_TIME // (count * points))):
        a, b = affine_of(grid if len(grid) == 1 else grid[part], sign, function.domain)
        values = function.value(a.unsqueeze(-1) * samples.u[part].unsqueeze(1) + b.unsqueeze(-1))
        directions, _ = _direction(values)
        fitness = torch.einsum("c s p, c e p -> c e s", directions.float(), samples.y[part].float()).abs()
        best, offset = [], 0
        for piece in fitness.tensor_split(parts, dim=2):
            best.append(piece.argmax(2) + offset)
            offset += piece.shape[2]
        found.append(torch.stack(best, dim=2))
    chosen = torch.cat(found)
    channel = torch.arange(len(chosen), device=grid.device).view(-1, 1, 1)
    return grid.expand(len(chosen), -1, -1)[channel, chosen], sign[chosen]


def _direction(values: Float[Tensor, "*fits points"]) -> tuple[Tensor, Float[Tensor, "*fits"]]:
    """Values of mean 0 and norm 1, and their norm before: both 0 where they are not finite or all but constant."""
    rise = values - values.mean(-1, keepdim=True)
    norm = torch.linalg.vector_norm(rise, dim=-1)
    usable = (norm > FLATTEST * torch.linalg.vector_norm(values, dim=-1)) & norm.isfinite()  # NaN is not
    return torch.where(usable.unsqueeze(-1), rise / norm.unsqueeze(-1), 0), torch.where(usable, norm, 0)


def _refined(
    samples: Samples,
    function: NamedFunction,
    theta: Float[Tensor, "fits 2"],
    sign: Float[Tensor, " fits"],
    channel: Int[Tensor, " fits"],
    curve: Int[Tensor, " fits"],
    steps: int,
) -> tuple[Float[Tensor, "fits 2"], Float[Tensor, " fits"]]:
    """Levenberg–Marquardt steps on θ; the unexplained share, too."""
    size = max(1, NUMBERS_IN_CACHE // samples.u.shape[1])
    done = [
        _steps(
            function, theta[some], sign[some], samples.u[channel[some]], samples.y[channel[some], curve[some]], steps
        )
        for some in torch.arange(len(theta), device=theta.device).split(size)
    ]
    return torch.cat([new for new, _ in done]), torch.cat([unexplained for _, unexplained in done])


def _steps(
    function: NamedFunction, theta: Tensor, sign: Tensor, u: Tensor, y: Tensor, steps: int
) -> tuple[Tensor, Tensor]:
    free = theta.new_tensor(["a" in function.free, "b" in function.free])
    unexplained, normal, pull = _linearised(function, theta, sign, u, y)
    damping = torch.full_like(unexplained, 1e-2)
    active = torch.arange(len(unexplained), device=unexplained.device)
    for _ in range(steps if free.any() else 0):
        here = normal[active]
        size = here.diagonal(dim1=-2, dim2=-1) * damping[active].unsqueeze(-1) + 1e-30 + (1 - free)
        step = torch.linalg.solve_ex(here + torch.diag_embed(size), pull[active].unsqueeze(-1)).result.squeeze(-1)
        step = torch.where(step.isfinite(), step, 0) * free
        candidate = theta[active] + step / step.abs().amax(-1, keepdim=True).clamp_min(1)
        new_unexplained, new_normal, new_pull = _linearised(function, candidate, sign[active], u[active], y[active])
        better = new_unexplained < unexplained[active]
        converged = ((unexplained[active] - new_unexplained).abs() <= 1e-7 * unexplained[active]) | (
            new_unexplained < 1e-28
        )
        changed = active[better]
        theta[changed], unexplained[changed] = candidate[better], new_unexplained[better]
        normal[changed], pull[changed] = new_normal[better], new_pull[better]
        damping[active] = (damping[active] * torch.where(better, 1 / 8, 6)).clamp(1e-12, 1e12)
        active = active[~converged]
        if not len(active):
            break
    return theta, unexplained


def _linearised(
    function: NamedFunction, theta: Tensor, sign: Tensor, u: Tensor, y: Tensor
) -> tuple[Float[Tensor, " fits"], Float[Tensor, "fits 2 2"], Float[Tensor, "fits 2"]]:
    """The unexplained share at θ, and JᵀJ and Jᵀr there, of the residuals r."""
    a, b = affine_of(theta, sign, function.domain)
    with torch.enable_grad():
        z = torch.addcmul(b.unsqueeze(-1), a.unsqueeze(-1), u).requires_grad_()
        values = function.value(z)
        (slope,) = torch.autograd.grad(values.sum(), z) if values.requires_grad else (torch.zeros_like(z),)
    direction, norm = _direction(values.detach())
    share = (direction.unsqueeze(-2) @ y.unsqueeze(-1)).flatten(1)
    residual = y - share * direction
    unexplained = torch.where(norm > 0, residual.square().sum(-1), 1).clamp_max(1)
    # By a and b, f changes by u·f′ and f′, of which c and d take the part along f and 1. r has none.
    tangents = torch.stack([slope * u, slope], dim=-2)
    along = tangents @ torch.stack([direction, torch.full_like(direction, u.shape[-1] ** -0.5)], dim=-1)
    gram = tangents @ tangents.mT - along @ along.mT
    outer = slopes_of(theta, sign, function.domain)
    scale = torch.where(norm > 0, share[:, 0] / norm, 0).view(-1, 1, 1)
    normal = scale.square() * (outer.mT @ gram @ outer)
    pull = scale * (outer.mT @ (tangents @ residual.unsqueeze(-1)))
    usable = (normal.isfinite().all(-1) & pull.isfinite().all(-1)).all(-1)
    return (
        unexplained,
        torch.where(usable.view(-1, 1, 1), normal, 0),
        torch.where(usable.unsqueeze(-1), pull.squeeze(-1), 0),
    )


@torch.no_grad()
def affines(samples: Samples, function: NamedFunction, fits: Fits) -> Float[Tensor, "channels curves 4"]:
    """a, b, c and d of fits for the points as they were, written in the simplest of the equivalent ways."""
    a, b = affine_of(fits.theta, fits.sign, function.domain)
    half, middle = samples.half.unsqueeze(1), samples.middle.unsqueeze(1)
    plain = a / half, b - a / half * middle
    simple, valid = _regressed(samples, function, *_simplest(function, *plain))
    if not bool(valid.all()):
        simple = torch.where(valid.unsqueeze(-1), simple, _regressed(samples, function, *plain)[0])
    return simple


def _simplest(function: NamedFunction, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """An a of 1 or −1 where only its sign matters, a b of 0 where it does not, and else within half a period of 0."""
    if function.free == "":
        return torch.ones_like(a), torch.zeros_like(b)
    if "a" not in function.free:
        return a.sign(), b / a.abs()
    if "b" not in function.free:
        return a, torch.zeros_like(b)
    if function.period is None:
        return a, b
    z = torch.linspace(0, 1, 7, device="cpu").to(a) * function.period
    period = function.period
    if torch.allclose(function.value(z + period / 2), -function.value(z), atol=1e-9):  # the rest is the sign of c
        period = period / 2
    return a, b - period * (b / period).round()


def _regressed(
    samples: Samples, function: NamedFunction, a: Tensor, b: Tensor
) -> tuple[Float[Tensor, "channels curves 4"], Tensor]:
    """The same with c and d, and where that makes sense."""
    x = samples.middle.unsqueeze(1) + samples.half.unsqueeze(1) * samples.u
    parts = []
    for channel in range(len(x)):  # all at once would hold every value of every curve
        values = function.value(a[channel].unsqueeze(-1) * x[channel] + b[channel].unsqueeze(-1))
        direction, norm = _direction(values)
        share = (direction * samples.y[channel]).sum(-1) * samples.norm[channel]
        c = torch.where(norm > 0, share / norm.clamp_min(torch.finfo(norm.dtype).tiny), 0)
        centre = torch.where(c != 0, values.mean(-1), 0)
        parts.append((torch.stack([a[channel], b[channel], c, samples.mean[channel] - c * centre], dim=-1), norm > 0))
    return torch.stack([affine for affine, _ in parts]), torch.stack([valid for _, valid in parts])
