"""What a claim of `when` is worth: true, false, or not known."""

from __future__ import annotations

from datetime import timedelta
from itertools import product

import pytest
from sqlalchemy import select

from commplan import condition
from commplan.ledger import evidence
from commplan.store.tables import messages
from tests.conftest import NOON

HOUR = timedelta(hours=1)
FACTS = {"opened": "opened_at", "clicked": "clicked_at", "replied": "replied_at", "answered": "answered_at"}
DELIVERED = {"state": "delivered", "accepted_at": NOON}
#: The earlier message as it may be; None: there is no row.
EARLIER = {
    "delivered with the fact": DELIVERED,
    "delivered without": DELIVERED,
    "accepted with the fact": {"state": "accepted", "accepted_at": NOON},
    "accepted without": {"state": "accepted", "accepted_at": NOON},
    "unknown": {"state": "unknown"},
    "bounced": {"state": "failed", "reason": "bounced", "accepted_at": NOON, "failed_at": NOON},
    "refused": {"state": "failed", "reason": "rejected", "failed_at": NOON},
    "excluded": {"state": "excluded", "reason": "no_email"},
    "not needed": {"state": "not_needed", "reason": "condition_false"},
    "suppressed": {"state": "suppressed", "reason": "stop"},
    "queued": {"state": "queued", "due_at": NOON},
    "no row": None,
}


def judge(books, text: str) -> list[bool | None]:
    """Return what a condition says of each person's second message."""
    parsed = condition.parse(text)
    query = (
        select(messages.c.seq, evidence.holds(parsed, books.plan, messages).label("holds"))
        .where(messages.c.run_id == books.run_id, messages.c.step_no == 2)
        .order_by(messages.c.seq)
    )
    with books.store.read() as connection:
        return [row.holds for row in connection.execute(query)]


WAITING = {"state": "claimed"}


def write_all(books, **facts: object) -> list[str]:
    """Write one person for each state of the earlier message; those `with the fact` have it."""
    for name, given in EARLIER.items():
        has_it = name.endswith("with the fact")
        books.person(None if given is None else given | (facts if has_it else {}), WAITING)
    return list(EARLIER)


@pytest.mark.parametrize("verb", list(FACTS))
def test_a_fact_is_known_of_those_who_were_reached_and_of_nobody_else(books, verb):
    here = books()
    names = write_all(here, **{FACTS[verb]: NOON + HOUR})
    expected = {"delivered with the fact": True, "delivered without": False}
    assert dict(zip(names, judge(here, f"{verb}(first)"), strict=True)) == {n: expected.get(n) for n in names}
    opposite = {"delivered with the fact": False, "delivered without": True}
    assert dict(zip(names, judge(here, f"not {verb}(first)"), strict=True)) == {n: opposite.get(n) for n in names}


@pytest.mark.parametrize("fact", ["clicked_at", "replied_at", "answered_at"])
def test_clicking_replying_and_answering_are_responses_and_opening_is_none(books, fact):
    here = books()
    names = write_all(here, **{fact: NOON + HOUR})
    expected = {"delivered with the fact": True, "delivered without": False}
    assert dict(zip(names, judge(here, "responded(first)"), strict=True)) == {n: expected.get(n) for n in names}
    here.person(DELIVERED | {"opened_at": NOON, "machine_opened_at": NOON}, WAITING)
    assert judge(here, "responded(first)")[-1] is False


@pytest.mark.parametrize(
    ("done", "grades"),
    [
        ({}, set()),
        ({"opened_at": NOON}, {"open"}),
        ({"clicked_at": NOON}, {"open", "click"}),
        ({"replied_at": NOON}, {"open", "click", "answer"}),
        ({"answered_at": NOON}, {"open", "click", "answer"}),
        ({"machine_opened_at": NOON, "machine_clicked_at": NOON}, set()),
    ],
)
def test_a_response_counts_for_its_own_grade_and_for_those_below_and_a_machines_for_none(books, done, grades):
    here = books()
    here.person(DELIVERED | done, WAITING)
    here.person({"state": "accepted", "accepted_at": NOON} | done, WAITING)
    for grade in ("open", "click", "answer"):
        assert judge(here, f"responded(first, {grade})") == [grade in grades, None]
        assert judge(here, f"not responded(first, {grade})") == [grade not in grades, None]
    assert judge(here, "responded(first)") == judge(here, "responded(first, click)")


def test_a_conversion_is_a_response_of_every_grade(books):
    here = books()
    here.person(DELIVERED, WAITING, converted={"bought": HOUR})
    assert judge(here, "responded(first, answer)") == judge(here, "responded(first, open)") == [True]


def test_a_conversion_after_the_message_was_accepted_is_a_response_and_an_earlier_one_is_not(books):
    here = books()
    here.person(DELIVERED, WAITING, converted={"bought": HOUR})
    here.person(DELIVERED, WAITING, converted={"bought": -HOUR})
    here.person(DELIVERED, WAITING, converted={"bought": -HOUR, "activated": HOUR})
    here.person({"state": "accepted", "accepted_at": NOON}, WAITING, converted={"bought": HOUR})
    here.person(DELIVERED, WAITING)
    assert judge(here, "responded(first)") == [True, False, True, None, False]


def test_a_conversion_is_known_of_everybody_by_name_and_at_any_time(books):
    here = books()
    here.person(DELIVERED, WAITING, converted={"bought": HOUR})
    here.person(DELIVERED, WAITING, converted={"activated": -HOUR})
    here.person(None, WAITING, converted={"bought": -HOUR})
    here.person({"state": "excluded", "reason": "no_email"}, WAITING)
    assert judge(here, "converted(bought)") == [True, False, True, False]
    assert judge(here, "not converted(bought)") == [False, True, False, True]
    assert judge(here, "converted(activated)") == [False, True, False, False]


def test_delivery_is_true_or_not_known_and_failure_true_false_or_not_known(books):
    here = books()
    names = write_all(here)
    delivered = dict(zip(names, judge(here, "delivered(first)"), strict=True))
    reached = {"delivered with the fact", "delivered without"}
    assert delivered == {name: True if name in reached else None for name in names}
    undelivered = dict(zip(names, judge(here, "undelivered(first)"), strict=True))
    failed = {"bounced", "refused"}
    assert undelivered == {n: True if n in failed else False if n in reached else None for n in names}


def test_a_claim_is_about_the_same_person_the_same_run_and_the_step_it_names(books):
    here = books()
    here.person(DELIVERED, WAITING)
    here.person(DELIVERED | {"clicked_at": NOON}, WAITING)
    here.person(DELIVERED, WAITING, DELIVERED | {"clicked_at": NOON})
    assert judge(here, "clicked(first)") == [False, True, False]
    assert judge(here, "clicked(third)") == [None, None, True]


#: A message of which `clicked` is true, false and not known.
VALUES = {True: DELIVERED | {"clicked_at": NOON}, False: DELIVERED, None: {"state": "unknown"}}


def both(a: bool | None, b: bool | None) -> bool | None:
    return False if a is False or b is False else None if a is None or b is None else True


def either(a: bool | None, b: bool | None) -> bool | None:
    return True if a is True or b is True else None if a is None or b is None else False


def test_and_or_and_not_follow_the_logic_of_three_values(books):
    here = books()
    pairs = list(product(VALUES, repeat=2))
    for a, b in pairs:
        here.person(VALUES[a], WAITING, VALUES[b])
    assert judge(here, "clicked(first) and clicked(third)") == [both(a, b) for a, b in pairs]
    assert judge(here, "clicked(first) or clicked(third)") == [either(a, b) for a, b in pairs]
    assert judge(here, "not clicked(first)") == [None if a is None else not a for a, _ in pairs]
    # De Morgan, and a bracket that matters.
    assert judge(here, "not (clicked(first) and clicked(third))") == judge(
        here, "not clicked(first) or not clicked(third)"
    )
    assert judge(here, "clicked(first) and (clicked(third) or not clicked(third))") == [
        both(a, either(b, None if b is None else not b)) for a, b in pairs
    ]
