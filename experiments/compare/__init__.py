"""Comparisons of models under one protocol: ``python -m experiments.compare SUITE.yaml``."""
