"""Arguments that sympy leaves in one piece. Imports sympy: import it where it is used."""

from typing import Any

from sympy import UnevaluatedExpr


class Whole(UnevaluatedExpr):
    """A sum that stays in its brackets: sympy writes e^(x − 800) as e^−800·e^x, of which float64 makes 0·∞."""

    is_commutative = True

    def _latex(self, printer: Any) -> str:
        """In brackets, which LaTeX of sympy's own class leaves out."""
        return rf"\left({printer.doprint(self.args[0])}\right)"
