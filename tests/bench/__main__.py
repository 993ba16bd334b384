"""``make bench``: one table of all ratios from one run, and the same as JSON.

Absolute figures belong to the machine and the moment; the ratios are what to compare.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path

from rich.console import Console
from rich.table import Table

from commplan.ledger import proof
from tests.bench import peers
from tests.bench.stage import Stage, sink, stage, taken


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One line of the table: the median of several measurements with their spread."""

    what: str
    unit: str
    median: float
    low: float
    high: float
    must: str = ""
    aim: str = ""

    @classmethod
    def of(cls, what: str, unit: str, values: Sequence[float], *, must: str = "", aim: str = "") -> Figure:
        """Return the figure of some measurements."""
        return cls(
            what=what,
            unit=unit,
            median=statistics.median(values),
            low=min(values),
            high=max(values),
            must=must,
            aim=aim,
        )


@dataclass(frozen=True, kw_only=True)
class Campaign:
    """Seconds that each part of one campaign took, and the largest process, in MB."""

    people: int
    audience: float
    render: float
    dispatch: float
    peak: float

    @property
    def sent_per_second(self) -> float:
        """From a frozen audience to closed in the ledger."""
        return self.people / (self.render + self.dispatch)

    @property
    def whole(self) -> float:
        """From the first row read to the last batch closed."""
        return self.audience + self.render + self.dispatch


def seconds(work: Callable[[], object]) -> float:
    """Return how long something takes, by the wall."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def carry(address: str, *, channel: str, people: int, store_url: str | None = None) -> Campaign:
    """Run one campaign of one step against the sink, and see that its books balance and nobody was written to twice."""
    with tempfile.TemporaryDirectory() as folder:
        set_up = stage(Path(folder), address=address, channel=channel, people=people, store_url=store_url)
        os.environ["CRM_DATABASE_URL"] = f"sqlite:///{folder}/crm.sqlite"
        before = taken(address, channel)
        running = set_up.campaign()
        audience = seconds(running.resolve_audience)
        render = seconds(running.render)
        dispatch = seconds(lambda: _send_all(running))
        after = taken(address, channel)
        with running.store.read() as connection:
            books = proof.balance(connection, running.run.run_id, running.run.run_key)
        running.close()
        running.store.dispose()
    sent = after["messages"] - before["messages"]
    if books.difference or sent != people:
        raise SystemExit(
            f"{channel}: {people} people, {sent} sent, difference {books.difference}: no figure is worth it"
        )
    return Campaign(people=people, audience=audience, render=render, dispatch=dispatch, peak=_peak())


def _send_all(running) -> None:  # type: ignore[no-untyped-def]
    senders = running.senders(1)
    if senders < 2:
        running.dispatch(1)
        return
    with ThreadPoolExecutor(senders) as pool:
        for each in [pool.submit(running.dispatch, 1, alone=False) for _ in range(senders)]:
            each.result()


def _peak() -> float:
    largest = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return largest / 1024


def figures(
    address: str, *, people: int, rounds: int, database: str, store_url: Callable[[], str | None]
) -> list[Figure]:
    """Measure one database: email and SMS, each in turn with what it is compared with."""
    emails, stock, jinja, texts, bare = [], [], [], [], []
    count = max(2_000, people // 10)
    for _ in range(rounds):
        emails.append(carry(address, channel="email", people=people, store_url=store_url()))
        stock.append(_peer(address, "email", lambda set_up: peers.sdk_loop(set_up, 400)))
        jinja.append(_peer(address, "email", lambda set_up: peers.plain_jinja(set_up, 4_000)))
        carried = carry(address, channel="sms", people=count, store_url=store_url())
        texts.append(carried.people / carried.dispatch)
        bare.append(_peer(address, "sms", lambda set_up: peers.bare_texts(set_up, count)))
    sent = [each.sent_per_second for each in emails]
    lines = [
        Figure.of("email: frozen audience to closed", "/s", sent, must="≥ 8,000", aim="16,000"),
        Figure.of("  against the stock SDK in a loop", "×", _ratios(sent, stock), must="≥ 10", aim="20"),
        Figure.of("  against plain Jinja2 on one core", "×", _ratios(sent, jinja), must="≥ 0.4", aim="0.65"),
        Figure.of("  rendering alone", "/s", [each.people / each.render for each in emails]),
        Figure.of("  dispatch alone", "/s", [each.people / each.dispatch for each in emails]),
        Figure.of("  audience alone", "/s", [each.people / each.audience for each in emails]),
        Figure.of("sms: due to closed", "/s", texts),
        Figure.of("  against a bare loop on the same transport", "×", _ratios(texts, bare), must="≥ 0.6", aim="0.75"),
        Figure.of("largest process", "MB", [each.peak for each in emails], must="≤ 400"),
    ]
    return [replace(line, what=f"{line.what} ({database})") for line in lines]


def _peer(address: str, channel: str, work: Callable[[Stage], float]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        return work(stage(Path(folder), address=address, channel=channel, people=10))


def _ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    return [one / other for one, other in zip(ours, theirs, strict=True)]


def growth(address: str, sizes: Sequence[int]) -> list[Figure]:
    """Measure how time and memory grow with the number of people, each size once."""
    found: list[Figure] = []
    runs = [carry(address, channel="email", people=size) for size in sizes]
    for run in runs:
        found.append(Figure.of(f"{run.people:,} people: first row to last batch", "s", [run.whole]))
        found.append(Figure.of(f"  largest process at {run.people:,}", "MB", [run.peak]))
    slopes = [(after.whole - before.whole) / (after.people - before.people) for before, after in pairwise(runs)]
    for number, (earlier, later) in enumerate(pairwise(slopes)):
        first, second, third = (f"{size:,}" for size in sizes[number : number + 3])
        what = f"  time a message, {second} → {third} against {first} → {second}"
        found.append(Figure.of(what, "×", [later / earlier], must="≤ 1.3", aim="1.1"))
    return found


def main(argv: Sequence[str]) -> None:
    """Measure, print, and write the JSON."""
    options = argparse.ArgumentParser(prog="make bench")
    options.add_argument("--people", type=int, default=40_000)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--sizes", type=int, nargs="*", default=[10_000, 100_000])
    options.add_argument("--postgresql", action="store_true", help="also on a real PostgreSQL")
    options.add_argument("--no-prefect", action="store_true", help="leave out one Prefect task per message")
    options.add_argument("--json", type=Path, default=Path(".commplan/bench.json"))
    asked = options.parse_args(argv)
    with sink() as address:
        found = figures(address, people=asked.people, rounds=asked.rounds, database="SQLite", store_url=lambda: None)
        if not asked.no_prefect:
            tasks = _peer(address, "email", lambda set_up: peers.prefect_tasks(set_up, 200))
            ratio = [found[0].median / tasks]
            found.insert(2, Figure.of("  against one Prefect task a message", "×", ratio, must="≥ 80", aim="160"))
        if asked.postgresql:
            from tests.bench.server import databases

            with databases() as fresh:
                found += figures(
                    address, people=asked.people, rounds=asked.rounds, database="PostgreSQL", store_url=fresh
                )
        found += growth(address, asked.sizes) if asked.sizes else []
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    table = Table(title=f"SANDBOX sink · {machine} · {asked.people:,} people, median of {asked.rounds}")
    for heading in ("what", "median", "spread", "must", "aim"):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    for one in found:
        spread = f"{one.low:,.2f} – {one.high:,.2f}" if one.high != one.low else ""
        table.add_row(one.what, f"{one.median:,.2f} {one.unit}", spread, one.must, one.aim)
    Console(width=120).print(table)
    asked.json.parent.mkdir(parents=True, exist_ok=True)
    asked.json.write_text(
        json.dumps({"machine": machine, "figures": [asdict(one) for one in found]}, indent=2), encoding="utf-8"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
