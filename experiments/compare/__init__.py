"""Comparisons of models under one protocol: ``python -m experiments.compare SUITE.yaml``.

A ``suite`` is read from its file (by ``checking``); ``schedule`` works out its runs, of which ``matching`` chooses the
widths and ``search`` the trials, and ``jobs`` runs them. ``gathering`` makes a record of what they left, and ``report``
a page of the record: ``tables``, ``verdict``, ``figures``. ``scoreboard`` puts the records of several in one table.
"""
