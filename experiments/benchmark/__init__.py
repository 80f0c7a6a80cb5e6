"""How fast the layers are, and beside what: ``python -m experiments.benchmark``."""
