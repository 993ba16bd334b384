"""A renderer as a process of its own: ``python -m commplan.rendering RUN BEGINS``.

Reads ranges, ``FIRST LAST`` on a line, and answers each with a pickled `Rendered`, its length in eight bytes before it;
ends when its input does.
"""

from __future__ import annotations

import os
import pickle
import sys
from datetime import datetime

from commplan import collector, letterhead, logs
from commplan.errors import CommplanError
from commplan.ledger import run as ledger_run
from commplan.rendering.renderer import Renderer
from commplan.settings import load_settings
from commplan.store import open_store


def main(key: str, begins: str) -> None:
    """Render until there is nothing more to render."""
    logs.set_up()
    # What a library may print must not end up among the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    settings = load_settings()
    store = open_store(settings, create=False)
    run = ledger_run.find_run(store, key)
    with store.read() as connection:
        frozen = letterhead.restored(settings, ledger_run.frozen_files(connection, run.run_id))
    renderer = Renderer(store, frozen, run, begins=datetime.fromisoformat(begins))
    collector.leave_alone()
    for line in sys.stdin:
        first, last = map(int, line.split())
        answer = pickle.dumps(renderer.render(first, last), protocol=pickle.HIGHEST_PROTOCOL)
        answers.write(len(answer).to_bytes(8, "big"))
        answers.write(answer)
        answers.flush()


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.argv[2])
    except CommplanError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(error.exit_code) from None
