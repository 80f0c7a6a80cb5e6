"""Known functions, and small nets that learn them.

``tasks`` are functions to fit, ``nets`` the KANs and MLPs; ``least_squares`` fits nets to points, and ``rivals`` finds
the best MLP by it; ``formulas`` goes on from points to a formula. ``poisson`` is the equation that ``experiments.pde``
solves, ``planted`` the convolution that ``experiments.symbolic`` looks for, ``special`` the functions of
``experiments.special``, and ``feynman`` those of ``experiments.feynman`` and ``experiments.recovery``. Those that
``experiments.equations`` solves are in ``equations``, their solutions in ``references``; ``kinds`` of net are trained
by ``solving``, and ``fields`` draws what they find.
"""
