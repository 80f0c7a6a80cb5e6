"""How fast the layers are, and beside what: ``python -m experiments.benchmark``.

``workloads`` lists what is done: by ``tasks`` of layers and training steps, whose ``contenders`` are ours, plain ones
and ``peers``. ``measure`` times them; ``ratios`` says which times are held against which, and ``report`` what came out.
"""
