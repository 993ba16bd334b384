"""A verdict is given only where nothing that is still unknown could change it."""

from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commplan import evaluation
from commplan.evaluation.reading import RATES, RSVPS, Reading
from commplan.evaluation.verdict import SCALES, decide, score_worth
from commplan.plan import Target
from commplan.terms import Metric, Verdict

START = datetime(2026, 12, 1, 2, 0, tzinfo=UTC)
DAY = timedelta(days=1)

_readings = st.builds(
    lambda part, rest, more, outside: Reading(
        numerator=part,
        denominator=part + rest + more,
        inside=more,
        outside=outside,
        unit="messages",
        words="",
        doubts=(),
        is_open=False,
    ),
    *[st.integers(0, 60)] * 4,
)
_percents = st.integers(0, 100)


def _target(bound, percent):
    return Target.parse(f"{bound} {percent}%")


def _goal(metric="response_rate", target="at least 50%", **more):
    return {"id": "g", "metric": metric, "target": target, **more}


def _only(assess, run, make_plan, goal, *, days=20.0):
    [result] = assess(run, days=days, plan=make_plan(goals=[goal])).goals
    return result


@given(_readings)
def test_the_value_lies_between_its_bounds(reading):
    if reading.bounds is not None:
        low, high = reading.bounds
        assert 0 <= low <= high <= 1
        if reading.value is not None:
            assert low <= reading.value <= high


@given(_readings, st.data())
def test_whatever_becomes_of_the_unknown_a_verdict_stands(reading, data):
    """Let every open message end somehow: a verdict given before is the verdict given then."""
    if reading.bounds is None:
        return
    inside = data.draw(st.integers(0, reading.inside))
    joined = data.draw(st.integers(0, reading.outside))
    outside = data.draw(st.integers(0, joined))
    target = _target(data.draw(st.sampled_from(["at least", "at most"])), data.draw(_percents))
    before = decide(target, *reading.bounds)
    whole = reading.denominator + joined
    if whole and before is not Verdict.INCONCLUSIVE:
        final = Fraction(reading.numerator + inside + outside, whole)
        assert decide(target, final, final) is before


@given(_readings, _percents, _percents)
def test_a_higher_bar_never_turns_missed_into_met(reading, one, other):
    if reading.bounds is None:
        return
    order = [Verdict.MET, Verdict.INCONCLUSIVE, Verdict.MISSED]
    low, high = sorted([one, other])
    easier, harder = (order.index(decide(_target("at least", bar), *reading.bounds)) for bar in (low, high))
    assert easier <= harder
    harder, easier = (order.index(decide(_target("at most", bar), *reading.bounds)) for bar in (low, high))
    assert easier <= harder


def test_a_target_that_is_just_reached_is_met():
    fifth = Fraction(1, 5)
    assert decide(_target("at least", 20), fifth, fifth) is Verdict.MET
    assert decide(_target("at most", 20), fifth, fifth) is Verdict.MET
    assert decide(_target("at least", 20), Fraction(199_999, 1_000_000), fifth) is Verdict.INCONCLUSIVE


def test_every_metric_has_one_way_to_be_judged():
    assert RATES.keys() | SCALES.keys() | RSVPS.keys() | {Metric.REACH} == set(Metric)
    assert len(RATES) + len(SCALES) + len(RSVPS) + 1 == len(Metric)


def test_pending_and_unknown_messages_widen_a_delivery_rate(run, assess, make_plan):
    for state in ["delivered"] * 6 + ["failed"] * 2 + ["accepted", "unknown"]:
        run.person(run.email(state))
    goal = _only(assess, run, make_plan, _goal("delivered_rate", "at least 65%", step="welcome"))
    assert (goal.numerator, goal.denominator, goal.undetermined) == (6, 9, 2)
    assert (goal.value, goal.lower, goal.upper) == (0.666667, 0.6, 0.8)
    assert goal.verdict is Verdict.INCONCLUSIVE
    assert "60.0% to 80.0%" in goal.why
    assert "1 message whose outcome is unknown, 1 message without a final receipt" in goal.why
    assert not goal.provisional


def test_a_goal_is_met_when_even_the_worst_case_meets_it(run, assess, make_plan):
    for state in ["delivered"] * 6 + ["failed"] * 2 + ["accepted", "unknown"]:
        run.person(run.email(state))
    assert _only(assess, run, make_plan, _goal("delivered_rate", "at least 60%")).verdict is Verdict.MET


def test_a_goal_is_missed_when_even_the_best_case_misses_it(run, assess, make_plan):
    for state in ["delivered"] * 6 + ["failed"] * 2 + ["accepted", "unknown"]:
        run.person(run.email(state))
    goal = _only(assess, run, make_plan, _goal("bounce_rate", "at most 15%"))
    assert (goal.verdict, goal.lower, goal.upper) == (Verdict.MISSED, 0.2, 0.4)
    assert "1 more than the target allows" in goal.why


@pytest.mark.parametrize(("days", "verdict"), [(6.9, Verdict.INCONCLUSIVE), (7, Verdict.MISSED)])
def test_silence_is_no_answer_before_the_time_to_react_is_over(run, assess, make_plan, days, verdict):
    run.person(run.email(clicked_at=START + DAY))
    for _ in range(3):
        run.person(run.email())
    goal = _only(assess, run, make_plan, _goal(), days=days)
    assert (goal.value, goal.verdict, goal.provisional) == (0.25, verdict, days < 7)


def test_what_is_already_enough_is_met_while_time_remains(run, assess, make_plan):
    for _ in range(2):
        run.person(run.email(clicked_at=START + DAY))
    run.person(run.email())
    goal = _only(assess, run, make_plan, _goal(), days=3)
    assert (goal.verdict, goal.provisional) == (Verdict.MET, True)


def test_a_message_still_to_be_sent_keeps_the_run_provisional(run, assess, make_plan):
    run.person(run.email(), run.sms("queued"))
    result = assess(run, plan=make_plan(goals=[_goal("delivered_rate", "at least 40%")]))
    assert result.provisional
    assert (result.goals[0].lower, result.goals[0].upper) == (0.5, 1.0)


@pytest.mark.parametrize(
    ("asked", "verdict"),
    [
        ([], Verdict.INCONCLUSIVE),
        ([(7 * DAY - timedelta(seconds=1), True)], Verdict.INCONCLUSIVE),
        ([(7 * DAY, True)], Verdict.MISSED),
        ([(6 * DAY, True), (8 * DAY, False)], Verdict.INCONCLUSIVE),
        ([(8 * DAY, True), (9 * DAY, False)], Verdict.MISSED),
    ],
)
def test_no_conversion_is_missed_before_its_source_was_asked_after_the_window(run, assess, make_plan, asked, verdict):
    run.person(run.email(), activated=START + DAY)
    for _ in range(3):
        run.person(run.email())
    run.asked = [("activated", START + at, succeeded) for at, succeeded in asked]
    goal = _only(assess, run, make_plan, _goal("conversion.activated", "at least 40%", within="P7D"))
    assert (goal.numerator, goal.denominator, goal.verdict) == (1, 4, verdict)


def test_people_assigned_but_never_accepted_stay_in_the_denominator_of_conversion_and_reach(run, assess, make_plan):
    run.person(run.email(), activated=START + DAY)
    run.person(run.email("failed", at=None, reason="rejected"), activated=START + DAY)
    run.person(run.email("excluded", reason="no_email"), activated=START + DAY)
    run.asked = [("activated", START + 8 * DAY, True)]
    goals = [
        _goal("conversion.activated", "at least 50%", within="P7D"),
        {"id": "r", "metric": "reach", "target": "at least 50%"},
    ]
    for goal in assess(run, plan=make_plan(goals=goals)).goals:
        assert (goal.numerator, goal.denominator, goal.verdict) == (1, 2, Verdict.MET)


def test_opens_and_clicks_count_email_alone_where_no_text_has_a_counted_link_and_replies_sms_alone(
    run, assess, make_plan
):
    run.person(run.email(opened_at=START, clicked_at=START), run.sms(replied_at=START + 3 * DAY))
    run.person(run.email(), run.sms())
    run.person(run.email(), run.sms("not_needed"))
    goals = [
        {"id": metric.replace("_", "-"), "metric": metric, "target": "at least 1%"}
        for metric in ("open_rate", "click_rate", "reply_rate", "opt_out_rate")
    ]
    found = assess(run, plan=make_plan(goals=goals)).goals
    assert [(goal.numerator, goal.denominator) for goal in found] == [(1, 3), (1, 3), (1, 2), (0, 5)]


def test_nothing_sent_decides_nothing(run, assess, make_plan):
    run.person(run.email("excluded", reason="no_email"))
    goal = _only(assess, run, make_plan, _goal())
    assert (goal.value, goal.lower, goal.verdict) == (None, None, Verdict.INCONCLUSIVE)


def _survey(run, scores):
    for score in scores:
        run.person(run.email(), run.sms("not_needed"), run.email(answered_at=START + 6 * DAY), score=score)


def test_four_answers_decide_nothing_and_five_may(run, assess, make_plan):
    _survey(run, [5, 5, 5, 4])
    goal = _goal("csat", "at least 2")
    four = _only(assess, run, make_plan, goal)
    assert (four.value, four.denominator, four.verdict) == (4.75, 4, Verdict.INCONCLUSIVE)
    run.occurrence = "second"
    _survey(run, [5])
    assert _only(assess, run, make_plan, goal).verdict is Verdict.MET


def test_a_survey_whose_interval_holds_the_target_is_inconclusive(run, assess, make_plan):
    _survey(run, [5, 5, 4, 3, 3])
    goal = _only(assess, run, make_plan, _goal("csat", "at least 4.2"))
    # mean 4, s = 1, t(0.975, 4) = 2.776: 4 ± 1.242, cut at the end of the scale
    assert (goal.value, goal.lower, goal.upper) == (4.0, pytest.approx(2.758336), 5.0)
    assert goal.verdict is Verdict.INCONCLUSIVE


def test_net_promoters_are_promoters_less_detractors(run, assess, make_plan):
    step = {"step": "welcome", "channel": "email", "content": "welcome"}
    ask = {"step": "ask", "channel": "email", "content": "ask", "ask": {"scale": "nps", "question": "?"}}
    plan = make_plan(
        goals=[_goal("nps", "at least 10")], conversions={}, sequence=[step, {**step, "step": "more"}, ask]
    )
    _survey(run, [10, 9, 8, 7, 6, 0, 10, 9, 10, 9])
    [goal] = assess(run, plan=plan).goals
    assert (goal.value, goal.verdict) == (40.0, Verdict.INCONCLUSIVE)
    assert [score_worth("nps", score) for score in range(11)] == [-100] * 7 + [0] * 2 + [100] * 2


def test_chance_and_the_baseline_inform_but_change_no_verdict(run, assess, make_plan):
    for n in range(10):
        run.person(run.email(clicked_at=START if n < 6 else None))
    goal = _only(assess, run, make_plan, _goal(baseline="10%"))
    assert goal.verdict is Verdict.MET
    assert goal.chance.low < 0.5 < goal.chance.high
    assert goal.beyond_chance is True
    run.occurrence = "second"
    assert _only(assess, run, make_plan, _goal(baseline="55%")).beyond_chance is False


def test_the_readme_names_every_metric():
    text = (Path(evaluation.__file__).parent / "README.md").read_text(encoding="utf-8")
    assert {metric for metric in Metric if f"`{metric}`" not in text} == set()
