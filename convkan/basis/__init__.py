"""Univariate bases: pure maths, without layers or parameters."""

from typing import Any

from convkan.basis.activation import ACTIVATIONS, FAMILIES, NETWORK_ACTIVATIONS, Activation, get_activation
from convkan.basis.base import Basis, GriddedBasis
from convkan.basis.bernstein import Bernstein
from convkan.basis.bspline import BSpline
from convkan.basis.chebyshev import Chebyshev
from convkan.basis.fourier import Fourier
from convkan.basis.gram import Gram
from convkan.basis.jacobi import Jacobi
from convkan.basis.legendre import Legendre
from convkan.basis.rational import Rational
from convkan.basis.rbf import RBF
from convkan.basis.relukan import ReLUKAN
from convkan.basis.wavelet import DoG, MexicanHat, Morlet

BASES: dict[str, type[Basis]] = {
    "bspline": BSpline,
    "chebyshev": Chebyshev,
    "rbf": RBF,
    "bernstein": Bernstein,
    "dog": DoG,
    "fourier": Fourier,
    "gram": Gram,
    "jacobi": Jacobi,
    "legendre": Legendre,
    "mexican_hat": MexicanHat,
    "morlet": Morlet,
    "rational": Rational,
    "relukan": ReLUKAN,
}


def create_basis(basis: Basis | str, **options: Any) -> Basis:
    """A basis from its name in ``BASES`` and its own options; a ready basis passes through.

    Raises:
        TypeError: ``basis`` is neither, or an option is not one of this basis.
        ValueError: No basis has this name; the message lists those there are.

    Example:
        >>> create_basis("chebyshev", degree=3)
        Chebyshev(degree=3)
    """
    if isinstance(basis, Basis):
        if options:
            raise TypeError(f"options {sorted(options)} go with the name of a basis, not with a ready {basis!r}")
        return basis
    if not isinstance(basis, str):
        raise TypeError(f"basis must be a Basis such as BSpline(grid_size=5) or a name, got {basis!r}")
    if basis not in BASES:
        raise ValueError(f"basis must be one of {', '.join(sorted(BASES))}; got {basis!r}")
    return BASES[basis](**options)


__all__ = [
    "ACTIVATIONS",
    "BASES",
    "FAMILIES",
    "NETWORK_ACTIVATIONS",
    "RBF",
    "Activation",
    "BSpline",
    "Basis",
    "Bernstein",
    "Chebyshev",
    "DoG",
    "Fourier",
    "Gram",
    "GriddedBasis",
    "Jacobi",
    "Legendre",
    "MexicanHat",
    "Morlet",
    "Rational",
    "ReLUKAN",
    "create_basis",
    "get_activation",
]
