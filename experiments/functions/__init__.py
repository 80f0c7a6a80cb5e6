"""Known functions, and small nets that learn them.

``tasks`` are functions to fit, ``nets`` the KANs and MLPs; ``least_squares`` fits nets to points, and ``rivals`` finds
the best MLP by it. ``poisson`` is the equation that ``experiments.pde`` solves, ``planted`` the convolution that
``experiments.symbolic`` looks for, and ``special`` the functions of ``experiments.special``. Those that
``experiments.equations`` solves are in ``equations``, their solutions in ``references``; ``kinds`` of net are trained
by ``solving``, and ``fields`` draws what they find.
"""
