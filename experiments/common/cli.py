"""What the scripts' command lines have in common."""

import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from jsonargparse import ArgumentParser, Namespace

from convkan.training import DataError, TrainingDivergedError

Config = TypeVar("Config")
DEBUG_VARIABLE = "CONVKAN_DEBUG"
BROKEN_PIPE = 141  # as shells say of a program that SIGPIPE ended
# What to say to those who stop a script that keeps what is done.
GOES_ON = "the same command goes on where it was"


class UserError(Exception):
    """Something the user can mend; the message says what."""


class Utf8Parser(ArgumentParser):
    """A parser that reads its files as UTF-8, whatever the locale's encoding, as they are written here."""

    def parse_path(self, path: Any, *args: Any, **kwargs: Any) -> Namespace:
        """What ``ArgumentParser`` does, but for the encoding."""
        try:
            text = Path(path).read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise UserError(f"config must be a file in UTF-8, got {path}: {error}") from error
        return self.parse_string(text, Path(path).name, *args, **kwargs)


def parse(config_class: type[Config], description: str | None, arguments: Sequence[str] | None = None) -> Config:
    """Fill a dataclass from flags and ``--config FILE.yaml``.

    Flags may be spelled with hyphens or underscores, a switch given without a value is turned on, and mappings of
    numbers may do without spaces. A value that begins with ~ is a path below a home folder, in a file as in a shell.
    Of the description, a script's docstring, the first line is shown; Python without docstrings has none.
    """
    parser = Utf8Parser(description=first_line(description), exit_on_error=True)
    parser.add_argument("--config", action="config", help="a YAML file with any of these options")
    parser.add_class_arguments(config_class, as_group=False)
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    switches = {field.name for field in fields(config_class) if field.type is bool}  # type: ignore[arg-type]
    values = parser.parse_args(_spelled(arguments, switches))
    values.pop("config", None)
    return config_class(**{name: _from_home(value) for name, value in values.as_dict().items()})


def first_line(text: str | None) -> str:
    """What a docstring begins with."""
    return (text or "").partition("\n")[0]


def given(arguments: Sequence[str]) -> set[str]:
    """The names of the options in a command line, spelled with underscores."""
    flags = [argument[2:] for argument in arguments if argument.startswith("--")]
    return {flag.partition("=")[0].replace("-", "_").partition(".")[0] for flag in flags}


def from_home(text: str) -> str:
    """A path in which ~ at the beginning is a home folder; other texts are left as they are."""
    return str(Path(text).expanduser()) if text.startswith("~") else text


def _from_home(value: Any) -> Any:
    if isinstance(value, list):
        return [_from_home(item) for item in value]
    return from_home(value) if isinstance(value, str) else value


def _spelled(arguments: list[str], switches: set[str]) -> list[str]:
    spelled = []
    for position, argument in enumerate(arguments):
        if argument.startswith("--"):
            name, equals, value = argument[2:].partition("=")
            name = name.replace("-", "_")
            following = arguments[position + 1] if position + 1 < len(arguments) else "--"
            bare = name in switches and not equals and following.lower() not in ("true", "false")
            argument = f"--{name}{'=true' if bare else equals + value}"
        spelled.append(_spaced(argument))
    return spelled


def _spaced(argument: str) -> str:
    """{3:10} as {3: 10}: to YAML, 3:10 is a number of minutes."""
    return re.sub(r"(?<=\d):(?=\d)", ": ", argument) if argument.endswith("}") else argument


def check_positive(config: object, *names: str) -> None:
    """Raise ValueError unless these options are at least 1."""
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(config, name)}")


def run(main: Callable[[], None], interrupted: str = "") -> None:
    """Run a script; what a user can mend ends it with one line and status 1, and Ctrl-C with one line and status 130.

    With CONVKAN_DEBUG=1 in the environment the traceback is shown too. When the reader of its output has gone, as
    ``| head`` does, it ends without a word, with the status of a broken pipe. Where the encoding of the terminal or log
    lacks a character, another takes its place.

    Args:
        main: The script.
        interrupted: What to say to those who stopped it.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):  # tests and notebooks put other things there
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        try:
            main()
        finally:
            print(end="", flush=True)
    except (UserError, DataError, TrainingDivergedError, ModuleNotFoundError, OSError, ValueError, TypeError) as error:
        if isinstance(error, BrokenPipeError) and _is_unread():
            raise SystemExit(BROKEN_PIPE) from None
        if os.environ.get(DEBUG_VARIABLE):
            raise
        message = " ".join(str(error).split())
        print(f"error: {message}", file=sys.stderr)
        raise SystemExit(1) from error
    except KeyboardInterrupt as stopped:
        print(": ".join(filter(None, ["interrupted", str(stopped) or interrupted])), file=sys.stderr)
        raise SystemExit(130) from None


def _is_unread() -> bool:
    """Whether nobody reads the output any more; what is still to be written is then dropped."""
    try:
        print(flush=True)  # an empty write would tell nothing
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False
