"""Scripts: each is one command, ``python -m experiments.NAME``."""
