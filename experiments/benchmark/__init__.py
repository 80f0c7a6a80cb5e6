"""How fast the layers are, and beside what: ``python -m experiments.benchmark``.

``workloads`` lists what is done: by ``tasks`` of layers and training steps, whose ``contenders`` are ours, plain ones
and ``peers``. ``measure`` times them; ``ratios`` says which times are held against which, and ``report`` what came out.

``panel`` lists layers of every size, ``rows`` with their rivals, the ``obvious`` way first, and ``whole_models``;
``scores`` says what is held against what there, and ``panel_report`` what came out.
"""
