"""``python -m experiments.compare`` whose runs are forked (see processes.py), and end with it as always."""

import processes

from experiments.common import parent
from experiments.common.cli import GOES_ON, run
from experiments.compare import __main__ as compare
from experiments.compare import jobs


def start(command, environment, output):
    return processes.start(command, environment | {parent.VARIABLE: "1"}, output)


if __name__ == "__main__":
    jobs.start_child = start
    run(compare.main, GOES_ON)
