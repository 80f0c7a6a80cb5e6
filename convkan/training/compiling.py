"""When kernels are compiled while a model is trained: told before it begins, and noted."""

import time
from collections.abc import Callable

from torch._dynamo.callback import callback_handler

from convkan.ops.native.build import LISTENERS


class CompileWatch:
    """Counts and times compilations, torch's and our own, from ``start`` to ``stop``, and announces the first.

    Args:
        announce: Called once, before the first begins.

    Attributes:
        count: How many have begun.
        seconds: How long those that have ended took.
    """

    def __init__(self, announce: Callable[[], None]) -> None:
        self.announce, self.count, self.seconds = announce, 0, 0.0
        self._start = 0.0

    def start(self) -> None:
        """Begin to watch."""
        callback_handler.register_start_callback(self._begin)
        callback_handler.register_end_callback(self._end)
        LISTENERS.append(self._hear)

    def stop(self) -> None:
        """Watch no longer."""
        if self._begin in callback_handler.start_callbacks:  # a reset of the compiler removes it
            callback_handler.remove_start_callback(self._begin)
            callback_handler.remove_end_callback(self._end)
        if self._hear in LISTENERS:
            LISTENERS.remove(self._hear)

    def _hear(self, begins: bool) -> None:
        (self._begin if begins else self._end)(None)

    def _begin(self, arguments: object) -> None:
        self.count += 1
        if self.count == 1:
            self.announce()
        self._start = time.perf_counter()

    def _end(self, arguments: object) -> None:
        self.seconds += time.perf_counter() - self._start
