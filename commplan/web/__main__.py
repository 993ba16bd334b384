"""One of several processes of a receiver: ``python -m commplan.web SOCKET LIFELINE FIGURES`` (see `crew`)."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

from commplan.logs import set_up
from commplan.settings import load_settings
from commplan.web.serve import serve

if __name__ == "__main__":
    handle, lifeline, figures = sys.argv[1:]
    set_up()
    serve(load_settings(), sock=socket.socket(fileno=int(handle)), lifeline=int(lifeline), figures=Path(figures))
