"""Starting an occurrence: once, again, half-way, after its files were changed, and beside other runs of the plan."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import select

from commplan import campaign
from commplan.dispatch import Tally
from commplan.errors import InputError, RunError
from commplan.ledger import ending
from commplan.ledger import run as ledger_run
from commplan.ledger.enqueue import Enqueuer
from commplan.ledger.turn import exclusive
from commplan.rendering import freeze
from commplan.store.tables import enrolments, messages, recipients, runs
from tests.campaign.conftest import LETTER, NOON, PAIR, PLAN, Customer, Rehearsal, crowd


def enrolled(here: Rehearsal) -> set[tuple[str, str]]:
    with here.store.read() as connection:
        return {tuple(row) for row in connection.execute(select(enrolments.c.contact_id, enrolments.c.state))}


def test_starting_a_run_again_while_it_is_planned_starts_the_planning_from_nothing(rehearse):
    here = rehearse(crowd(3))
    first = here.start()
    first.resolve_audience()
    again = here.start()
    assert again.run.run_id == first.run.run_id
    again.resolve_audience()
    assert again.render() == 3
    assert here.send_due(again).accepted == 3
    here.require_balance(again)


def test_a_rendering_that_was_cut_short_is_done_again_by_the_next_start(rehearse, monkeypatch):
    monkeypatch.setattr(freeze, "_WRITTEN", 30)
    here = rehearse(crowd(30))
    first = here.start()
    first.resolve_audience()

    def die(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        first.render(progress=die)
    assert len(here.rows()) == 30
    again = here.start()
    assert again.state == "frozen"
    again.resolve_audience()
    again.render()
    here.send_due(again)
    assert len(here.truth()) == 30
    here.require_balance(again)


def test_a_run_half_sent_goes_on_where_it_is(rehearse):
    here = rehearse(crowd(9), batch=2)
    first = here.ready()
    assert first.dispatch(1, here.shard(0, 3)).accepted == 3
    again = here.start()
    assert (again.run.run_id, again.state) == (first.run.run_id, "executing")
    assert (again.resolve_audience(), again.render()) == (None, None)
    assert here.send_due(again).accepted == 6
    assert len(here.truth()) == 9
    here.require_balance(again)


def test_nothing_can_be_planned_into_a_run_that_sends(rehearse):
    here = rehearse(crowd(2))
    running = here.ready()
    here.send_due(running)
    before = here.rows()
    with pytest.raises(RunError):
        Enqueuer(here.store, running.run.run_id).clear()
    with pytest.raises(RunError):
        Enqueuer(here.store, running.run.run_id).write([])
    assert here.rows() == before


class Meanwhile:
    """Somebody else who does something while one plans, and what came of it."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work
        self._thread: threading.Thread | None = None
        self.result: object = "nothing yet"

    def __call__(self, _: int) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._do)
            self._thread.start()

    def _do(self) -> None:
        self.result = self._work()

    def join(self) -> object:
        assert self._thread is not None
        self._thread.join()
        return self.result


def test_whoever_starts_a_run_that_another_is_planning_waits_and_finds_it_planned(rehearse):
    here = rehearse(crowd(3))
    first, second = here.start(), here.start()
    looked_up, rendered = Meanwhile(second.resolve_audience), Meanwhile(second.render)
    first.resolve_audience(progress=looked_up)
    # Nothing was rendered yet, so looking up again was the right thing to do.
    assert looked_up.join().audience == 3
    first.render(progress=rendered)
    assert rendered.join() is None
    assert second.state == "executing"
    here.send_due(first)
    assert len(here.truth()) == 3
    here.require_balance(first)


def test_two_runs_of_a_plan_look_up_their_audience_one_after_the_other(rehearse):
    here = rehearse(crowd(3))
    first, second = here.start(occurrence="first"), here.start(occurrence="second")
    after = Meanwhile(second.resolve_audience)
    assert first.resolve_audience(progress=after).excluded == {}
    assert after.join().excluded == {"already_enrolled": 3}


def test_who_has_no_patience_is_told_that_another_has_the_turn(rehearse):
    here = rehearse(crowd(1))
    with (
        exclusive(here.store, "letter@first"),
        pytest.raises(RunError, match="another process prepares letter@first"),
        exclusive(here.store, "letter@first"),
    ):
        raise AssertionError("two had the turn")
    with exclusive(here.store, "letter@first"):
        pass


def test_a_turn_whose_lease_is_over_goes_to_the_next_and_says_so_to_the_first(rehearse):
    here = rehearse(crowd(1))
    with (
        exclusive(here.store, "x", lease=timedelta(0)) as mine,
        exclusive(here.store, "x"),
        pytest.raises(RunError, match="taken over"),
    ):
        mine.keep()


def test_files_changed_after_the_start_change_nothing(rehearse):
    here = rehearse(crowd(2))
    running = here.start(PAIR)
    folder = here.write(PAIR).parent
    (folder / "welcome.email.en.txt.j2").write_text("Something else for {{ first_name }} {{ links.unsubscribe }}")
    here.write(PAIR.replace("wait: P1D", "wait: P9D").replace("title: A letter", "title: Another"))
    again = here.start_file(folder / "plan.yaml")
    assert again.run.digest == running.run.digest
    assert again.plan.title == "A letter"
    again.resolve_audience()
    again.render()
    here.send_due(again)
    for one in here.truth():
        assert "Good to have you here" in here.content(one)["text"]
    due = here.start_file(folder / "plan.yaml").next_due()
    assert due is not None
    assert timedelta(hours=23) < due.at - here.clock.now() < timedelta(days=2)


def test_settings_that_shape_a_message_are_those_of_the_start(rehearse):
    here = rehearse(crowd(1))
    running = here.start()
    other = here.settings.model_copy(update={"public_url": "http://127.0.0.1:9"})
    again = here.start(settings=other)
    assert again.run.run_id == running.run.run_id
    again.resolve_audience()
    again.render()
    here.send_due(again)
    (one,) = here.truth()
    assert f"<{here.settings.public_url}/u/" in here.content(one)["headers"]["List-Unsubscribe"]


def test_a_run_continued_on_another_plan_time_is_refused(rehearse):
    here = rehearse(crowd(1))
    here.start()
    here.jump(days=1)
    with pytest.raises(RunError, match="another plan time"):
        here.start()


def test_who_went_through_a_plan_once_is_left_out_of_its_next_run(rehearse):
    here = rehearse(crowd(2))
    here.send_due(here.ready(occurrence="first"))
    here.update_crm(
        "insert into customers select 9, 'Neu', 'Neu', 'neu@person.example.com', null, 'en', null, signed_up_at, 0, 1,"
        " setup_url, null from customers where customer_id = 1"
    )
    second = here.ready(occurrence="second")
    assert here.send_due(second).accepted == 1
    assert {row.contact_id: row.reason for row in here.rows(second.run.run_id).values()} == {
        "1": "already_enrolled",
        "2": "already_enrolled",
        "9": None,
    }
    here.require_balance(second)


def test_every_run_means_everybody_again_but_not_within_the_gap(rehearse):
    plan = LETTER.replace("\nsequence:", "\n  enroll: every_run\nsequence:")
    here = rehearse(crowd(2))
    here.send_due(here.ready(plan, "first"))
    second = here.ready(plan, "second")
    assert here.send_due(second).accepted == 0
    assert {row.reason for row in here.rows(second.run.run_id).values()} == {"recently_sent"}
    here.jump(days=2)
    assert here.send_due(here.ready(plan, "third")).accepted == 2


@pytest.mark.parametrize("end", ["discard", "cancel"])
def test_a_run_that_ends_without_a_message_gives_its_people_back(rehearse, end):
    here = rehearse(crowd(2))
    first = here.ready(occurrence="first")
    if end == "discard":
        ending.discard_run(here.store, first.run.run_id)
    else:
        assert ending.cancel_run(here.store, first.run.run_id) == 2
        assert here.states(first) == {name: ["cancelled: run_cancelled"] for name in ("person1", "person2")}
        assert here.send_due(first).accepted == 0
        here.require_balance(first)
    assert enrolled(here) == set()
    assert here.send_due(here.ready(occurrence="second")).accepted == 2


def test_a_discarded_run_frees_its_key_even_after_a_batch_in_which_nothing_was_left_to_send(rehearse):
    here = rehearse(crowd(1))
    running = here.ready()
    here.jump(days=5)
    assert here.send_due(running) == Tally(batches=1)
    assert here.states(running) == {"person1": ["expired: too_late"]}
    running.evaluate()
    ending.discard_run(here.store, running.run.run_id)
    with here.store.read() as connection:
        for table in (runs, messages, recipients, enrolments):
            assert connection.execute(select(table)).all() == []
    assert here.send_due(here.ready()).accepted == 1


def test_a_run_that_has_sent_is_not_discarded(rehearse):
    here = rehearse(crowd(1))
    running = here.ready()
    here.send_due(running)
    with pytest.raises(RunError, match="cancel it instead"):
        ending.discard_run(here.store, running.run.run_id)
    here.require_balance(running)


def test_cancelling_keeps_the_places_of_those_who_were_or_may_have_been_written_to(rehearse):
    here = rehearse(crowd(4), batch=1)
    first = here.ready(PAIR, "first")
    here.fault("email", "accept_then_close")
    first.dispatch(1, here.shard(0, 2))  # two of them; the first request gets no answer
    assert ending.cancel_run(here.store, first.run.run_id) == 2 + 4
    assert sorted(row.state for ref, row in here.rows().items() if ref.step_no == 1) == [
        "accepted",
        "cancelled",
        "cancelled",
        "unknown",
    ]
    second = here.ready(PAIR, "second")
    here.send_due(second)
    assert sorted(one["to"] for one in here.truth()) == sorted(who.address for who in here.customers)


def test_since_of_the_first_run_is_the_start_and_of_the_next_the_last_snapshot_less_the_overlap(rehearse):
    here = rehearse([Customer(name="early", signed_up_at="2026-10-31 23:59:59"), Customer(name="late")])
    first = here.ready(PLAN, "first")
    assert list(here.states(first)) == ["late"]
    with here.store.read() as connection:
        assert ledger_run.load_run(here.store, first.run.run_id).since.isoformat() == "2026-10-31T16:00:00+00:00"
        # Nothing has gone out yet, so the next run starts where the first did.
        assert ledger_run.since_of(connection, first.plan, -1).isoformat() == "2026-11-01T00:00:00+08:00"
    here.send_due(first)
    with here.store.read() as connection:
        since = ledger_run.since_of(connection, first.plan, -1)
    assert abs(since - (NOON - timedelta(days=2))) < timedelta(minutes=1)


def test_a_bad_query_is_refused_at_its_line_before_the_run_exists(rehearse):
    here = rehearse(crowd(1))
    with pytest.raises(InputError, match=r"plan\.yaml:\d+:\d+: audience\.source\.sql: .* at \"nobody\""):
        here.start(LETTER.replace("select * from customers", "select * from nobody"))
    assert ledger_run.list_runs(here.store) == []
    assert here.send_due(here.ready()).accepted == 1


def test_a_source_that_fails_after_the_start_is_named_in_the_frozen_plan_and_frees_the_run_s_key(rehearse):
    here = rehearse(crowd(1))
    running = here.start()
    here.update_crm("alter table customers rename to elsewhere")
    with pytest.raises(InputError, match=r"letter@first/plan\.yaml:\d+:\d+: audience\.source\.sql: "):
        running.resolve_audience()
    here.update_crm("alter table elsewhere rename to customers")
    assert here.send_due(here.ready()).accepted == 1


def test_a_run_that_has_begun_is_joined_while_its_source_is_away(rehearse):
    here = rehearse(crowd(1))
    here.ready()
    here.update_crm("alter table customers rename to elsewhere")
    assert here.send_due(here.start()).accepted == 1


def test_more_people_than_allowed_are_not_written_to_and_the_key_is_free(rehearse):
    here = rehearse(crowd(3))
    small = here.settings.model_copy(update={"max_recipients": 2})
    with pytest.raises(RunError, match="to 3, and COMMPLAN_MAX_RECIPIENTS allows 2"):
        here.start(settings=small).resolve_audience()
    assert (here.rows(), enrolled(here)) == ({}, set())
    assert here.send_due(here.ready()).accepted == 3


def test_the_most_recipients_are_those_of_a_day_over_all_plans(rehearse):
    here = rehearse(crowd(2))
    small = here.settings.model_copy(update={"max_recipients": 3})
    here.ready(settings=small)
    with pytest.raises(RunError, match="to 4, and"):
        here.start(LETTER.replace("plan: letter", "plan: other"), settings=small).resolve_audience()
    here.jump(days=1)
    here.start(LETTER.replace("plan: letter", "plan: other"), settings=small).resolve_audience()


@pytest.mark.parametrize("missing", ["CRM_DATABASE_URL", "COMMPLAN_EMAIL__API_KEY"])
def test_what_is_missing_is_said_before_anything_is_written(rehearse, monkeypatch, missing):
    here = rehearse(crowd(1))
    settings = here.settings
    if missing == "CRM_DATABASE_URL":
        monkeypatch.delenv(missing)
    else:
        settings = settings.model_copy(update={"email": settings.email.model_copy(update={"api_key": None})})
    with pytest.raises(InputError, match=missing):
        here.start(settings=settings)
    assert ledger_run.list_runs(here.store) == []


def test_many_starters_of_one_occurrence_make_one_run(rehearse):
    here = rehearse(crowd(1))
    path = here.write(LETTER)
    found = []

    def start() -> None:
        started = campaign.start(here.store, here.settings, path=path, occurrence="o", scheduled=NOON)
        found.append(started.run.run_id)

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    assert len(set(found)) == 1
    assert ledger_run.load_run(here.store, found[0]).starts == 1, "whoever joins begins the count anew"
