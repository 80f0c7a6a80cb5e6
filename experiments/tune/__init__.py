"""The search for settings, by ``python -m experiments.tune``.

``config`` says what is searched, ``storage`` where a study is kept and what of it is done. ``trial`` is one training
run, ``worker`` makes one after the other, and ``supervising`` starts several workers. ``report`` tells what they found.
"""
