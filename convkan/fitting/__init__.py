"""Fitting: small nets to points and to equations, by least squares on all samples at once.

``fit`` is for points, ``fit_residuals`` for equations. Inside, from the lowest up: ``smoothing`` is the penalty on
rough splines, ``objective`` the sum of squares with its derivatives, ``linear`` solves for one step of
``levenberg_marquardt``, beside which ``gradient_steps`` has LBFGS and Adam; ``stages`` does one grid after the other
from one random start after the other, ``history`` remembers, and ``arguments`` checks what users give.
"""

from convkan.fitting.fit import fit, fit_residuals
from convkan.fitting.history import History, Stage
from convkan.fitting.stages import Method

__all__ = ["History", "Method", "Stage", "fit", "fit_residuals"]
