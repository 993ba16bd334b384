"""One wrong setting must not burn the audience: who is at fault when many are refused, and what stops because of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commplan.errors import RejectedError, RunError
from commplan.ledger import standstill
from commplan.ledger.breaker import CONSECUTIVE, WINDOW, Outcome, country_halts_of, too_many
from tests.campaign.conftest import BOTH, LETTER, TEXT, Customer, Rehearsal, crowd
from tests.campaign.test_failure import change_address
from tests.test_cli import ROOT, require, run

REFUSED, OTHER = (400, "21617"), (400, None)


def outcome(people: int, code: tuple[int | None, str | None] | None = None) -> Outcome:
    return Outcome(attempt_id="a", people=people, code=code)


@pytest.mark.parametrize(
    ("latest", "count"),
    [
        ([outcome(1, REFUSED)] * 19, 0),
        ([outcome(1, REFUSED)] * 20, 20),
        ([outcome(1, REFUSED)] * 10 + [outcome(1, OTHER)] + [outcome(1, REFUSED)] * 10, 0),
        ([outcome(1, REFUSED)] * 10 + [outcome(0, OTHER)] * 9 + [outcome(1, REFUSED)] * 10, 20),
        ([outcome(1, REFUSED)] * 19 + [outcome(1)] + [outcome(1, REFUSED)] * 40, 0),
        ([outcome(1, REFUSED), outcome(1)] * 99, 0),
        ([outcome(1, REFUSED), outcome(1)] * 100, 100),
        ([outcome(1, REFUSED), outcome(1), outcome(1)] * 100, 0),
        ([outcome(1, REFUSED)] * 19 + [outcome(500)], 0),
    ],
)
def test_twenty_in_a_row_or_half_of_the_last_two_hundred_with_one_code_are_too_many(latest, count):
    assert too_many(latest, REFUSED) == count
    assert too_many(latest, (403, "x")) == 0


@given(st.lists(st.builds(outcome, st.integers(0, 3), st.sampled_from([None, REFUSED, OTHER])), max_size=300))
def test_less_than_twenty_in_a_row_and_less_than_half_never_stop_a_sender(latest):
    count = too_many(latest, REFUSED)
    assert count == 0 or count >= min(CONSECUTIVE, WINDOW // 2)
    assert count <= sum(each.people for each in latest if each.code == REFUSED)
    assert too_many([outcome(WINDOW), *latest], REFUSED) == 0


class Refusing:
    """A gateway whose provider refuses some numbers with a code that says nothing of the person."""

    def __init__(self, inner, refuses) -> None:
        self._inner = inner
        self._refuses = refuses

    def connect(self) -> None:
        self._inner.connect()

    def close(self) -> None:
        self._inner.close()

    def send(self, message):
        if self._refuses(message.address):
            raise RejectedError("the provider refuses the request as invalid", status=400, code="30007", index=0)
        return self._inner.send(message)


def spoil(here: Rehearsal, running, refuses) -> None:
    """Let the provider refuse."""
    gateways = running.gateways
    running.__dict__["gateways"] = type(gateways)(email=gateways.email, sms=Refusing(gateways.sms, refuses))


def test_a_sender_that_is_refused_for_everybody_stops_and_nobody_is_lost(rehearse):
    here = rehearse(crowd(60))
    running = here.ready(TEXT)
    honest = running.gateways
    spoil(here, running, lambda address: True)
    with pytest.raises(RunError, match=r"letter@first is held: \d+ of the latest texts were refused with 30007: "):
        here.send_due(running)
    assert running.state == "held"
    # The refusals that showed it were not about the people either.
    assert {row.state for row in here.rows().values()} == {"queued"}
    assert CONSECUTIVE <= here.outcomes().count("rejected") < CONSECUTIVE + here.settings.sms.connections
    here.require_balance(running)
    standstill.resume(here.store, running.run.run_id, by="ops")
    # What was refused before counts no more: one more refusal stops nothing.
    running.__dict__["gateways"] = honest
    spoil(here, running, lambda address: address.endswith("01"))
    assert here.send_due(running).rejected == 1
    assert [row.state for row in here.rows().values()].count("accepted") == 59
    here.require_balance(running)


def test_refusals_that_are_about_the_people_stop_the_sender_and_are_not_tried_again(rehearse):
    here = rehearse(crowd(40))
    running = here.ready(TEXT)
    for seq in range(1, 41):
        change_address(here, seq, phone="+15005550009")
    with pytest.raises(RunError, match=r"refused with 21614: .*see where these addresses come from"):
        here.send_due(running)
    states = [row.state for row in here.rows().values()]
    assert CONSECUTIVE <= states.count("failed") < CONSECUTIVE + here.settings.sms.connections
    assert states.count("queued") == 40 - states.count("failed")
    here.require_balance(running)


@pytest.mark.parametrize("named", [True, False], ids=["named", "unnamed"])
def test_emails_that_are_all_refused_stop_their_sender_after_twenty_people(rehearse, named):
    here = rehearse(crowd(48), errors_name_field=named)
    running = here.ready(LETTER)
    for seq in range(1, 49):
        change_address(here, seq, email=f"person{seq}..x@person.example.com")
    with pytest.raises(RunError, match="20 of the latest emails were refused with"):
        here.send_due(running)
    states = [row.state for row in here.rows().values()]
    # A provider that names a person speaks of that person; one that names nobody may mean us.
    assert states.count("failed") == (CONSECUTIVE if named else 0)
    assert states.count("queued") == 48 - states.count("failed")
    here.require_balance(running)


def test_a_few_refusals_among_many_stop_nobody(rehearse):
    here = rehearse(crowd(60))
    running = here.ready(TEXT)
    spoil(here, running, lambda address: int(address[-2:]) % 3 == 0)
    tally = here.send_due(running)
    assert (tally.accepted, tally.rejected, running.state) == (40, 20, "executing")


def two_countries(here_people: int = 4) -> list[Customer]:
    chinese = [Customer(name=f"chinese{n}", mobile=f"+861380013800{n}") for n in range(here_people)]
    return [*crowd(here_people), *chinese]


@pytest.mark.parametrize(("number", "code"), [("+15005550003", "21408"), ("+15005550002", "21612")])
def test_a_country_that_may_not_be_texted_waits_and_the_others_go_on(rehearse, number, code):
    here = rehearse(two_countries())
    running = here.ready(TEXT)
    for seq in range(1, 5):
        change_address(here, seq, phone=number)
    assert here.send_due(running).accepted == 4
    states = here.states(running)
    assert [states[f"person{n}"] for n in range(1, 5)] == [["queued"]] * 4
    assert running.state == "executing"
    with here.store.read() as connection:
        (halt,) = country_halts_of(connection, running.run.run_id, here.clock.now())
    assert (halt.country, halt.code, halt.waiting) == ("US", code, 4)
    here.require_balance(running)
    # Nothing else is left: the run is held for them.
    assert running.next_due() is None
    assert running.state == "held"
    assert "4 texts to US wait: " in str(running.standstill())
    env = here.environment()
    shown = require(run("status", "letter@first", cwd=ROOT, env=env), 0, "4 texts to US wait", "commplan resume")
    assert "is held since" in shown
    for seq in range(1, 5):
        change_address(here, seq, phone=f"+1202555000{seq}")
    standstill.resume(here.store, running.run.run_id, by="ops")
    assert here.send_due(running).accepted == 4
    assert len(here.truth()) == 8
    assert running.next_due() is None
    assert running.standstill() is None
    here.require_balance(running)


def test_texts_that_wait_for_a_country_expire_and_the_run_ends_by_itself(rehearse):
    here = rehearse(two_countries(2))
    running = here.ready(TEXT)
    for seq in (1, 2):
        change_address(here, seq, phone="+15005550003")
    here.send_due(running)
    assert running.next_due() is None
    assert running.standstill() is not None
    here.jump(days=1, hours=1)
    assert running.standstill() is None
    here.send_until_quiet(running)
    assert here.states(running)["person1"] == ["expired: too_late"]
    assert running.next_due() is None
    assert running.state == "executing"
    here.require_balance(running)


def test_email_to_people_in_a_halted_country_goes_on(rehearse):
    here = rehearse(crowd(2))
    running = here.ready(BOTH)
    for seq in (1, 2):
        change_address(here, seq, phone="+15005550003")
    here.send_until_quiet(running)
    assert here.states(running) == {f"person{n}": ["accepted", "queued"] for n in (1, 2)}
    assert running.next_due() is None
    with pytest.raises(RunError, match="frozen"):
        standstill.resume(here.store, here.start(TEXT.replace("plan: letter", "plan: other")).run.run_id, by="ops")
    with pytest.raises(RunError, match="is held"):
        standstill.pause(here.store, running.run.run_id, by="ops")
