"""The states of a message: every change the database ever sees is in the table, and the table holds no other."""

from __future__ import annotations

import json
import time

import pytest
from sqlalchemy import inspect, text

from commplan.clock import Clock
from commplan.errors import RunError
from commplan.ledger import close, ending, settlement, state, unsettled
from commplan.ledger.claim import claim
from commplan.store.tables import metadata
from commplan.terms import Channel, MessageState, Reason, Retry
from tests.campaign.conftest import BOTH, LETTER, PAIR, TEXT, Customer, crowd
from tests.campaign.test_breaker import Refusing
from tests.campaign.test_failure import change_address
from tests.campaign.test_last_look import block
from tests.conftest import NOON


def watch(here) -> None:
    """Let the database write down every change of a state, whoever makes it."""
    with here.store.write() as connection:
        connection.execute(text("CREATE TABLE seen (was TEXT NOT NULL, became TEXT NOT NULL)"))
        if here.store.is_sqlite:
            connection.execute(
                text(
                    "CREATE TRIGGER watch AFTER UPDATE OF state ON messages WHEN old.state <> new.state"
                    " BEGIN INSERT INTO seen VALUES (old.state, new.state); END"
                )
            )
            return
        connection.execute(
            text(
                "CREATE FUNCTION watch() RETURNS trigger LANGUAGE plpgsql AS"
                " $$ BEGIN INSERT INTO seen VALUES (old.state, new.state); RETURN NULL; END $$"
            )
        )
        connection.execute(
            text(
                "CREATE TRIGGER watch AFTER UPDATE ON messages FOR EACH ROW"
                " WHEN (old.state <> new.state) EXECUTE FUNCTION watch()"
            )
        )


def seen(here) -> set[tuple[str, str]]:
    with here.store.read() as connection:
        return {tuple(row) for row in connection.execute(text("SELECT DISTINCT was, became FROM seen"))}


def plan(name: str, source: str) -> str:
    return source.replace("plan: letter", f"plan: {name}")


def test_every_change_of_a_state_is_in_the_table_and_the_table_holds_no_other(rehearse):
    people = [*crowd(6), Customer(name="phoneless")]
    here = rehearse(people, batch=2, timeout=1, errors_name_field=True)
    watch(here)
    _deliver_and_fail(here)
    _look_and_refuse(here)
    _ask_and_refuse(here)
    _lose_and_find(here)
    _settle(here)
    _stop(here)
    _mistake(here)
    _burn(here)
    table = {(was, became) for was, targets in state.TRANSITIONS.items() for became in targets}
    assert seen(here) <= table
    assert table - seen(here) == set()


def _deliver_and_fail(here) -> None:
    running = here.ready(plan("deliver", BOTH))
    change_address(here, 6, email="person6..x@person.example.com")
    here.fault("email", "429")
    here.send_until_quiet(running)
    running.gather()
    bounced, late, *_ = here.truth()
    here.tell(bounced, "bounce", type="bounce", status="5.1.1")
    here.tell(late, "delivered")
    here.tell(late, "bounce", type="bounce", status="5.1.1")


def _mistake(here) -> None:
    here.jump(days=4)
    for name in ("one", "other"):
        here.send_until_quiet(here.ready(plan(name, LETTER)))
    last = [one for one in here.truth() if one["channel"] == "email"][-1]
    *_, one, other = [mail for mail in here.truth() if mail["to"] == last["to"]]
    here.tell(one, "delivered")
    here.tell({**one, "args": {}, "provider_id": ""}, "bounce", type="bounce", status="5.1.1")
    here.tell(other, "delivered")


def _look_and_refuse(here) -> None:
    conditional = PAIR.replace("content: nudge,", "content: nudge, when: clicked(welcome),")
    running = here.ready(plan("look", conditional))
    block(here, Channel.EMAIL, "person5@person.example.com", reason=Reason.NEVER_CONTACT)
    here.send_until_quiet(running)
    here.deliver_all()
    here.update_crm("delete from customers where customer_id = 4")
    here.jump(days=1)
    running.gather()
    here.send_until_quiet(running)
    here.jump(hours=12)
    any_hour = TEXT.replace("content: nudge", "content: nudge, window: 00:00-23:00")
    texts = here.ready(plan("opt-out", any_hour))
    block(here, Channel.SMS, "+12025550002", reason=Reason.STOP)
    here.send_until_quiet(texts)
    late = [here.ready(plan("hours", any_hour)), here.ready(plan("overdue", LETTER))]
    here.jump(days=3)
    for each in late:
        here.send_until_quiet(each)


def _ask_and_refuse(here) -> None:
    again = "{step: again, channel: email, content: welcome, when: clicked(welcome), wait: P1D, not_after: P2D}"
    running = here.ready(plan("again", LETTER.replace("evaluation:", f"  - {again}\nevaluation:")))
    here.send_until_quiet(running)
    here.deliver_all()
    here.jump(days=1)
    running.gather()
    here.send_until_quiet(running)


def _lose_and_find(here) -> None:
    running = here.ready(plan("lose", LETTER))
    here.fault("email", "accept_then_close")
    here.send_until_quiet(running)
    here.deliver_all()
    for became in ("take_back", "reject"):
        running = here.ready(plan(became.replace("_", "-"), LETTER))
        here.fault("email", "accept_then_close", 9)
        here.send_until_quiet(running)
        lost = {row.attempt_id for row in here.rows(running.run.run_id).values() if row.state == "unknown"}
        for attempt_id in lost:
            getattr(close, became)(here.store, attempt_id, status=None, code=None)


def _settle(here) -> None:
    # Proven lost, and accepted after all: one still queued, one claimed already; one when the run had ended.
    here.jump(hours=5)
    one_by_one = here.settings.email.model_copy(update={"batch": 1})
    running = here.ready(plan("settle", LETTER), settings=here.settings.model_copy(update={"email": one_by_one}))
    here.fault("email", "accept_then_close", 9)
    here.send_until_quiet(running)
    settlement.notice(here.store, running.run.run_id)

    def lose(one) -> int:
        with here.store.read() as connection:
            found = {each.attempt_id: each for each in unsettled.read(connection, running.run.run_id)}
        return settlement.lose(here.store, found[one["args"]["cp_a"]])

    by_request = {one["request_id"]: one for one in here.truth() if one["ref"].run_id == running.run.run_id}
    first, second, third, *_ = by_request.values()
    assert lose(first) == 1
    here.tell(first, "delivered")
    assert lose(second) == 1
    assert claim(here.store, run_id=running.run.run_id, step_no=1, worker="w", limit=1, lease=0) is not None
    here.tell(second, "delivered")
    running.evaluate()
    assert lose(third) == 1
    late = here.ready(plan("late", LETTER))
    here.jump(days=3)
    here.send_until_quiet(late)
    assert settlement.retry(here.store, late.run.run_id, Retry.TRANSIENT) > 0


def _stop(here) -> None:
    here.jump(hours=5)
    running = here.ready(plan("stop", PAIR))
    assert claim(here.store, run_id=running.run.run_id, step_no=1, worker="w", limit=1, lease=0) is not None
    close.sweep(here.store, running.run.run_id)
    assert claim(here.store, run_id=running.run.run_id, step_no=1, worker="w", limit=1, lease=60) is not None
    ending.cancel_run(here.store, running.run.run_id)
    with pytest.raises(RunError):
        ending.discard_run(here.store, here.start(plan("lose", LETTER)).run.run_id)


def _burn(here) -> None:
    here.store.clock = Clock(origin=NOON, anchor=time.time(), factor=1e-9)
    here.update_crm(
        "insert into customers select customer_id + value, first_name, full_name, email || value, '+1202555' ||"
        " (1000 + value), lang, tz, signed_up_at, lifetime_value, 1, setup_url, null from customers,"
        " json_each(:each) where customer_id = 1",
        each=json.dumps(list(range(100, 120))),
    )
    running = here.ready(plan("burn", TEXT))
    gateways = running.gateways
    running.__dict__["gateways"] = type(gateways)(email=gateways.email, sms=Refusing(gateways.sms, lambda number: True))
    with pytest.raises(RunError, match="is held"):
        here.send_due(running)


def test_the_table_has_every_state_and_ends_where_it_says():
    assert set(state.TRANSITIONS) == set(MessageState)
    assert {to for targets in state.TRANSITIONS.values() for to in targets} <= set(MessageState)
    for never in state.NEVER_SENT:
        assert not state.TRANSITIONS[never] or never is MessageState.EXPIRED
    reached = {MessageState.EXCLUDED, MessageState.NOT_DUE, MessageState.QUEUED}
    while more := {to for was in reached for to in state.TRANSITIONS[was]} - reached:
        reached |= more
    assert reached == set(MessageState)


def test_the_diagram_shows_every_transition():
    diagram = state.diagram()
    for was, targets in state.TRANSITIONS.items():
        for became, why in targets.items():
            assert f"    {was} --> {became}: {why}\n" in f"{diagram}\n"
        assert targets or f"    {was} --> [*]" in diagram
    assert diagram.startswith("stateDiagram-v2\n")


def test_the_database_has_every_constraint_that_the_tables_declare(rehearse):
    here = rehearse([])
    with here.store.write() as connection:
        found = inspect(connection)
        for table in metadata.tables.values():
            declared = {str(c.name) for c in table.constraints if type(c).__name__ == "CheckConstraint"}
            there = {str(c["name"]) for c in found.get_check_constraints(table.name)}
            assert declared == there, table.name
