"""``make bench``: one table of all ratios from one run, and the same as JSON.

Absolute figures belong to the machine and the moment; the ratios are what to compare.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench import peers
from tests.bench.carry import carry
from tests.bench.listening import listen
from tests.bench.load import CONNECTIONS, load
from tests.bench.orchestration import orchestrate
from tests.bench.stage import Stage, sink, stage

MILLION = 1_000_000


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


def figures(
    address: str, *, people: int, rounds: int, database: str, store_url: Callable[[], str | None]
) -> list[Figure]:
    """Measure one database: email and SMS, each in turn with what it is compared with, and the receiver."""
    emails, stock, jinja, texts, bare, heard = [], [], [], [], [], []
    count = max(2_000, people // 20)
    for _ in range(rounds):
        emails.append(carry(address, channel="email", people=people, store_url=store_url()))
        stock.append(_peer(address, "email", lambda set_up: peers.sdk_loop(set_up, 400)))
        jinja.append(_peer(address, "email", lambda set_up: peers.plain_jinja(set_up, 4_000)))
        carried = carry(address, channel="sms", people=count, store_url=store_url())
        texts.append(carried.people / carried.dispatch)
        bare.append(_peer(address, "sms", lambda set_up: peers.bare_texts(set_up, count)))
        heard.append(listen(address, people=max(2_000, people // 10), store_url=store_url()))
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
        Figure.of("receipts in signed posts: kept durably", "/s", [each.kept for each in heard], must="≥ 30,000"),
        Figure.of("  applied", "/s", [each.applied for each in heard], must="≥ 6,000", aim="12,000"),
        Figure.of("largest process", "MB", [each.peak for each in emails], must="≤ 400"),
    ]
    return [replace(line, what=f"{line.what} ({database})") for line in lines]


def _peer(address: str, channel: str, work: Callable[[Stage], float]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        return work(stage(Path(folder), address=address, channel=channel, people=10))


def _ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    return [one / other for one, other in zip(ours, theirs, strict=True)]


def under_load(address: str, *, events: int, database: str, store_url: str | None) -> list[Figure]:
    """Measure how soon the receiver answers when much is posted at once, while a campaign is sending."""
    found = load(address, events=events, store_url=store_url)
    what = f"{events:,} events on {CONNECTIONS} connections: answer, median ({database})"
    return [
        Figure.of(what, "ms", [found.p50]),
        Figure.of("  99 of 100 sooner than", "ms", [found.p99], must="≤ 500"),
        Figure.of("  the last", "ms", [found.longest]),
        Figure.of("  kept", "/s", [found.kept]),
        Figure.of("  applied meanwhile and after", "/s", [found.applied]),
        Figure.of("  of that time a campaign was sending", "%", [100 * found.sending]),
    ]


def growth(address: str, sizes: Sequence[int]) -> list[Figure]:
    """Measure how time and memory grow with the number of people, each size once, the smallest first."""
    found: list[Figure] = []
    runs = [carry(address, channel="email", people=size) for size in sizes]
    for run in runs:
        million = run.people >= MILLION
        found += [
            Figure.of(
                f"{run.people:,} people: first row to last batch",
                "s",
                [run.whole],
                must="≤ 200" if million else "",
                aim="120" if million else "",
            ),
            Figure.of(f"  largest process at {run.people:,}", "MB", [run.peak], must="≤ 400" if million else ""),
        ]
    for smaller, larger in pairwise(runs):
        what = f"  largest process at {larger.people:,} against {smaller.people:,}"
        must = "≤ 1.2" if larger.people >= MILLION else ""
        found.append(Figure.of(what, "×", [larger.peak / smaller.peak], must=must))
    slopes = [(after.whole - before.whole) / (after.people - before.people) for before, after in pairwise(runs)]
    for number, (earlier, later) in enumerate(pairwise(slopes)):
        first, second, third = (f"{size:,}" for size in sizes[number : number + 3])
        what = f"  time a message, {second} → {third} against {first} → {second}"
        found.append(Figure.of(what, "×", [later / earlier], must="≤ 1.3", aim="1.1"))
    return found


def with_prefect(address: str, *, people: int, email: Figure) -> list[Figure]:
    """Measure one Prefect task for each message, and what Prefect adds to a campaign of ours."""
    tasks = _peer(address, "email", lambda set_up: peers.prefect_tasks(set_up, 200))
    flow = orchestrate(address, people=people)
    most = people // 10_000 + 20
    return [
        Figure.of(
            "email: closed, against one Prefect task a message", "×", [email.median / tasks], must="≥ 80", aim="160"
        ),
        Figure.of(f"Prefect's share of the flow of {people:,} people", "%", [flow.share], must="≤ 15", aim="5"),
        Figure.of("  task runs in it", "", [flow.task_runs], must=f"≤ {most}"),
    ]


def main(argv: Sequence[str]) -> None:
    """Measure, print, and write the JSON."""
    options = argparse.ArgumentParser(prog="make bench")
    options.add_argument("--people", type=int, default=100_000)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--sizes", type=int, nargs="*", default=[10_000, 100_000, MILLION])
    options.add_argument("--events", type=int, default=MILLION, help="posted under load; 0 leaves it out")
    options.add_argument("--postgresql", action="store_true", help="also on a real PostgreSQL")
    options.add_argument("--no-prefect", action="store_true", help="leave out what needs a Prefect server")
    options.add_argument("--json", type=Path, default=Path(".commplan/bench.json"))
    asked = options.parse_args(argv)
    with sink() as address:
        found = figures(address, people=asked.people, rounds=asked.rounds, database="SQLite", store_url=lambda: None)
        # Before a Prefect server is in this process: a child begins with its parent's peak.
        found += growth(address, asked.sizes) if asked.sizes else []
        if asked.events:
            found += under_load(address, events=asked.events, database="SQLite", store_url=None)
        if not asked.no_prefect:
            found += with_prefect(address, people=asked.people, email=found[0])
        if asked.postgresql:
            from tests.bench.server import databases

            with databases() as fresh:
                found += figures(
                    address, people=asked.people, rounds=asked.rounds, database="PostgreSQL", store_url=fresh
                )
                if asked.events:
                    found += under_load(address, events=asked.events, database="PostgreSQL", store_url=fresh())
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
