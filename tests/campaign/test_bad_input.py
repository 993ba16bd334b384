"""What comes in and makes no sense: a provider's nonsense, a clock that lies, a row that is broken."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from sqlalchemy import delete, select, update

from commplan import campaign
from commplan.clock import Clock
from commplan.errors import CommplanError, RunError
from commplan.ids import new_attempt_id
from commplan.ledger import close
from commplan.ledger.claim import claim
from commplan.ledger.look import look
from commplan.store import open_store
from commplan.store.tables import message_values, skeletons
from tests.campaign.conftest import LETTER, TEXT, crowd
from tests.contract.conftest import ScriptedProvider

answer, raw = ScriptedProvider.answer, ScriptedProvider.raw
_HTML = b"<html><body>Welcome to our gateway</body></html>"


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    opened = ScriptedProvider()
    yield opened
    opened.stop()


def at(here, provider):
    """Return the settings with both providers at a scripted one."""
    email = here.settings.email.model_copy(update={"base_url": provider.url})
    return here.settings.model_copy(
        update={"email": email, "sms": here.settings.sms.model_copy(update={"base_url": provider.url})}
    )


def require_books(here, running) -> None:
    assert campaign.prove(here.store, here.settings, running.run.run_key, witness=False).difference == 0


def success(plan: str) -> str:
    return "202 Accepted" if plan is LETTER else "201 Created"


#: What a provider answers to every request → what the messages come to.
NONSENSE: dict[str, tuple[Callable[[str], object], str]] = {
    "HTML and success": (lambda plan: answer(success(plan), body=_HTML), "unknown"),
    "HTML and 200": (lambda plan: answer("200 OK", body=_HTML), "unknown"),
    "HTML and 502": (lambda plan: answer("502 Bad Gateway", body=_HTML), "unknown"),
    "HTML and 400": (lambda plan: answer("400 Bad Request", body=_HTML), "failed"),
    "an empty success": (lambda plan: answer(success(plan)), "accepted"),
    "an empty 200": (lambda plan: answer("200 OK"), "unknown"),
    "an empty 204": (lambda plan: answer("204 No Content"), "unknown"),
    "a body cut short": (
        lambda plan: answer(success(plan), "X-Message-Id: id-1", body=b'{"sid": "S', length=900, close=True),
        "accepted",
    ),
    "a body that is half a document": (lambda plan: answer(success(plan), body=b'{"sid": "S'), "unknown"),
    "another document": (lambda plan: answer(success(plan), body=b'{"hello": ["world"]}'), "unknown"),
    "a number": (lambda plan: answer(success(plan), body=b"17"), "unknown"),
    "no text at all": (lambda plan: answer(success(plan), body=b"\x00\xff\xfe" * 99), "unknown"),
    "no HTTP": (lambda plan: raw(b"220 smtp.example.com ESMTP ready\r\n"), "unknown"),
    "a head cut short": (lambda plan: raw(b"HTTP/1."), "unknown"),
    "nothing": (lambda plan: ScriptedProvider.hang_up, "unknown"),
    "fault with somebody who is not there": (
        lambda plan: answer("400 Bad", body=b'{"errors": [{"field": "personalizations.999.to"}], "code": 0}'),
        "failed",
    ),
    "fault with nobody": (lambda plan: answer("400 Bad", body=b'{"errors": [{"field": -1}, 7, null]}'), "failed"),
}


ON_SQLITE = pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)


def sent(provider: ScriptedProvider) -> list[object]:
    """The requests that would send something; those that only ask what became of one are not among them."""
    return [seen for seen in provider.requests if seen.method == "POST" and "/logs" not in seen.target]


@ON_SQLITE
@pytest.mark.parametrize("case", NONSENSE)
@pytest.mark.parametrize("plan", [LETTER, TEXT], ids=["email", "sms"])
def test_a_provider_that_answers_nonsense_is_asked_once_for_each_message(provider, rehearse, plan, case):
    act, expected = NONSENSE[case]
    here = rehearse(crowd(3))
    running = here.ready(plan, settings=at(here, provider))
    provider.script(always=act(plan))
    here.send_due(running)
    assert {row.state for row in here.rows().values()} == {expected}
    require_books(here, running)
    asked = len(sent(provider))
    # A request that named nobody is halved until each stands alone: three people, five requests.
    assert asked == {"email": 5 if expected == "failed" else 1, "sms": 3}["email" if plan is LETTER else "sms"]
    for _ in range(2):
        here.jump(hours=2)
        running.gather()
        here.send_due(running)
    assert len(sent(provider)) == asked
    require_books(here, running)


@ON_SQLITE
@pytest.mark.parametrize("plan", [LETTER, TEXT], ids=["email", "sms"])
@pytest.mark.parametrize("status", ["401 Unauthorized", "403 Forbidden", "404 Not Found", "301 Moved"])
def test_a_gateway_page_that_refuses_everybody_holds_the_run_and_costs_nobody_a_message(
    provider, rehearse, plan, status
):
    here = rehearse(crowd(3))
    running = here.ready(plan, settings=at(here, provider))
    provider.script(always=answer(status, "Content-Type: text/html", body=_HTML))
    with pytest.raises(RunError, match="is held") as caught:
        here.send_due(running)
    assert "gateway" not in str(caught.value)
    assert {row.state for row in here.rows().values()} == {"queued"}
    require_books(here, running)
    again = here.start(plan)
    assert here.send_due(again).accepted == 3
    here.require_balance(again)


@ON_SQLITE
@pytest.mark.parametrize("offset", [-120, 120])
@pytest.mark.parametrize("plan", [LETTER, TEXT], ids=["email", "sms"])
def test_a_provider_whose_clock_is_two_minutes_off_is_asked_again_in_time_and_believed(rehearse, plan, offset):
    here = rehearse(crowd(2), clock_offset=offset)
    running = here.ready(plan)
    here.fault("email" if plan is LETTER else "sms", "429")
    assert here.send_due(running).accepted == 2
    here.deliver_all()
    assert {row.state for row in here.rows().values()} == {"delivered"}
    here.require_balance(running)


@ON_SQLITE
@pytest.mark.parametrize("plan", [LETTER, TEXT], ids=["email", "sms"])
@pytest.mark.parametrize(
    "headers",
    [
        ("Retry-After: 99999999",),
        ("Retry-After: Fri, 31 Dec 9999 23:59:59 GMT", "Date: Thu, 01 Jan 1970 00:00:00 GMT"),
        ("X-RateLimit-Reset: 99999999999",),
    ],
)
def test_a_provider_that_asks_for_a_pause_beyond_reason_leaves_its_messages_in_the_queue(
    provider, rehearse, plan, headers
):
    here = rehearse(crowd(3), day=86_400)
    running = here.ready(plan, settings=at(here, provider))
    provider.script(always=answer("429 Too Many Requests", *headers))
    tally = here.send_due(running)
    assert (tally.accepted, tally.unknown, tally.postponed) == (0, 0, 3)
    assert {row.state for row in here.rows().values()} == {"queued"}
    require_books(here, running)
    again = here.start(plan)
    here.jump(minutes=1)
    assert here.send_due(again).accepted == 3
    here.require_balance(again)


@pytest.mark.parametrize("minutes", [-2, 2])
def test_a_worker_whose_clock_is_two_minutes_off_takes_nothing_from_another_and_loses_nothing(rehearse, minutes):
    here = rehearse(crowd(4), day=86_400)
    running = here.ready()
    run_id = running.run.run_id
    liar = open_store(here.settings)
    right = here.clock
    liar.clock = Clock(origin=right.origin + timedelta(minutes=minutes), anchor=right.anchor, factor=right.factor)
    try:
        mine = claim(here.store, run_id=run_id, step_no=1, worker="right", limit=2, lease=60)
        outgoing = look(here.store, mine, seqs=mine.seqs, attempt_ids=[attempt_id := new_attempt_id()], lease=60)
        assert {out.attempt_id for out in outgoing} == {attempt_id}
        # It neither takes back a lease that holds, nor gets what is claimed.
        assert close.sweep(liar, run_id) == (0, 0)
        theirs = claim(liar, run_id=run_id, step_no=1, worker="liar", limit=9, lease=60)
        # What is due is plan time's to say: for a clock that is late it is not due yet, and nobody loses by that.
        assert theirs is None if minutes < 0 else set(theirs.seqs).isdisjoint(mine.seqs)
        close.accept(here.store, {attempt_id: "x" * 20}, now=right.now())
        if theirs is not None:
            # Its lease is as good as any: another process, whose clock is right, does not take it away.
            assert close.sweep(here.store, run_id) == (0, 0)
            assert len(look(liar, theirs, seqs=theirs.seqs, attempt_ids=[new_attempt_id()], lease=60)) == 2
            close.finish(liar, theirs)
        close.finish(here.store, mine)
    finally:
        liar.dispose()
    here.send_due(running)
    states = sorted(row.state for row in here.rows().values())
    assert states == (["accepted"] * 4 if theirs is None else ["accepted"] * 2 + ["unknown"] * 2)
    require_books(here, running)


def break_values(here, values: str) -> None:
    with here.store.write() as connection:
        connection.execute(update(message_values).where(message_values.c.seq == 2).values(slot_values=values))


@ON_SQLITE
@pytest.mark.parametrize("plan", [LETTER, TEXT], ids=["email", "sms"])
@pytest.mark.parametrize("values", ["{broken", "17", "null", '["too", "many", "and", "more"]', "[]", "[null]"])
def test_a_row_whose_values_are_broken_is_left_out_with_its_reason_and_keeps_nobody_else(
    rehearse, plan, values, caplog
):
    here = rehearse(crowd(3))
    running = here.ready(plan)
    break_values(here, values)
    assert here.send_due(running).accepted == 2
    assert sorted(one["ref"].seq for one in here.truth()) == [1, 3]
    assert here.states(running)["person2"] == ["cancelled: content_damaged"]
    assert "frozen content is damaged" in caplog.text
    here.require_balance(running)


@ON_SQLITE
@pytest.mark.parametrize("plan", [LETTER, TEXT], ids=["email", "sms"])
def test_a_text_that_is_gone_from_the_store_is_said_in_words_and_back_again_everybody_gets_it_once(rehearse, plan):
    here = rehearse(crowd(3))
    running = here.ready(plan)
    with here.store.write() as connection:
        kept = [row._asdict() for row in connection.execute(select(skeletons))]
        connection.execute(delete(skeletons))
    with pytest.raises(CommplanError, match="text"):
        here.send_due(running)
    assert here.truth() == []
    assert {row.state for row in here.rows().values()} == {"queued"}
    require_books(here, running)
    with here.store.write() as connection:
        connection.execute(skeletons.insert(), kept)
    assert here.send_due(running).accepted == 3
    here.require_balance(running)
