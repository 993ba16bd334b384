"""The language of `when`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commplan.condition import (
    CONVERSION_CLAIMS,
    GRADES,
    MAX_CLAIMS,
    MAX_DEPTH,
    STEP_CLAIMS,
    And,
    Claim,
    Condition,
    Not,
    Or,
    claims,
    parse,
)

names = st.from_regex(r"[a-z][a-z0-9-]{0,10}", fullmatch=True)
single_claims = st.builds(Claim, st.sampled_from([*STEP_CLAIMS, *CONVERSION_CLAIMS]), names) | st.builds(
    Claim, st.just("responded"), names, st.sampled_from(GRADES)
)


def _joined(parts: st.SearchStrategy[Condition]) -> st.SearchStrategy[Condition]:
    several = st.lists(parts, min_size=2, max_size=3).map(tuple)
    return st.builds(Not, parts) | st.builds(And, several) | st.builds(Or, several)


conditions: st.SearchStrategy[Condition] = st.recursive(single_claims, _joined, max_leaves=12)


def _depth(condition: Condition) -> int:
    match condition:
        case Claim():
            return 1
        case Not(part):
            return 2 + _depth(part)
        case And(parts) | Or(parts):
            return 2 + max(_depth(part) for part in parts)


@given(conditions.filter(lambda condition: _depth(condition) < MAX_DEPTH))
def test_a_condition_reads_what_it_writes(condition: Condition) -> None:
    assert parse(str(condition)) == condition


@given(st.text(alphabet="respondedanotr()-_ \n,;é.welcome", max_size=60))
def test_any_text_is_a_condition_or_refused_with_a_remedy(text: str) -> None:
    refusal = None
    try:
        assert list(claims(parse(text)))
    except ValueError as error:
        refusal = str(error)
    assert refusal is None or "; " in refusal


def test_not_binds_closer_than_and_and_closer_than_or() -> None:
    a, b, c = Claim("opened", "a"), Claim("clicked", "b"), Claim("converted", "c")
    assert parse("not opened(a) and clicked(b) or converted(c)") == Or((And((Not(a), b)), c))
    assert parse("not (opened(a) and (clicked(b) or converted(c)))") == Not(And((a, Or((b, c)))))


def test_a_response_may_ask_for_a_grade() -> None:
    assert parse("not responded(welcome, open)") == Not(Claim("responded", "welcome", "open"))
    assert parse("responded(welcome)") == Claim("responded", "welcome", None)


def test_claims_come_left_to_right() -> None:
    condition = parse("opened(a) or not (clicked(b) and converted(c))")
    assert [str(claim) for claim in claims(condition)] == ["opened(a)", "clicked(b)", "converted(c)"]


def test_words_of_the_language_may_name_a_step() -> None:
    assert parse("delivered(and) and not delivered(not)") == And(
        (Claim("delivered", "and"), Not(Claim("delivered", "not")))
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it ends where a claim should follow; write it like `not responded(welcome)`"),
        ("opened", "it ends where ( should follow; write it like `not responded(welcome)`"),
        ("opened(", "it ends where a name should follow; write it like `not responded(welcome)`"),
        ("opened(a", "it ends where ) should follow; write it like `not responded(welcome)`"),
        ("opened()", '")" is not a name; write it like `not responded(welcome)`'),
        ("opened(a b)", ') is missing before "b"; write it like `not responded(welcome)`'),
        ("responded(a,", "it ends where a grade should follow; write it like `not responded(welcome)`"),
        ("responded(a, opens)", '"opens" is no grade of a response; did you mean open?'),
        ("responded(a, )", '")" is no grade of a response; known are open, click, answer'),
        ("clicked(a, open)", "clicked takes one name; only responded takes a grade, like `responded(welcome, open)`"),
        ("responded(a, open, click)", ') is missing before ","; write it like `not responded(welcome)`'),
        ("opened(a) clicked(a)", '"clicked" is not expected here; join claims with and, or, not'),
        ("opened(a) or", "it ends where a claim should follow; write it like `not responded(welcome)`"),
        ("oppened(a)", '"oppened" is not a claim; did you mean opened?'),
        ("NOT opened(a)", '"NOT" is not a claim; did you mean not?'),
        (
            "x = 1",
            '"x" is not a claim; known are responded, opened, clicked, replied, answered, delivered, undelivered, '
            "converted",
        ),
        ("opened(a); drop table x", '";" is not expected here; join claims with and, or, not'),
        ("not " * 21 + "opened(a)", "it is nested more than 20 levels deep; make it simpler"),
        ("(" * 50_000, "it is nested more than 20 levels deep; make it simpler"),
        (" and ".join(["opened(a)"] * (MAX_CLAIMS + 1)), "it makes more than 50 claims; make it simpler"),
    ],
)
def test_what_is_not_a_condition_is_refused_with_a_remedy(text: str, message: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011  the message is compared as a whole
        parse(text)
    assert str(refused.value) == message
