"""The scripts, called in this process as their command lines would; for processes of their own see processes.py."""

import json
import sys
from dataclasses import dataclass

import pytest

from experiments import train
from experiments.common import cli
from experiments.common.train_config import TrainConfig


@dataclass(frozen=True)
class Outcome:
    """The status that a script ended with, and what it wrote."""

    status: int | str | None
    out: str
    err: str


def assert_refused(outcome, *words):
    """One line that says what is wrong, and nothing of Python's insides."""
    assert outcome.status == 1
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1
    for word in words:
        assert str(word) in outcome.err


def called(script, *arguments, pictures=False):
    """The status that a script ends with, called in this process as its command line would; for pictures see below."""
    with pytest.MonkeyPatch.context() as patch:
        if not pictures:
            patch.setattr(train, "draw", lambda *_: None)
        patch.setattr(sys, "argv", [script.__name__, *map(str, arguments)])
        patch.delenv(cli.DEBUG_VARIABLE, raising=False)
        try:
            cli.run(script.main)
        except SystemExit as ended:
            return ended.code
    return 0


def finished(folder, *flags, pictures=False):
    """The folder of a run, which is finished; its pictures, which take longer than a small run, only if asked for."""
    flags = (*flags, "--runs_root", folder.parent, "--run_name", folder.name)
    with pytest.MonkeyPatch.context() as patch:
        if not pictures:
            patch.setattr(train, "draw", lambda *_: None)
        train.train(*train.start(cli.parse(TrainConfig, None, [str(flag) for flag in flags])))
    return folder


def record(folder):
    """What a run recorded."""
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))
