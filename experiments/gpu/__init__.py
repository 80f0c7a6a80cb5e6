"""Whether all is right and fast on a GPU, in one command: ``python -m experiments.gpu``.

``work`` has the options and what a part is handed. The parts are ``correctness`` and ``memory``, which compute here,
and those that are commands of their own, started by ``children``: the benchmark, a training, the test suite. ``report``
makes a page of what they found.
"""
