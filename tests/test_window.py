"""Windows on the recipient's clock: summer time, midnight, odd zones, several zones."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from commplan.window import SMS_HOURS, Window, next_open

_ZONES = sorted(zone for zone in available_timezones() if "/" in zone and not zone.startswith(("posix/", "right/")))
zones = st.sampled_from(_ZONES).map(ZoneInfo)
minutes = st.builds(time, st.integers(0, 23), st.integers(0, 59))
windows = st.tuples(minutes, minutes).filter(lambda pair: pair[0] != pair[1]).map(lambda pair: Window(*pair))
moments = st.datetimes(datetime(1995, 1, 1), datetime(2037, 12, 31)).map(lambda moment: moment.replace(tzinfo=UTC))

#: A share of some time, in thousandths.
parts = st.integers(0, 999)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def is_inside(window: Window, moment: datetime, zone: ZoneInfo) -> bool:
    return window.contains(moment.astimezone(zone).time())


NEW_YORK = ZoneInfo("America/New_York")


@given(window=windows, zone=zones, moment=moments, inside=parts)
@settings(deadline=None, max_examples=400)
# 2026: New York skips 02:00-03:00 on 8 March and repeats 01:00-02:00 on 1 November.
@example(Window(time(2, 30), time(20)), NEW_YORK, utc("2026-03-08T06:00"), 0)
@example(Window(time(1, 30), time(20)), NEW_YORK, utc("2026-11-01T05:00"), 500)
@example(Window(time(20), time(1, 30)), NEW_YORK, utc("2026-11-01T05:00"), 500)
@example(Window(time(20), time(2, 30)), NEW_YORK, utc("2026-03-08T06:59"), 500)
@example(Window(time(0), time(6)), ZoneInfo("America/Havana"), utc("2026-03-08T04:00"), 0)
@example(Window(time(23, 30), time(0, 0)), ZoneInfo("America/Santiago"), utc("2026-04-05T01:00"), 0)
@example(Window(time(9), time(20)), ZoneInfo("Pacific/Apia"), utc("2011-12-30T06:30"), 0)
@example(Window(time(22), time(6)), ZoneInfo("Pacific/Apia"), utc("2011-12-30T09:30"), 900)
@example(Window(time(1, 45), time(2, 15)), ZoneInfo("Australia/Lord_Howe"), utc("2026-10-03T15:00"), 500)
def test_what_opens_is_open_on_the_recipients_clock_from_the_first_to_the_last_moment(
    window: Window, zone: ZoneInfo, moment: datetime, inside: int
) -> None:
    opens, closes = next_open(window, moment, [zone])
    assert closes is not None
    assert moment <= opens < closes
    assert is_inside(window, opens, zone)
    assert is_inside(window, opens + (closes - opens) * inside // 1000, zone)
    assert not is_inside(window, closes, zone) or window.span(closes, zone)[0] == closes


@given(window=windows, zone=zones, moment=moments, before=parts)
@settings(deadline=None, max_examples=400)
def test_nobody_waits_while_their_clock_shows_an_hour_inside(
    window: Window, zone: ZoneInfo, moment: datetime, before: int
) -> None:
    opens, _ = next_open(window, moment, [zone])
    if is_inside(window, moment, zone):
        assert opens == moment
    else:
        assert opens > moment
        assert not is_inside(window, moment + (opens - moment) * before // 1000, zone)


@given(zone=zones, moment=moments)
@settings(deadline=None, max_examples=200)
def test_an_sms_never_waits_longer_than_two_days_for_the_usual_hours(zone: ZoneInfo, moment: datetime) -> None:
    opens, _ = next_open(SMS_HOURS, moment, [zone])
    assert opens - moment <= timedelta(days=2)


@given(window=windows, chosen=st.lists(zones, min_size=2, max_size=6), moment=moments, inside=parts)
@settings(deadline=None, max_examples=300)
def test_in_several_zones_it_is_open_in_all_of_them_or_else_in_the_first(
    window: Window, chosen: list[ZoneInfo], moment: datetime, inside: int
) -> None:
    opens, closes = next_open(window, moment, chosen)
    assert closes is not None
    assert moment <= opens < closes
    during = opens + (closes - opens) * inside // 1000
    assert is_inside(window, during, chosen[0])
    if not all(is_inside(window, during, zone) for zone in chosen):
        for step in range(0, 2 * 24 * 60, 7):  # then their hours have nothing in common
            at = moment + timedelta(minutes=step)
            assert not all(is_inside(window, at, zone) for zone in chosen)


@pytest.mark.parametrize(
    ("window", "moment", "opens", "closes"),
    [
        ("02:30-20:00", "2026-03-08T05:00", "2026-03-08T07:00", "2026-03-09T00:00"),  # 02:30 is skipped
        ("20:00-02:30", "2026-03-08T05:00", "2026-03-08T05:00", "2026-03-08T07:00"),  # so is the end
        ("01:30-20:00", "2026-11-01T05:00", "2026-11-01T05:30", "2026-11-01T06:00"),  # 01:30 comes twice:
        ("01:30-20:00", "2026-11-01T06:00", "2026-11-01T06:30", "2026-11-02T01:00"),  # closed from 01:00 to 01:30
        ("20:00-01:30", "2026-11-01T05:40", "2026-11-01T06:00", "2026-11-01T06:30"),  # the end comes twice
        ("02:10-02:50", "2026-03-08T05:00", "2026-03-09T06:10", "2026-03-09T06:50"),  # skipped as a whole
        ("09:00-20:00", "2026-03-07T20:00", "2026-03-07T20:00", "2026-03-08T01:00"),  # the night before
        ("09:00-20:00", "2026-03-08T01:00", "2026-03-08T13:00", "2026-03-09T00:00"),  # closed at its end
    ],
)
def test_a_change_of_the_clocks_in_new_york(window: str, moment: str, opens: str, closes: str) -> None:
    assert next_open(Window.parse(window), utc(moment), [NEW_YORK]) == (utc(opens), utc(closes))


def test_a_window_over_midnight_is_one_opening() -> None:
    shanghai = ZoneInfo("Asia/Shanghai")
    night = Window.parse("20:00-02:00")
    assert night.span(utc("2026-12-01T17:00"), shanghai) == (utc("2026-12-01T12:00"), utc("2026-12-01T18:00"))
    assert night.span(utc("2026-12-01T18:00"), shanghai) == (utc("2026-12-02T12:00"), utc("2026-12-02T18:00"))


def test_a_repeated_hour_inside_the_window_leaves_it_one_opening() -> None:
    # Havana goes from 01:00 back to 00:00 on 1 November 2026.
    span = Window.parse("00:00-06:00").span(utc("2026-11-01T04:30"), ZoneInfo("America/Havana"))
    assert span == (utc("2026-11-01T04:00"), utc("2026-11-01T11:00"))


def test_a_day_that_a_zone_never_had_is_passed_over() -> None:
    # Samoa went from 29 to 31 December 2011.
    opens, closes = next_open(SMS_HOURS, utc("2011-12-30T07:00"), [ZoneInfo("Pacific/Apia")])
    assert (opens, closes) == (utc("2011-12-30T19:00"), utc("2011-12-31T06:00"))


def test_the_hours_of_a_large_country_are_those_that_all_its_zones_share() -> None:
    russia = [ZoneInfo("Europe/Kaliningrad"), ZoneInfo("Asia/Kamchatka")]
    assert next_open(SMS_HOURS, utc("2026-12-01T00:00"), russia) == (utc("2026-12-01T07:00"), utc("2026-12-01T08:00"))


def test_without_hours_in_common_the_first_zone_counts() -> None:
    far_apart = [ZoneInfo("Pacific/Auckland"), ZoneInfo("Europe/London")]
    opens, closes = next_open(Window.parse("10:00-12:00"), utc("2026-06-01T00:30"), far_apart)
    assert (opens, closes) == (utc("2026-06-01T22:00"), utc("2026-06-02T00:00"))


@pytest.mark.parametrize("window", [None, Window.parse("00:00-24:00")])
def test_without_a_window_any_moment_will_do(window: Window | None) -> None:
    assert next_open(window, utc("2026-06-01T03:00"), []) == (utc("2026-06-01T03:00"), None)


def test_a_window_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="needs the zone"):
        next_open(SMS_HOURS, utc("2026-06-01T03:00"), [])


@given(window=windows)
def test_a_window_reads_what_it_writes(window: Window) -> None:
    assert Window.parse(str(window)) == window


@pytest.mark.parametrize(
    ("text", "written", "hours"),
    [
        ("09:00-20:00", "09:00-20:00", 11),
        ("09:00 – 20:00", "09:00-20:00", 11),
        ("20:00-02:00", "20:00-02:00", 6),
        ("20:00-24:00", "20:00-24:00", 4),
        ("20:00-00:00", "20:00-24:00", 4),
        ("00:00-24:00", "00:00-24:00", 24),
    ],
)
def test_hours_are_read_as_written(text: str, written: str, hours: int) -> None:
    window = Window.parse(text)
    assert str(window) == written
    assert window.length == timedelta(hours=hours)


@pytest.mark.parametrize(
    "text",
    ["", "9-20", "09:00", "09:00-25:00", "24:00-08:00", "09:00-24:30", "10:00-10:00", "00:00-00:00", "٠٩:٠٠-20:00"],
)
def test_hours_that_mean_nothing_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"; write (it like 09:00-20:00|00:00-24:00 for every hour)$"):
        Window.parse(text)
