"""Faults at the boundary of a request: what the client sees, and what was accepted all the same."""

from __future__ import annotations

import time

import httpx
import pytest

from commplan.sandbox.fault import Faults
from commplan.sandbox.switches import Fault
from commplan.terms import Channel
from tests.conftest import PLAIN


def send(sandbox, channel, timeout=0.5):
    if channel == "sms":
        url = f"{sandbox.url}/2010-04-01/Accounts/{sandbox.config.account_sid}/Messages.json"
        form = {"To": "+12025550123", "From": "+15005550006", "Body": "hello"}
        auth = (sandbox.config.account_sid, sandbox.config.auth_token)
        return httpx.post(url, data=form, auth=auth, timeout=timeout, **PLAIN)
    headers = {"Authorization": f"Bearer {sandbox.config.api_key}"}
    body = sandbox.mail("ann@person.example.com")
    return httpx.post(f"{sandbox.url}/v3/mail/send", json=body, headers=headers, timeout=timeout, **PLAIN)


def ask(sandbox, channel, fault, times=1):
    body = {"channel": channel, "fault": fault, "times": times}
    assert httpx.post(f"{sandbox.url}/sandbox/faults", json=body, **PLAIN).status_code == 204


@pytest.mark.parametrize("channel", ["email", "sms"])
@pytest.mark.parametrize(
    ("fault", "raised", "accepted"),
    [
        (Fault.HANG, httpx.ReadTimeout, 1),
        (Fault.LATE, httpx.ReadTimeout, 1),
        (Fault.SLOW, httpx.ReadTimeout, 1),
        (Fault.CLOSE, httpx.RemoteProtocolError, 1),
        (Fault.DROP, httpx.RemoteProtocolError, 0),
    ],
)
def test_a_request_without_an_answer_may_have_been_accepted(start, channel, fault, raised, accepted):
    sandbox = start(factor=1e-6)
    ask(sandbox, channel, fault)
    with pytest.raises(raised):
        send(sandbox, channel)
    sandbox.until(lambda: len(sandbox.messages()) == accepted)
    assert send(sandbox, channel, timeout=5).is_success
    assert len(sandbox.messages()) == accepted + 1


@pytest.mark.parametrize("channel", ["email", "sms"])
@pytest.mark.parametrize(("fault", "status", "accepted"), [(Fault.ERROR, 500, 1), (Fault.BUSY, 429, 0)])
def test_an_error_may_hide_an_acceptance_but_429_never_does(start, channel, fault, status, accepted):
    sandbox = start(factor=1e-6)
    ask(sandbox, channel, fault, times=2)
    assert [send(sandbox, channel, timeout=5).status_code for _ in range(2)] == [status, status]
    assert len(sandbox.messages()) == 2 * accepted


def test_too_many_requests_say_when_to_come_back(start):
    sandbox = start(faults={"429": 1.0})
    answer = send(sandbox, "email", timeout=5)
    assert answer.json()["errors"][0]["message"] == "too many requests"
    assert 0 < int(answer.headers["X-RateLimit-Reset"]) - time.time() < 3
    assert send(sandbox, "sms", timeout=5).json()["code"] == 20429


def test_shares_are_drawn_from_the_seed_and_the_request_in_whatever_order_requests_come():
    people = [f"+1202555{number:04d}" for number in range(2_000)]

    def drawn(order, seed=7):
        faults = Faults(seed, {Fault.CLOSE: 0.2, Fault.BUSY: 0.1})
        return {who: faults.draw(Channel.SMS, who) for who in order}

    first = drawn(people)
    assert drawn(reversed(people)) == first
    assert drawn(people, seed=8) != first
    found = list(first.values())
    assert 0.16 < found.count(Fault.CLOSE) / 2_000 < 0.24
    assert 0.07 < found.count(Fault.BUSY) / 2_000 < 0.13


def test_who_was_put_off_once_is_not_put_off_for_ever():
    faults = Faults(7, {Fault.BUSY: 0.5})
    drawn = [faults.draw(Channel.EMAIL, "ann@person.example.com") for _ in range(50)]
    assert {*drawn} == {None, Fault.BUSY}


def test_an_unknown_fault_is_refused_with_the_known_ones(start):
    sandbox = start()
    answer = httpx.post(f"{sandbox.url}/sandbox/faults", json={"channel": "sms", "fault": "melt"}, **PLAIN)
    assert answer.status_code == 400
    assert "accept_then_hang" in answer.json()["expected"]["fault"]
