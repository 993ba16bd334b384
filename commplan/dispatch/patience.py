"""How long one batch waits for a provider that takes nothing for now.

Only counts and sleeps; nothing claimed is given back here.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from commplan.channels.failures import next_wait
from commplan.errors import TransientError


@dataclass(slots=True)
class Patience:
    """The tries of one batch: requests that were certainly not processed, and the machine seconds since the first."""

    tries: int = 0
    began: float = field(default_factory=time.monotonic)

    def wait(self, error: TransientError) -> bool:
        """Sleep until the next try may be made; False, at once, when it is time to leave the messages in the queue."""
        self.tries += 1
        seconds = next_wait(error, self.tries, spent=time.monotonic() - self.began)
        if seconds is None:
            return False
        time.sleep(seconds)
        return True
