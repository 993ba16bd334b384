"""What a report says, in order, before it is written as markdown or HTML.

Decides content only, so that both forms tell the same; no form is known here, and no person.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

from commplan.evaluation import Evaluation, GoalResult, StepResult
from commplan.evaluation.wording import REASONS, STATES, figure, moment, segment_name
from commplan.metrics import Tally
from commplan.report.section import Mark, Section, Table, Value
from commplan.terms import Channel, Verdict


def channel_name(channel: Channel) -> str:
    """Return a channel as it is written for people."""
    return "SMS" if channel is Channel.SMS else "email"


def headline(evaluation: Evaluation) -> str:
    """Return in one sentence how the goals stand."""
    counts = [(v, sum(goal.verdict is v for goal in evaluation.goals)) for v in Verdict]
    said = ", ".join(f"{count} {verdict}" for verdict, count in counts if count)
    total = len(evaluation.goals)
    return f"{total} {'goal' if total == 1 else 'goals'}: {said}."


def facts(evaluation: Evaluation) -> tuple[tuple[str, str], ...]:
    """Return what identifies the run, as names and values."""
    zone = ZoneInfo(evaluation.zone)

    def at(when: datetime | None) -> str:
        return "–" if when is None else moment(when, zone)

    return (
        ("Run", evaluation.run_key),
        ("Purpose", f"{evaluation.purpose}, topic {evaluation.topic}"),
        ("Audience", f"{evaluation.audience:,} people, looked up {at(evaluation.snapshot_at)}"),
        ("Accepted", f"first {at(evaluation.first_accepted_at)}, last {at(evaluation.last_accepted_at)}"),
        ("Evaluated", f"{at(evaluation.evaluated_at)}; all times {evaluation.zone}"),
    )


def sections(evaluation: Evaluation) -> list[Section]:
    """Return the parts of the report in the order a reader wants them: verdicts first."""
    return [
        _verdicts(evaluation),
        Section(title="How far people came", chart="funnel"),
        Section(title="Lessons", items=evaluation.lessons or ("The numbers support none beyond the verdicts.",)),
        _steps(evaluation),
        *_links(evaluation),
        *_segments(evaluation),
        _reasons(evaluation),
        _cost(evaluation),
        *_feedback(evaluation),
        *_invitations(evaluation),
        _unsettled(evaluation),
        _balance(evaluation),
        _certainty(evaluation),
        Section(title="How this was computed", items=(*evaluation.notes, *_METHOD), folded=True),
    ]


def _verdicts(evaluation: Evaluation) -> Section:
    def row(goal: GoalResult) -> tuple[Value, ...]:
        named = f"{goal.id}: {goal.purpose}" if goal.purpose else goal.id
        before = figure(goal.baseline, is_share=goal.is_share)
        return (
            named,
            Mark(goal.verdict, goal.provisional),
            figure(goal.value, is_share=goal.is_share),
            goal.target,
            before,
            goal.why,
        )

    return Section(
        title="Goals",
        lead=headline(evaluation) + (" Provisional: figures may still change." if evaluation.provisional else ""),
        table=Table(
            head=("Goal", "Verdict", "Result", "Target", "Before", "Why"),
            rows=tuple(row(goal) for goal in evaluation.goals),
            numeric=frozenset({2, 4}),
        ),
    )


def share(part: int, whole: int) -> str:
    """Return a count and what share of `whole` it is."""
    return f"{part:,} ({part / whole:.1%})" if part and whole else f"{part:,}"


def _with_machines(people: str, machines: int) -> str:
    """Return what people did, and of how many messages machines did the same."""
    return f"{people} + {machines:,}" if machines else people


def _steps(evaluation: Evaluation) -> Section:
    asking = {survey.step for survey in evaluation.surveys}
    linked = {link.step for link in evaluation.links}

    def row(step: StepResult) -> tuple[Value, ...]:
        c = step.counts
        by_email, by_sms = (channel in step.channels for channel in (Channel.EMAIL, Channel.SMS))
        return (
            step.step,
            " and ".join(channel_name(channel) for channel in step.channels),
            f"{c.messages - c.excluded - c.not_needed:,}",
            f"{c.accepted:,}",
            share(c.delivered, c.accepted),
            *(
                _with_machines(share(part, c.delivered), machines) if known else "–"
                for part, machines, known in (
                    (c.opened, c.machine_opened, by_email),
                    (c.clicked, c.machine_clicked, by_email or step.step in linked),
                    (c.replied, 0, by_sms or c.replied > 0),
                    (c.answered, 0, step.step in asking),
                    (c.opted_out, 0, True),
                    (c.complained, 0, by_email),
                )
            ),
        )

    return Section(
        title="Steps",
        lead="Messages. Delivered is a share of accepted; everything to its right is a share of delivered. "
        "After a plus: what machines opened and clicked (mail scanners, previews, prefetching mail programs); it is in "
        "no share and no goal. A dash: the channel does not tell, or the text has no link that is counted.",
        table=Table(
            head=(
                "Step",
                "Channel",
                "To be sent",
                "Accepted",
                "Delivered",
                "Opened",
                "Clicked",
                "Replied",
                "Answered",
                "Opted out",
                "Spam",
            ),
            rows=tuple(row(step) for step in evaluation.steps),
            numeric=frozenset(range(2, 11)),
        ),
    )


def _links(evaluation: Evaluation) -> list[Section]:
    if not evaluation.links:
        return []
    delivered = {step.step: step.counts.delivered for step in evaluation.steps}
    return [
        Section(
            title="Links in texts",
            lead="Delivered texts in which a person followed the link, and those in which a machine did (previews of "
            "messengers, scanners). A link is called what its template calls it.",
            table=Table(
                head=("Step", "Link", "Clicked by people", "Clicked by machines"),
                rows=tuple(
                    (link.step, link.link, share(link.clicked, delivered[link.step]), f"{link.machine_clicked:,}")
                    for link in evaluation.links
                ),
                numeric=frozenset({2, 3}),
            ),
        )
    ]


def _segments(evaluation: Evaluation) -> list[Section]:
    if not evaluation.segments:
        return []
    names = [stage.name for stage in evaluation.segments[0].stages]
    return [
        Section(
            title="Segments",
            lead="People, each counted once over all steps.",
            chart="segments" if any(goal.numerator is not None for goal in evaluation.goals) else None,
            table=Table(
                head=("Segment", *(name.capitalize() for name in names)),
                rows=tuple(
                    (segment_name(segment.segment), *(f"{stage.count:,}" for stage in segment.stages))
                    for segment in evaluation.segments
                ),
                numeric=frozenset(range(1, len(names) + 1)),
            ),
        )
    ]


def _reasons(evaluation: Evaluation) -> Section:
    rows = tuple(
        (step.step, STATES[row.state], REASONS[row.reason], share(row.messages, evaluation.audience))
        for step in evaluation.steps
        for row in step.reasons
    )
    if not rows:
        return Section(title="Who was not reached, and why", lead="Nobody was left out.")
    return Section(
        title="Who was not reached, and why",
        lead="Share of the whole audience.",
        table=Table(head=("Step", "State", "Reason", "Messages"), rows=rows, numeric=frozenset({3})),
        folded=len(rows) > 12,
    )


def money(amount: Decimal) -> str:
    """Return an amount to the cent; less than one is shown exactly."""
    return f"{amount:,.2f}" if amount == 0 or amount >= Decimal("0.01") else f"{amount.normalize():f}"


def _cost(evaluation: Evaluation) -> Section:
    cost = evaluation.cost
    rows = tuple(
        (
            line.step,
            channel_name(line.channel)
            + (f" {line.country or '(country unknown)'}" if line.channel is Channel.SMS else ""),
            f"{line.quantity:,} {'parts' if line.channel is Channel.SMS else 'messages'}",
            f"{line.price.normalize():f}" + (" (default)" if line.by_default else ""),
            money(line.amount),
        )
        for line in cost.lines
    )
    lead = f"{money(cost.total)} {cost.currency} in all, at the prices of {cost.as_of.isoformat()}."
    return Section(
        title="Cost",
        lead=lead if rows else "Nothing was accepted, so nothing is to be paid.",
        table=Table(
            head=("Step", "Channel", "Quantity", f"Price ({cost.currency})", f"Amount ({cost.currency})"),
            rows=rows,
            numeric=frozenset({2, 3, 4}),
        )
        if rows
        else None,
        folded=len(rows) > 12,
    )


def _feedback(evaluation: Evaluation) -> list[Section]:
    if not evaluation.surveys and not evaluation.replies:
        return []
    rows = tuple(
        (
            survey.step,
            survey.scale.upper(),
            figure(survey.figure, is_share=False),
            f"{survey.answers:,}",
            ", ".join(f"{score}: {count:,}" for score, count in survey.scores.items()) or "–",
            f"{survey.comments:,}",
        )
        for survey in evaluation.surveys
    )
    return [
        Section(
            title="Feedback",
            lead=f"Replies in words: {evaluation.replies:,}.",
            table=Table(
                head=("Survey", "Scale", "Figure", "Answers", "By score", "Comments"),
                rows=rows,
                numeric=frozenset({2, 3, 5}),
            )
            if rows
            else None,
        )
    ]


def _invitations(evaluation: Evaluation) -> list[Section]:
    if not evaluation.invitations:
        return []
    rows = tuple(
        (
            found.event,
            "–" if found.places is None else f"{found.places:,}",
            *(f"{count:,}" for count in (found.invited, found.yes, found.no, found.maybe, found.waiting)),
        )
        for found in evaluation.invitations
    )
    head = ("Event", "Places", "Invited", "Yes", "No", "Maybe", "Waiting")
    table = Table(head=head, rows=rows, numeric=frozenset(range(1, len(head))))
    return [Section(title="Invitations", lead="People with a delivered invitation, by their last answer.", table=table)]


def _unsettled(evaluation: Evaluation) -> Section:
    def row(name: str, counts: Tally) -> tuple[Value, ...]:
        return name, f"{counts.unknown:,}", f"{counts.pending:,}", f"{counts.open:,}"

    rows = [(step.step, step.counts) for step in evaluation.steps]
    unsettled = [(name, counts) for name, counts in rows if counts.unknown or counts.pending or counts.open]
    if not unsettled:
        return Section(title="What is not known", lead="Every message has a final outcome.")
    return Section(
        title="What is not known",
        lead="Messages. Each is counted for and against a goal before a verdict is given.",
        table=Table(
            head=("Step", "Outcome unknown", "No final receipt", "Still to be sent"),
            rows=tuple(row(name, counts) for name, counts in unsettled),
            numeric=frozenset({1, 2, 3}),
        ),
    )


def _balance(evaluation: Evaluation) -> Section:
    states = [state for state in STATES if any(state in step.states for step in evaluation.steps)]
    return Section(
        title="The books",
        lead="In each step everybody of the audience is in exactly one state; the difference must be 0.",
        table=Table(
            head=("Step", "Audience", *(STATES[state].capitalize() for state in states), "Difference"),
            rows=tuple(
                (
                    step.step,
                    f"{evaluation.audience:,}",
                    *(f"{step.states.get(state, 0):,}" for state in states),
                    f"{step.difference:,}",
                )
                for step in evaluation.steps
            ),
            numeric=frozenset(range(1, len(states) + 3)),
        ),
        folded=evaluation.balanced,
    )


def _certainty(evaluation: Evaluation) -> Section:
    def row(goal: GoalResult) -> tuple[Value, ...]:
        shown = [figure(value, is_share=goal.is_share) for value in (goal.lower, goal.upper)]
        chance = goal.chance
        against = {None: "–", True: "beyond chance", False: "within chance"}[goal.beyond_chance]
        return (
            goal.id,
            f"{goal.denominator:,} {goal.unit}"
            if goal.numerator is None
            else f"{goal.numerator:,} of {goal.denominator:,}",
            f"{goal.undetermined:,}",
            " to ".join(shown) if goal.lower is not None else "–",
            "–"
            if chance is None
            else f"{figure(chance.low, is_share=goal.is_share)} to {figure(chance.high, is_share=goal.is_share)}",
            against,
        )

    return Section(
        title="How sure the figures are",
        lead="The verdict needs both ends of “can still become” on one side of the target. “Chance alone” is how far a "
        "figure would move if an audience of this size were drawn again; it changes no verdict on a rate.",
        table=Table(
            head=("Goal", "Counted", "Not known", "Can still become", "Chance alone (95 %)", "Against the baseline"),
            rows=tuple(row(goal) for goal in evaluation.goals),
            numeric=frozenset({1, 2, 3, 4}),
        ),
        folded=True,
    )


_METHOD = (
    "Assigned are people with at least one message that was not excluded when the run was planned; reach and "
    "conversion are shares of them.",
    "Delivery and bounces are shares of accepted messages; opens, clicks, responses, replies, answers, opt-outs and "
    "complaints are shares of delivered ones. A response is a click, a reply or an answer. Opens and spam reports are "
    "known of email only, and reply_rate is of SMS only, so their goals count that channel alone; clicks are known of "
    "email, and of texts whose links are counted.",
    "Opens and clicks are people's. What a machine did is counted apart: the provider, the program's own name or its "
    "request says so, several links were clicked in the same second, or one within five seconds of the delivery.",
    "A conversion counts once per person, if it came after their first accepted message and within the goal's time, "
    "for the latest run of the plan that had written to them.",
    "A goal on a rate is met if even the worst that is not known yet leaves it met, missed if even the best leaves it "
    "missed, and inconclusive otherwise.",
    "Survey figures come from those who answered, so they carry a 95 % interval (Student's t); a target inside it, or "
    "fewer than five answers, is inconclusive. They say nothing of those who did not answer.",
    "Intervals of rates are Wilson's; the comparison with a baseline is the exact binomial test, that between segments "
    "Fisher's exact test, corrected after Holm for the number of comparisons.",
    "Cost is what was accepted, emails by the message and SMS by the part and country.",
)
