"""Who goes first where there is one writer: keeping a post, which somebody waits for, before applying what is kept."""

from __future__ import annotations

import threading
from types import TracebackType

#: How much longer than it took itself whoever applies posts waits for those who keep some: so it still gets a share of
#: the time, and what is kept is applied, however many posts come.
_PATIENCE = 2.0


class Priority:
    """Entered by whoever keeps a post, as a context; `give_way` waits for all of these."""

    def __init__(self) -> None:
        self._keeping = 0
        self._free = threading.Condition()

    def __enter__(self) -> None:
        with self._free:
            self._keeping += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._free:
            self._keeping -= 1
            if not self._keeping:
                self._free.notify_all()

    def give_way(self, seconds: float) -> None:
        """Wait until nobody keeps a post, after a transaction that took so many machine seconds."""
        with self._free:
            self._free.wait_for(lambda: not self._keeping, timeout=_PATIENCE * seconds)
