"""The transport between two requests: which connection is used again, which is not, and what TLS and forks do to it."""

from __future__ import annotations

import datetime
import ipaddress
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from commplan.channels.transport import Transport
from commplan.errors import TransientError


@pytest.fixture
def open_to() -> Iterator[Callable[..., Transport]]:
    """Opens a transport to an address, and closes it after the test."""
    with ExitStack() as stack:

        def open_transport(url: str, **options: Any) -> Transport:
            return stack.enter_context(closing(Transport(url, **{"timeout": 5, **options})))

        yield open_transport


@pytest.fixture
def transport(provider: Any, open_to: Callable[..., Transport]) -> Transport:
    return open_to(provider.url)


def _post(transport: Transport) -> int:
    return transport.request("POST", "/x?y=1", headers={"X-A": "b"}, body=b"body").status


def test_a_request_arrives_whole_and_under_its_own_host(provider: Any, transport: Transport) -> None:
    provider.script(provider.answer("200 OK", "X-Mixed: Case", body=b"answered"))
    answer = transport.request("PUT", "/x?y=1", headers={"X-A": "b"}, body=b"body")
    assert (answer.status, answer.headers["x-mixed"], answer.body, answer.complete) == (200, "Case", b"answered", True)
    seen = provider.requests[0]
    assert (seen.method, seen.target, seen.headers["x-a"], seen.body) == ("PUT", "/x?y=1", "b", b"body")
    assert f"http://{seen.headers['host']}" == provider.url


def test_requests_one_after_the_other_share_a_connection(provider: Any, transport: Transport) -> None:
    provider.script(always=provider.answer("202 Accepted"))
    assert [_post(transport) for _ in range(5)] == [202] * 5
    assert provider.connections == 1


def test_requests_at_once_have_a_connection_each_and_their_own_answers(provider: Any, transport: Transport) -> None:
    together = threading.Barrier(4)

    def echo(_: Any, connection: Any) -> bool:
        together.wait(10)
        return provider.answer("200 OK", body=b"x")(provider, connection)

    provider.script(always=echo)
    with ThreadPoolExecutor(4) as pool:
        statuses = list(pool.map(lambda _: _post(transport), range(40)))
    assert (statuses, len(provider.requests), provider.connections) == ([200] * 40, 40, 4)


def test_a_connection_closed_by_the_provider_is_not_written_to(provider: Any, transport: Transport) -> None:
    provider.script(provider.answer("202 Accepted", close=True), always=provider.answer("202 Accepted"))
    assert _post(transport) == 202
    provider.wait_until_closed()
    assert _post(transport) == 202
    assert (provider.connections, len(provider.requests)) == (2, 2)


def test_a_connection_announced_to_close_is_not_kept(provider: Any, transport: Transport) -> None:
    provider.script(always=provider.answer("202 Accepted", "Connection: close"))
    assert [_post(transport), _post(transport)] == [202, 202]
    assert provider.connections == 2


def test_a_connection_idle_for_long_is_not_written_to(provider: Any, open_to: Callable[..., Transport]) -> None:
    transport = open_to(provider.url, idle=0)
    provider.script(always=provider.answer("202 Accepted"))
    assert [_post(transport), _post(transport)] == [202, 202]
    assert provider.connections == 2


def test_an_answer_that_nobody_asked_for_is_never_taken_for_the_next(provider: Any, transport: Transport) -> None:
    twice = b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"
    late = threading.Event()

    def act(_: Any, connection: Any) -> bool:
        connection.sendall(twice)
        late.wait(10)
        connection.sendall(twice)
        return False

    provider.script(act, provider.answer("500 Broken"))
    assert _post(transport) == 202
    late.set()
    provider.wait_until_closed()
    assert _post(transport) == 500


def test_a_message_head_cannot_be_split_by_a_header(provider: Any, transport: Transport) -> None:
    with pytest.raises(ValueError, match="line break"):
        transport.request("POST", "/", headers={"X-A": "b\r\nX-Evil: 1"})
    assert provider.connections == 0


def test_proxies_of_the_environment_are_not_asked(
    provider: Any, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    provider.script(provider.answer("202 Accepted"))
    assert _post(transport) == 202


def test_a_forked_process_does_not_write_into_its_parents_connection(provider: Any, transport: Transport) -> None:
    provider.script(always=provider.answer("202 Accepted"))
    _post(transport)
    child = os.fork()
    if child == 0:
        os._exit(0 if _post(transport) == 202 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert _post(transport) == 202
    assert (provider.connections, len(provider.requests)) == (2, 3)


@pytest.mark.parametrize("url", ["http://a..b", "https://127.0.0.1:1", "http://[::1]:1"])
def test_what_cannot_be_reached_has_not_been_sent(url: str, open_to: Callable[..., Transport]) -> None:
    with pytest.raises(TransientError, match="nothing was sent"):
        _post(open_to(url))


@pytest.mark.parametrize("url", ["ftp://127.0.0.1", "127.0.0.1:80", "http://"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="address"):
        Transport(url, timeout=5)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of 127.0.0.1 that signs itself, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "provider.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + signed.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture
def secure(provider: Any, certificate: Path) -> Iterator[Any]:
    """A scripted provider that speaks TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    opened = type(provider)(context)
    yield opened
    opened.stop()


def test_requests_over_tls_share_a_connection(
    secure: Any, certificate: Path, open_to: Callable[..., Transport]
) -> None:
    transport = open_to(secure.url, tls=ssl.create_default_context(cafile=certificate))
    secure.script(always=secure.answer("202 Accepted"))
    transport.connect()
    assert [_post(transport) for _ in range(3)] == [202] * 3
    assert (secure.connections, len(secure.requests)) == (1, 3)


def test_a_provider_that_cannot_be_verified_is_sent_nothing(secure: Any, open_to: Callable[..., Transport]) -> None:
    with pytest.raises(TransientError, match="certificate"):
        _post(open_to(secure.url))
    assert secure.requests == []


def test_a_provider_that_does_not_speak_tls_is_sent_nothing(open_to: Callable[..., Transport]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        transport = open_to(f"https://127.0.0.1:{listener.getsockname()[1]}")
        with ThreadPoolExecutor(1) as pool:
            sent = pool.submit(_post, transport)
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                with pytest.raises(TransientError, match="TLS"):
                    sent.result(10)


def test_a_connection_that_is_not_made_in_time_has_sent_nothing(open_to: Callable[..., Transport]) -> None:
    # The system accepts the connection, but nobody answers the TLS greeting.
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        pytest.raises(TransientError, match="in time"),
    ):
        _post(open_to(f"https://127.0.0.1:{listener.getsockname()[1]}", connect_timeout=0.2))
