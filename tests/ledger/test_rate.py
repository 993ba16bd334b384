"""Rate limits hold over all workers, in every stretch of time, and nobody waits with a lock in hand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import update

import commplan
from commplan.ledger.rate import Bucket, Limit, filled, limits, open_bucket
from commplan.settings import EmailSettings, Settings, SmsSettings
from commplan.store import Store
from commplan.store.tables import buckets
from commplan.terms import Channel

_ROOT = Path(commplan.__file__).parent.parent


def limit(rate: float) -> Limit:
    return Limit(channel=Channel.SMS, sender="+15005550006", rate=rate)


@given(
    st.floats(0.01, 5_000),
    st.lists(st.tuples(st.floats(0, 30), st.integers(1, 1_000)), min_size=1, max_size=30),
)
def test_no_stretch_of_time_sees_more_than_the_rate_and_one_burst(rate, asked):
    given_limit = limit(rate)
    now, tokens, taken = 0.0, given_limit.burst, []
    for pause, wanted in asked:
        now += pause
        bucket = Bucket(limit=given_limit, tokens=filled(tokens, pause, given_limit), at=now)
        count = min(wanted, bucket.whole)
        tokens = bucket.tokens - count
        taken.append((now, count))
        if not count:
            # Who waits as long as it is told finds something.
            wait = bucket.wait(wanted).seconds
            assert wait > 0
            assert filled(tokens, wait, given_limit) >= 1 - 1e-6
    require_rate(taken, given_limit)


def require_rate(taken: list[tuple[float, int]], given_limit: Limit) -> None:
    """Assert that what was taken between any two moments is within the limit."""
    for at, (begin, _) in enumerate(taken):
        total = 0
        for end, count in taken[at:]:
            total += count
            assert total <= given_limit.rate * (end - begin) + given_limit.burst + 1e-3


def test_workers_in_processes_share_one_bucket(settings: Settings, store: Store, store_url: str):
    rate, goal, workers = 60.0, 60, 3
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(_ROOT),
        "COMMPLAN_HOME": str(settings.home),
        "COMMPLAN_STORE_URL": store_url,
        "COMMPLAN_SECRET_KEY": "a secret of the tests",
    }
    takers = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.ledger.taker", str(rate), str(goal), str(seed)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=_ROOT,
            env=environment,
        )
        for seed in range(workers)
    ]
    said = [taker.communicate(timeout=120)[0] for taker in takers]
    assert [taker.returncode for taker in takers] == [0] * workers
    taken = sorted((float(at), int(count)) for lines in said for at, count in map(str.split, lines.splitlines()))
    assert sum(count for _, count in taken) == goal * workers
    require_rate(taken, limit(rate))


def test_who_waits_holds_no_lock_and_another_sender_has_a_bucket_of_its_own(store: Store):
    mine, other = limit(2), Limit(channel=Channel.SMS, sender="+15005550007", rate=2)
    with store.write() as connection:
        bucket = open_bucket(connection, mine)
        assert bucket.whole == 2
        bucket.take(connection, 2)
    with store.write() as connection:
        empty = open_bucket(connection, mine)
        assert empty.whole == 0
    assert 0 < empty.wait(500).seconds <= 0.5
    with store.write() as connection:
        assert open_bucket(connection, other).whole == 2


def test_a_clock_that_went_back_fills_nothing_and_a_long_rest_fills_one_burst(store: Store):
    mine = limit(10)
    with store.write() as connection:
        open_bucket(connection, mine).take(connection, 10)
        connection.execute(update(buckets).values(filled_machine=buckets.c.filled_machine + 3_600))
    with store.write() as connection:
        assert open_bucket(connection, mine).whole == 0
        connection.execute(update(buckets).values(filled_machine=buckets.c.filled_machine - 7_200))
    with store.write() as connection:
        assert open_bucket(connection, mine).whole == 10


def test_limits_are_those_of_the_settings(settings: Settings):
    assert limits(settings) == {}
    given_settings = settings.model_copy(
        update={"email": EmailSettings(rate=100), "sms": SmsSettings(rate=0.5, from_number="+15005550006")}
    )
    found = limits(given_settings)
    assert found[Channel.SMS] == limit(0.5)
    assert (found[Channel.SMS].burst, found[Channel.EMAIL].burst) == (1, 100)
