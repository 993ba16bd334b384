"""Starting the sandbox from the command line."""

from __future__ import annotations

import socket

import pytest

from commplan.errors import InputError
from commplan.sandbox.start import listen


def test_a_taken_port_that_nobody_asked_for_gives_way_to_a_free_one_and_one_asked_for_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with listen("127.0.0.1", None, default=port) as found:
            assert found.getsockname()[1] != port
        with pytest.raises(InputError, match=f"127.0.0.1:{port}: the sandbox cannot listen there"):
            listen("127.0.0.1", port)


def test_a_free_port_is_taken_as_it_was_asked_for():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with listen("127.0.0.1", None, default=port) as found:
        assert found.getsockname()[1] == port
