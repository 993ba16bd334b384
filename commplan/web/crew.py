"""Several processes that are one receiver: they share a listening socket, and one that ends is started again.

The socket stays open here, so that who knocks while a process is gone waits for the next to take the call. (With a
socket for each, by SO_REUSEPORT, whatever waited at the one that is gone would be refused.) Serves nothing itself.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from commplan.settings import Settings, as_environment
from commplan.store import open_store
from commplan.supervisor import Supervisor, python

_LOG = logging.getLogger("commplan.web")


def serve_together(settings: Settings, listener: socket.socket, *, processes: int) -> None:
    """Serve on a bound socket with so many processes until SIGINT or SIGTERM, and end them all.

    Their logs are in the home folder. They end with this process, whatever ends it. Raises FenceError and StoreError
    as `open_store`.
    """
    # Once, here: what is wrong with the store is said at once, and nobody migrates it twice.
    open_store(settings).dispose()
    with (
        TemporaryDirectory(prefix="commplan-figures-") as figures,
        _lifeline() as line,
        Supervisor(settings.home.absolute() / "logs") as supervisor,
        contextlib.suppress(KeyboardInterrupt),
    ):
        environment = {**os.environ, **as_environment(settings), "PROMETHEUS_MULTIPROC_DIR": figures}
        for number in range(1, processes + 1):
            supervisor.start(
                f"receiver-{number}",
                python("-m", "commplan.web", str(listener.fileno()), str(line), figures),
                environment=environment,
                cwd=Path.cwd(),
                fds=[listener.fileno(), line],
                stays=True,
            )
        _LOG.info("receiving", extra={"processes": processes, "logs": str(supervisor.logs)})
        while True:
            for name in supervisor.tend():
                _LOG.warning("a process of the receiver had ended; started again", extra={"which": name})
            time.sleep(1)


@contextlib.contextmanager
def _lifeline() -> Iterator[int]:
    """Give the end of a pipe that says nothing, and comes to its end when this process does."""
    line, ours = os.pipe()
    try:
        yield line
    finally:
        os.close(ours)
        os.close(line)
