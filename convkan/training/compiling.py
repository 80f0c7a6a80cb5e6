"""When torch compiles while a model is trained: told before it begins, and noted."""

from collections.abc import Callable

from torch._dynamo.callback import callback_handler


class CompileWatch:
    """Counts torch's compilations from ``start`` to ``stop``, and announces the first.

    Args:
        announce: Called once, before the first begins.

    Attributes:
        count: How many have begun.
    """

    def __init__(self, announce: Callable[[], None]) -> None:
        self.announce, self.count = announce, 0

    def start(self) -> None:
        """Begin to watch."""
        callback_handler.register_start_callback(self._begin)

    def stop(self) -> None:
        """Watch no longer."""
        if self._begin in callback_handler.start_callbacks:  # a reset of the compiler removes it
            callback_handler.remove_start_callback(self._begin)

    def _begin(self, arguments: object) -> None:
        self.count += 1
        if self.count == 1:
            self.announce()
