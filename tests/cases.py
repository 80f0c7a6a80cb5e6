"""What layers and models are tested on: a basis of each kind, how splines go on beyond their grid, and small networks.

Layers see no more of a basis than that it has a grid, or none, and what is alive; the laws of all bases of the table
are in ``test_basis``.
"""

from collections.abc import Iterable
from itertools import product
from math import gcd

from bumps import Bumps

from convkan.basis import RBF, Basis, BSpline, Chebyshev

BASIS_CASES: list[Basis] = [
    BSpline(),
    Chebyshev(),
    RBF(),
    BSpline(grid_size=4, extrapolation="clamp"),
    BSpline(grid_size=4, extrapolation="linear"),
    Bumps(),
]

# Models with millions of parameters, at a width at which they are as quick to test as others.
NARROW = {f"{kind}resnet{layers}": {"width": 4.0} for kind in ("", "kan_") for layers in (18, 34)}


def diagonal(first: Iterable, *others: Iterable, each: int = 1) -> list[tuple]:
    """Cases of several parameters: each value of ``first`` with ``each`` combinations of the others, which take turns.

    For laws that hold value by value, and of which not every combination says another thing. Each value is met, and no
    case comes twice.
    """
    first, others = list(first), [list(values) for values in others]
    combinations = list(product(*others))
    number = len(combinations)
    step = number // each + 1
    while gcd(step, number) > 1:  # or turns would meet the same values of one parameter again
        step += 1
    places = [
        (place, (place + place // number + turn * step) % number) for turn in range(each) for place in range(len(first))
    ]
    cases = [(first[place], *combinations[which]) for place, which in places]
    assert len(set(places)) == len(places)
    for position, values in enumerate(others, start=1):
        assert all(any(case[position] is value for case in cases) for value in values), "each value is to be met"
    return cases
