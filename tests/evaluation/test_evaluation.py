"""The whole document: figures that can be counted by hand, costs, lessons, and a digest that means something."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import jsonschema
import pytest
from sqlalchemy import insert

from commplan import evaluation, metrics
from commplan.evaluation import Evaluation
from commplan.evaluation.wording import REASONS, STATES
from commplan.report import to_html, to_markdown
from commplan.store.tables import receipts, skeletons
from commplan.terms import Channel, MessageState, Reason, Verdict

START = datetime(2026, 12, 1, 2, 0, tzinfo=UTC)
DAY = timedelta(days=1)


def _campaign(run):
    """Ten people of two segments: seven delivered, two clicked, three converted."""
    email, sms = run.email, run.sms
    spared = sms("not_needed", reason="condition_false")
    survey = email(at=START + 5 * DAY)
    for n in range(2):
        answered = survey | {"answered_at": START + 6 * DAY}
        run.person(
            email(opened_at=START, clicked_at=START),
            spared,
            answered,
            segment="vip",
            activated=START + DAY,
            score=4 + n,
        )
    run.person(email(opened_at=START), sms(parts=2, replied_at=START + 3 * DAY), survey, activated=START + 4 * DAY)
    for country in ("CN", "DE", None):
        run.person(email(), sms(parts=2), survey, country=country, locale="zh-CN")
    run.person(email(), sms("excluded", reason="no_phone"), survey)
    run.person(email("failed", reason="bounced"), sms("not_needed", reason="condition_unknown"), email("not_needed"))
    for _ in range(2):
        gone = [row("excluded", reason="no_email") for row in (email, sms, email)]
        run.person(*gone, segment="new")
    run.asked = [("activated", START + 13 * DAY, True)]


def test_the_funnel_counts_people(run, assess):
    _campaign(run)
    assert [(stage.name, stage.count) for stage in assess(run).funnel] == [
        ("audience", 10),
        ("reachable", 8),
        ("accepted", 8),
        ("delivered", 7),
        ("opened", 3),
        ("clicked", 2),
        ("activated", 3),
    ]


def test_the_books_of_every_step_balance(run, assess):
    _campaign(run)
    result = assess(run)
    assert result.balanced
    for step in result.steps:
        assert sum(step.states.values()) == result.audience == 10
    assert result.steps[1].states == {
        MessageState.EXCLUDED: 3,
        MessageState.DELIVERED: 4,
        MessageState.NOT_NEEDED: 3,
    }


def test_a_missing_row_is_shown_as_a_difference(run, assess):
    _campaign(run)
    run.rows.pop()
    result = assess(run)
    assert not result.balanced
    assert [step.difference for step in result.steps] == [0, 0, 1]
    assert any("off by 1" in note for note in result.notes)


def test_reasons_are_counted_by_step_largest_first(run, assess):
    _campaign(run)
    rows = [(row.state, row.reason, row.messages) for row in assess(run).steps[1].reasons]
    assert rows == [
        (MessageState.EXCLUDED, Reason.NO_EMAIL, 2),
        (MessageState.NOT_NEEDED, Reason.CONDITION_FALSE, 2),
        (MessageState.EXCLUDED, Reason.NO_PHONE, 1),
        (MessageState.NOT_NEEDED, Reason.CONDITION_UNKNOWN, 1),
    ]


def test_cost_is_accepted_mails_and_parts_at_the_price_of_their_country(run, assess):
    _campaign(run)
    cost = assess(run).cost
    lines = [
        (line.step, line.channel, line.country, line.quantity, line.amount, line.by_default) for line in cost.lines
    ]
    assert lines == [
        ("welcome", Channel.EMAIL, None, 8, Decimal("0.008"), False),
        ("nudge", Channel.SMS, None, 2, Decimal("0.1"), True),
        ("nudge", Channel.SMS, "CN", 2, Decimal("0.08"), False),
        ("nudge", Channel.SMS, "DE", 2, Decimal("0.1"), True),
        ("nudge", Channel.SMS, "US", 2, Decimal("0.02"), False),
        ("survey", Channel.EMAIL, None, 7, Decimal("0.007"), False),
    ]
    assert cost.total == Decimal("0.315") == sum(line.amount for line in cost.lines)
    assert any(note.startswith("4 SMS parts cost the default price") for note in assess(run_again(run)).notes)


def run_again(run, state="finished"):
    """The same people under another occurrence."""
    run.occurrence += "+"
    run.state = state
    return run


def test_a_cancelled_run_says_so_and_a_finished_one_is_what_it_was_while_executing(run, assess):
    _campaign(run)
    executing, finished, cancelled = (
        assess(run_again(run, state=state)).model_copy(update={"run_key": "k", "occurrence": "o"})
        for state in ("executing", "finished", "cancelled")
    )
    assert executing.digest == finished.digest != cancelled.digest
    assert any("cancelled" in note for note in cancelled.notes)


def test_old_prices_are_pointed_out(run, assess):
    _campaign(run)
    assert not any("year old" in note for note in assess(run, days=300).notes)
    assert any("year old" in note for note in assess(run_again(run), days=400).notes)


def test_a_source_that_fell_silent_is_pointed_out(run, assess):
    _campaign(run)
    run.asked.append(("activated", START + 14 * DAY, False))
    assert any("did not answer" in note for note in assess(run).notes)


def test_segments_follow_the_plans_order_and_add_up(run, assess):
    _campaign(run)
    run.person(run.email(), segment=None)
    result = assess(run)
    assert [segment.segment for segment in result.segments] == ["vip", "new", None]
    for place, stage in enumerate(result.segments[0].stages):
        if stage.name in {stage.name for stage in result.funnel}:
            whole = sum(segment.stages[place].count for segment in result.segments)
            assert whole == next(s.count for s in result.funnel if s.name == stage.name)
    for goal in result.goals:
        if goal.numerator is not None:
            rates = [rate for segment in result.segments for rate in segment.rates if rate.goal == goal.id]
            assert sum(rate.numerator for rate in rates) == goal.numerator
            assert sum(rate.denominator for rate in rates) == goal.denominator


@pytest.mark.parametrize(("vips", "differs"), [(60, True), (6, False)])
def test_segments_are_said_to_differ_only_beyond_chance(run, assess, vips, differs):
    for n in range(vips):
        run.person(run.email(clicked_at=START if n % 3 else None), segment="vip")
        run.person(run.email(clicked_at=None if n % 3 else START), segment="new")
    result = assess(run)
    told = [lesson for lesson in result.lessons if "segment vip" in lesson]
    assert bool(told) is differs
    rates = [rate for segment in result.segments for rate in segment.rates if rate.goal == "respond"]
    assert [rate.differs for rate in rates] == [differs, differs]


def test_the_largest_loss_is_named_with_its_reason(run, assess):
    _campaign(run)
    assert assess(run).lessons[0] == (
        "Most people were lost at step “welcome”: 3 of 10 (30.0%). The largest part, 2, ended as excluded: no email "
        "address on record."
    )


def test_a_follow_up_claims_no_effect_that_was_not_compared(run, assess):
    _campaign(run)
    [told] = [lesson for lesson in assess(run).lessons if lesson.startswith("Follow-up")]
    assert "delivered to 4 people and left out for 2" in told
    assert "1 of those it reached (25.0%) responded" in told
    assert "control group cannot say" in told


def test_what_machines_open_and_click_is_shown_apart_and_counts_for_no_goal(run, assess):
    run.person(run.email(machine_opened_at=START, machine_clicked_at=START))
    run.person(run.email(clicked_at=START, machine_clicked_at=START))
    result = assess(run)
    counts = result.steps[0].counts
    assert (counts.opened, counts.machine_opened) == (0, 1)
    assert (counts.clicked, counts.machine_clicked, counts.responded) == (1, 2, 1)
    assert next(goal for goal in result.goals if goal.id == "respond").numerator == 1
    assert any("opened 1 delivered message;" in note for note in result.notes)
    assert any("clicked in 2 delivered messages;" in note for note in result.notes)


def test_an_empty_run_is_provisional_and_decides_nothing(run, assess):
    result = assess(run)
    assert result.provisional
    assert {goal.verdict for goal in result.goals} == {Verdict.INCONCLUSIVE}
    assert result.lessons == ()


def test_the_digest_changes_with_what_was_found_and_not_with_the_time_of_asking(run, assess):
    _campaign(run)
    first = assess(run)
    later = first.model_copy(update={"evaluated_at": first.evaluated_at + DAY})
    assert later.digest == first.digest
    assert first.model_copy(update={"replies": 1}).digest != first.digest


def test_the_document_survives_json_and_keeps_to_its_schema(run, assess):
    _campaign(run)
    result = assess(run)
    schema = evaluation.json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(result.model_dump(mode="json"))
    assert Evaluation.model_validate_json(result.model_dump_json()) == result


def test_every_state_and_reason_has_words():
    assert REASONS.keys() == set(Reason)
    assert STATES.keys() == set(MessageState)


def _linked(run, *, clicks):
    """Let everybody's text have two counted links, which people (None) and machines (why) followed."""
    run_id = run.save()
    with run.store.write() as connection:
        connection.execute(
            insert(skeletons).values(
                run_id=run_id, skeleton_no=1, digest="d" * 64, content="nudge", channel="sms", locale="en",
                subject="", text="…", html="", placeholders="[]", links='["setup_url", "https://help.example/"]',
            )
        )  # fmt: skip
        rows = [
            {"receipt_key": f"{number}", "provider": "page", "kind": "clicked", "run_id": run_id, "step_no": 2,
             "seq": seq, "at": START, "received_at": START, "url_key": link, "machine_why": why}
            for number, (seq, link, why) in enumerate(clicks)
        ]  # fmt: skip
        connection.execute(insert(receipts), rows)
    return run_id


@pytest.mark.parametrize("channels", ["both", "text alone"])
def test_links_of_texts_are_counted_by_their_names_for_people_and_machines_apart(run, make_plan, prices, channels):
    run.person(run.email(clicked_at=START), run.sms(clicked_at=START, machine_clicked_at=START))
    run.person(run.email(), run.sms(machine_clicked_at=START))
    run.person(run.email(), run.sms("failed", clicked_at=START))
    run_id = _linked(
        run,
        clicks=[(1, "setup_url", None), (1, "setup_url", None), (1, "setup_url", "agent"), (2, "setup_url", "flagged"),
                (3, "setup_url", None)],
    )  # fmt: skip
    step = {} if channels == "both" else {"step": "nudge"}
    plan = make_plan(goals=[{"id": "follow", "metric": "click_rate", "target": "at least 10%", **step}])
    with run.store.read() as connection:
        counted = metrics.measure(connection, run_id=run_id, plan=plan)
    found = evaluation.evaluate(counted, plan, prices, run_key="a@1", now=START + 20 * DAY, sandbox=True)
    assert [(link.step, link.link, link.clicked, link.machine_clicked) for link in found.links] == [
        ("nudge", "setup_url", 1, 2),
        ("nudge", "https://help.example/", 0, 0),
    ]
    # Three emails, and two texts that were delivered.
    assert (found.goals[0].numerator, found.goals[0].denominator) == ((2, 5) if channels == "both" else (1, 2))
    text = to_markdown(found, charts=False)
    assert "| nudge | setup\\_url | 1 (50.0%) | 2 |" in text
    assert "1 (50.0%) + 2" in text
    assert "Links in texts" in to_html(found, charts=False)
