"""Which modules of a network are meant: by name, by type, or by a function that says so."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from torch import nn

SHOWN = 12  # of what there is to choose from

Choice = str | type[nn.Module] | Callable[[str, nn.Module], bool]


@dataclass
class Choices:
    """What a user chose, and which of it was met.

    Attributes:
        argument: Its name, for messages.
        of: Patterns of names, as of ``fnmatch``; types; or functions of a name and a module.
        met: Which of them chose something.
    """

    argument: str
    of: tuple[Choice, ...]
    met: set[int] = field(default_factory=set)

    @classmethod
    def of_user(cls, argument: str, given: Choice | Sequence[Choice]) -> "Choices":
        """As it was given: one, or several.

        Raises:
            TypeError: One is no pattern, type or function.
        """
        several = tuple(given) if isinstance(given, list | tuple) else (given,)
        for choice in several:
            if not isinstance(choice, str) and not callable(choice):
                raise TypeError(
                    f"{argument} must be patterns of names, types of modules or functions of a name and a module, "
                    f"got {choice!r}"
                )
        return cls(argument, several)

    def hold(self, names: Iterable[str], module: nn.Module) -> bool:
        """Whether a module of these names is among what was chosen."""
        found = [index for index, choice in enumerate(self.of) if any(_holds(choice, name, module) for name in names)]
        self.met.update(found)
        return bool(found)

    def check_met(self, there: Sequence[str]) -> None:
        """Raise ValueError if a pattern, or all there is, chose nothing of ``there``."""
        missed = [choice for index, choice in enumerate(self.of) if index not in self.met]
        patterns = [choice for choice in missed if isinstance(choice, str)]
        if patterns or (missed and not self.met):
            shown = ", ".join(there[:SHOWN]) + (f", … ({len(there)})" if len(there) > SHOWN else "")
            raise ValueError(
                f"{self.argument} must choose something that can be converted, got "
                f"{', '.join(map(_name, patterns or missed))}; there is {shown or 'nothing'}"
            )


def narrowed(kinds: tuple[type[nn.Module], ...], where: Choice | Sequence[Choice]) -> Choice:
    """Modules of some types, and of these what ``where`` chooses.

    Raises:
        TypeError: ``where`` is no choice.
    """
    choices = Choices.of_user("where", where)

    def chosen(name: str, module: nn.Module) -> bool:
        return isinstance(module, kinds) and choices.hold([name], module)

    chosen.__name__ = ", ".join(map(_name, choices.of))
    return chosen


def _holds(choice: Choice, name: str, module: nn.Module) -> bool:
    if isinstance(choice, str):
        return fnmatchcase(name, choice)
    if isinstance(choice, type):
        return isinstance(module, choice)
    return bool(choice(name, module))


def _name(choice: Choice) -> str:
    return choice if isinstance(choice, str) else getattr(choice, "__name__", repr(choice))
