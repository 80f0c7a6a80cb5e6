"""Named functions f in place of splines, as c·f(a·x + b) + d, and the formula of a net that has no others.

``domains`` keeps a·x + b where f is defined; ``fit`` finds the four numbers of one function, ``ranking`` compares the
fits of several, and ``suggest`` does so for the edges of a layer. ``fix`` puts a suggestion in its edge's place. Once
all edges of a model have theirs, which ``composition`` checks, ``formula`` writes them into each other; ``numbers``
rounds and recognises what stands in expressions, and ``whole`` keeps sympy from tearing arguments apart. ``compile``
goes the other way, from a formula to the edges of a net.
"""

from convkan.interpret.symbolic.compile import FormulaPlan, plan_formula
from convkan.interpret.symbolic.fix import auto, fix, fixed_edges, live_edges
from convkan.interpret.symbolic.formula import formula, formula_error, latex
from convkan.interpret.symbolic.numbers import recognized
from convkan.interpret.symbolic.suggest import Suggestion, suggest

__all__ = [
    "FormulaPlan",
    "Suggestion",
    "auto",
    "fix",
    "fixed_edges",
    "formula",
    "formula_error",
    "latex",
    "live_edges",
    "plan_formula",
    "recognized",
    "suggest",
]
