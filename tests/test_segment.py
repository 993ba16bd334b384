"""A segment's condition reaches the audience's database only as a fresh rendering of one boolean expression."""

import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commplan import segment
from commplan.errors import InputError
from commplan.plan import Audience

COLUMNS = ("customer_id", "lifetime_value", "city", "vip", "Signed Up", "signed_up_at")
ROWS = [(1, 1500, "Paris", 1, "a"), (2, 500, "北京", 0, "b"), (3, None, None, None, None), (4, 1000, "Lyon's", 1, "c")]


def audience(*segments: tuple[str, str | None]) -> Audience:
    return Audience.model_validate(
        {
            "people": "customers",
            "source": {"url": "env:CRM", "sql": "select * from customers"},
            "contact": {"id": "customer_id"},
            "segments": [{"name": name} | ({"if": rule} if rule else {}) for name, rule in segments],
        }
    )


def compiled(*segments: tuple[str, str | None], dialect: str = "sqlite") -> str:
    text = segment.compile(audience(*segments), columns=COLUMNS, dialect=dialect)
    assert text is not None
    return text


def evaluate(*segments: tuple[str, str | None]) -> dict[int, str | None]:
    connection = sqlite3.connect(":memory:")
    connection.execute('CREATE TABLE c (customer_id, lifetime_value, city, vip, "Signed Up", signed_up_at)')
    connection.executemany("INSERT INTO c VALUES (?, ?, ?, ?, ?, NULL)", ROWS)
    found = connection.execute(f"SELECT s.customer_id, {compiled(*segments)} FROM c AS s").fetchall()
    connection.close()
    return dict(found)


def refused(rule: str, dialect: str = "sqlite") -> str:
    with pytest.raises(InputError) as caught:
        compiled(("x", rule), dialect=dialect)
    (finding,) = caught.value.findings
    assert finding.place == "segment 'x'"
    assert finding.field == "audience.segments[0].if"
    return str(finding)


def test_the_first_segment_that_matches_wins() -> None:
    assert evaluate(("vip", "lifetime_value >= 1000"), ("rich", "lifetime_value > 400"), ("rest", None)) == {
        1: "vip",
        2: "rich",
        3: "rest",
        4: "vip",
    }


def test_nothing_known_is_nobody_s_segment_unless_a_rule_says_so() -> None:
    assert evaluate(("big", "lifetime_value >= 1000"), ("small", "not lifetime_value >= 1000"))[3] is None
    assert evaluate(("unknown", "lifetime_value is null"))[3] == "unknown"


def test_without_segments_there_is_nothing_to_compile() -> None:
    assert segment.compile(audience(), columns=COLUMNS, dialect="sqlite") is None


def test_a_segment_of_everybody_is_its_name() -> None:
    assert set(evaluate(("all", None)).values()) == {"all"}


@pytest.mark.parametrize(
    ("rule", "who"),
    [
        ("lifetime_value between 500 and 1000", {2, 4}),
        ("city in ('Paris', '北京')", {1, 2}),
        ("city like 'P%'", {1}),
        ("city not like 'P%'", {2, 4}),
        ("city = 'Lyon''s'", {4}),
        ("lower(trim(city)) = 'paris' or not vip = 1", {1, 2}),
        ("coalesce(lifetime_value, 0) % 1000 = 0", {3, 4}),
        ("lifetime_value / 2 > 600 and (vip = 1)", {1}),
        ("LIFETIME_VALUE >= 1000", {1, 4}),
        ("\"Signed Up\" = 'a'", {1}),
        ("cast(lifetime_value as text) = '500'", {2}),
        ("substr(city, 1, 1) = 'P'", {1}),
        ("length(city) = 2", {2}),
        ("-lifetime_value < -1000", {1}),
        ("city || '!' = 'Paris!'", {1}),
        ("vip is true", {1, 4}),
        ("city is not null and true", {1, 2, 4}),
        ("city = 'x:y' or city = ';--'", set()),
    ],
)
def test_conditions_mean_what_sql_means_by_them(rule: str, who: set[int]) -> None:
    assert {contact for contact, name in evaluate(("x", rule)).items() if name} == who


def test_a_comment_does_not_reach_the_database_and_cannot_hide_what_follows() -> None:
    text = compiled(("rich", "lifetime_value >= 1000 -- y"), ("rest", None))
    assert text == """CASE WHEN (s."lifetime_value" >= 1000) THEN 'rich' ELSE 'rest' END"""
    assert evaluate(("rich", "lifetime_value >= 1000 /* ) THEN 'x' */ -- y"), ("rest", None))[2] == "rest"


def test_columns_are_always_of_the_query_and_never_text() -> None:
    assert 's."Signed Up"' in compiled(("x", '"signed up" is null'))


@pytest.mark.parametrize("dialect", ["sqlite", "postgres"])
@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("exists (select 1)", "contains a subquery"),
        ("city in (select city from customers)", "contains a subquery"),
        ("lifetime_value > (select 1)", "contains a subquery"),
        ("lifetime_value > 1; drop table customers", "not one boolean SQL expression"),
        ("lifetime_value >", "not one boolean SQL expression"),
        ("lifetime_value > 1) or (1 = 1", "not one boolean SQL expression"),
        ("", "not one boolean SQL expression"),
        ("/* nothing */", "not one boolean SQL expression"),
        ("city = :since", "contains a parameter"),
        ("city = ?", "contains a parameter"),
        ("load_extension('x') = 1", "the function load_extension is not on the list; use one of abs, cast, coalesce"),
        ("pg_read_file('/etc/passwd') = 'x'", "the function pg_read_file is not on the list"),
        ("current_date > signed_up_at", "the function current_date is not on the list"),
        ("count(*) > 1", "the function count is not on the list"),
        ("sum(lifetime_value) over () > 1", "is not"),
        ("case when vip = 1 then true end", "is not"),
        ("signed_up_at > interval '1' day", "is not"),
        ("lifetime_value", "is not a condition but a value"),
        ("vip and lifetime_value > 1", "is not a condition but a value; compare it with something"),
        ("not vip", "is not a condition but a value"),
        ("coalesce(vip, 0)", "is not a condition but a value"),
        ("1 < lifetime_value < 5", "compares the result of a comparison"),
        ("customers.city = 'x'", "'city' has a table in front; write the column alone"),
        ("(city, vip) = ('a', 1)", "tuple is not allowed"),
        ("city collate nocase = 'x'", "the function collate is not on the list"),
        ("lifetime_valu > 1", "no column 'lifetime_valu'; did you mean lifetime_value?"),
        ("wholly_other > 1", "no column 'wholly_other'; the query returns customer_id, lifetime_value"),
        ('city = "Paris"', "no column 'Paris'; text is written in single quotes: 'Paris'"),
        ("lifetime_value > 1 " + "or vip = 1 " * 300, "longer than 2000 characters"),
    ],
)
def test_what_is_not_one_condition_over_the_columns_is_refused(rule: str, message: str, dialect: str) -> None:
    if not rule:
        with pytest.raises(InputError, match=message):
            segment.compile(
                audience().model_copy(update={"segments": (segment_of("x", rule),)}), columns=COLUMNS, dialect=dialect
            )
    else:
        assert message in refused(rule, dialect)


def segment_of(name: str, rule: str) -> object:
    return audience((name, "vip = 1")).segments[0].model_copy(update={"condition": rule})


def test_nesting_that_would_exhaust_the_parser_is_refused() -> None:
    assert "it is n" in refused("(" * 900 + "vip = 1" + ")" * 900)


def test_every_bad_segment_is_named_not_only_the_first() -> None:
    with pytest.raises(InputError) as caught:
        compiled(("a", "nope = 1"), ("b", "vip = 1"), ("c", "city"), ("d", None), ("e", "vip = 0"))
    assert [(f.place, f.field) for f in caught.value.findings] == [
        ("segment 'a'", "audience.segments[0].if"),
        ("segment 'c'", "audience.segments[2].if"),
        ("segment 'e'", "audience.segments[4].if"),
    ]
    assert "'d' before it has no `if` and takes everybody" in str(caught.value)


def test_names_that_differ_only_in_case_are_told_apart_or_refused() -> None:
    rule = audience(("x", "Name = 'a'"))
    assert 's."Name"' in (segment.compile(rule, columns=("Name", "name"), dialect="sqlite") or "")
    with pytest.raises(InputError, match="no column 'NAME'"):
        segment.compile(audience(("x", "NAME = 'a'")), columns=("Name", "name"), dialect="sqlite")


@given(st.text(alphabet="lifetme_vau><=1 '\"();-/*?:,.\nandor", max_size=40))
def test_whatever_is_written_the_outcome_is_a_rendering_or_findings(rule: str) -> None:
    made = audience(("x", "vip = 1"))
    one = made.segments[0].model_copy(update={"condition": rule})
    try:
        text = segment.compile(made.model_copy(update={"segments": (one,)}), columns=COLUMNS, dialect="sqlite")
    except InputError:
        return
    connection = sqlite3.connect(":memory:")
    connection.execute('CREATE TABLE c (customer_id, lifetime_value, city, vip, "Signed Up", signed_up_at)')
    assert connection.execute(f"SELECT {text} AS x FROM c AS s WHERE 1 = 0").fetchall() == []
    connection.close()
