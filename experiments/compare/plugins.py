"""A user's own modules, which register the models and data sets that a suite names.

They are imported as those that the environment variable CONVKAN_MODELS names, and put there and their folders into
CONVKAN_MODELS_PATH, so that the processes started from this one have them, too.
"""

import importlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from convkan.models.registry import MODELS, MODULES_VARIABLE, PATH_VARIABLE
from convkan.training.datasets import DATASETS
from experiments.common.cli import UserError


@dataclass(frozen=True)
class Plugin:
    """A module that a suite imports.

    Attributes:
        key: How errors call it.
        name: As the suite has it.
        registered: The names of models and data sets it brought; None if it had been imported before.
    """

    key: str
    name: str
    registered: set[str] | None


def import_plugins(names: list[str], folder: Path) -> list[Plugin]:
    """Import modules of a user's own, here and in every process that is started from here.

    Args:
        names: Modules as Python names them, importable from ``folder`` or the path; or files relative to ``folder``
            that end in .py.
        folder: Where the suite lies.

    Raises:
        UserError: One of them cannot be imported, or takes a name that there is already.
    """
    return [_plugin(f"plugins[{position}]", name, folder) for position, name in enumerate(names)]


def check_named(plugins: list[Plugin], named: set[str]) -> None:
    """Raise UserError if there is a plugin of whose models and data sets none is among ``named``."""
    for plugin in plugins:
        if plugin.registered is not None and not plugin.registered & named:
            raise UserError(
                f"{plugin.key} must register a model or data set that the suite names, got {plugin.name!r}, which "
                f"registers {', '.join(sorted(plugin.registered)) or 'nothing'}"
            )


def _plugin(key: str, name: str, folder: Path) -> Plugin:
    module, home = _located(key, name, folder)
    if str(home) not in sys.path:
        sys.path.append(str(home))  # last, so that nothing in it takes the place of what others import
    _extend(PATH_VARIABLE, str(home), os.pathsep)
    before, is_new = {**MODELS, **DATASETS}, module not in sys.modules
    _imported(key, name, module)
    _check_origin(key, name, home, sys.modules[module.partition(".")[0]])
    after = {**MODELS, **DATASETS}
    taken = [known for known, value in before.items() if after.get(known) is not value]
    if taken:
        raise UserError(f"{key} must register new names, got {name!r}, which takes that of {', '.join(taken)}")
    _extend(MODULES_VARIABLE, module, ",")
    return Plugin(key, name, set(after) - set(before) if is_new else None)


def _located(key: str, name: str, folder: Path) -> tuple[str, Path]:
    """The name of a module, and the folder to find it in."""
    path = folder / name
    module, home = (path.stem, path.parent.resolve()) if path.suffix == ".py" else (name, folder.resolve())
    if path.suffix == ".py" and not path.is_file():
        raise UserError(
            f"{key} must be a module or .py file that can be imported, got {name!r}: there is no {path.resolve()}"
        )
    if not all(part.isidentifier() for part in module.split(".")):
        raise UserError(f"{key} must be named as Python names modules, got {name!r}")
    return module, home


def _imported(key: str, name: str, module: str) -> None:
    importlib.invalidate_caches()  # the file may be younger than this process
    try:
        importlib.import_module(module)
    except Exception as error:
        raise UserError(
            f"{key} must be a module or .py file that can be imported, got {name!r}: {type(error).__name__}: {error}"
        ) from error


def _check_origin(key: str, name: str, home: Path, top: ModuleType) -> None:
    """Refuse another module than the one beside the suite, which other processes may find first."""
    paths = (home / f"{top.__name__}.py", home / top.__name__ / "__init__.py")
    beside = [path.resolve() for path in paths if path.is_file()]  # as links lead there
    origin = Path(top.__file__ or "").resolve()
    if beside and origin not in beside:
        raise UserError(f"{key} must have a name of its own, got {name!r}, as which Python knows {origin}: rename it")


def _extend(variable: str, item: str, separator: str) -> None:
    """Add to a list in the environment, once."""
    items = [text for text in os.environ.get(variable, "").split(separator) if text]
    if item not in items:
        os.environ[variable] = separator.join([*items, item])
