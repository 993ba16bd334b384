"""The whole product in one piece: what the demo says is what really happened, person by person."""

from __future__ import annotations

import signal
import sqlite3
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from commplan.ids import Keyring, MessageRef, TokenPurpose
from commplan.terms import MessageState

pytestmark = [pytest.mark.story, pytest.mark.long, pytest.mark.xdist_group("story")]


def _ledger(demo: Any) -> dict[MessageRef, dict[str, Any]]:
    connection = sqlite3.connect(f"file:{demo.home / 'store.sqlite'}?mode=ro", uri=True)
    connection.row_factory = sqlite3.Row
    rows = connection.execute("SELECT * FROM messages").fetchall()
    connection.close()
    return {MessageRef(row["run_id"], row["step_no"], row["seq"]): dict(row) for row in rows}


def _by_message(demo: Any) -> dict[MessageRef, dict[str, Any]]:
    keyring = Keyring((demo.home / "secret").read_text(encoding="ascii").strip())
    found: dict[MessageRef, dict[str, Any]] = {}
    for record in demo.truth():
        ref = keyring.open(TokenPurpose.MESSAGE, record["args"].get("cp_m") or record["args"].get("m"))
        assert ref is not None, "the sandbox has a message that carries none of our tokens"
        assert ref not in found, "the sandbox accepted one message twice"
        found[ref] = record
    return found


def test_the_ledger_and_the_sandbox_agree_about_every_single_message(demo: Any) -> None:
    truth, ledger = _by_message(demo), _ledger(demo)
    assert set(truth) == {ref for ref, row in ledger.items() if row["accepted_at"] is not None}
    assert len(truth) > 200
    for ref, record in truth.items():
        row = ledger[ref]
        assert (row["state"] == MessageState.DELIVERED) == (record["delivered"] and not record["bounced"]), ref
        assert (row["opened_at"] is not None) == record["opened"], ref
        assert (row["machine_opened_at"] is not None) == record["machine_opened"], ref
        assert (row["clicked_at"] is not None) == record["clicked"], ref
        assert (row["machine_clicked_at"] is not None) == record["machine_clicked"], ref
        assert (row["answered_at"] is not None) == record["answered"], ref
        # A STOP is an opt-out and not a reply.
        assert (row["replied_at"] is not None) == (record["replied"] and not record["opted_out"]), ref
        assert (row["complained_at"] is not None) == record["complained"], ref
        assert (row["opted_out_at"] is not None) == (record["opted_out"] or record["unsubscribed"]), ref


def test_every_figure_of_the_evaluation_is_the_sandboxs(demo: Any) -> None:
    truth = _by_message(demo)
    for step in demo.evaluation["steps"]:
        records = [record for ref, record in truth.items() if ref.step_no == step["step_no"]]
        delivered = [record for record in records if record["delivered"] and not record["bounced"]]
        counts = step["counts"]
        assert counts["accepted"] == len(records)
        assert counts["delivered"] == len(delivered)
        assert counts["opened"] == sum(record["opened"] for record in delivered)
        assert counts["clicked"] == sum(record["clicked"] for record in delivered)
        assert counts["machine_clicked"] == sum(record["machine_clicked"] for record in delivered)
        assert counts["answered"] == sum(record["answered"] for record in delivered)
        assert counts["opted_out"] == sum(record["opted_out"] or record["unsubscribed"] for record in delivered)
    scores = Counter(str(record["score"]) for record in truth.values() if record["answered"] and record["score"])
    assert demo.evaluation["surveys"][0]["scores"] == dict(sorted(scores.items()))


def test_conversions_are_those_of_the_crm(demo: Any) -> None:
    goal = next(goal for goal in demo.evaluation["goals"] if goal["id"] == "activate")
    crm = sqlite3.connect(f"file:{demo.home / 'crm.sqlite'}?mode=ro", uri=True)
    activated = dict(crm.execute("SELECT customer_id, activated_at FROM customers WHERE activated_at IS NOT NULL"))
    crm.close()
    store = sqlite3.connect(f"file:{demo.home / 'store.sqlite'}?mode=ro", uri=True)
    assigned = store.execute(
        "SELECT r.contact_id, min(m.accepted_at) FROM recipients r JOIN messages m USING (run_id, seq)"
        " GROUP BY r.contact_id HAVING min(m.accepted_at) IS NOT NULL"
    ).fetchall()
    store.close()
    # The CRM's naive times are Shanghai's; a week is the goal's window.
    counted = 0
    for contact, accepted in assigned:
        text = activated.get(int(contact))
        if text is not None:
            at = (time.mktime(time.strptime(text, "%Y-%m-%d %H:%M:%S")) - time.timezone - 8 * 3600) * 1e6
            counted += accepted < at <= accepted + 7 * 86_400 * 1e6
    assert goal["numerator"] == counted
    assert counted > 10


def test_nobody_who_responded_or_was_not_reached_was_texted(demo: Any) -> None:
    truth, ledger = _by_message(demo), _ledger(demo)
    for ref in (ref for ref in truth if ref.step_no == 2):
        welcome = truth[MessageRef(ref.run_id, 1, ref.seq)]
        assert welcome["delivered"]
        texted_at = ledger[ref]["accepted_at"]
        clicked_at = ledger[MessageRef(ref.run_id, 1, ref.seq)]["clicked_at"]
        assert clicked_at is None or clicked_at >= texted_at - 3600 * 1e6


def test_the_books_balance_and_no_address_was_written_to_twice(demo: Any) -> None:
    assert demo.last_line["difference"] == "0"
    assert demo.last_line["unknown"] == "0"
    pairs = Counter((record["channel"], record["to"].lower(), ref.step_no) for ref, record in _by_message(demo).items())
    assert max(pairs.values()) == 1


def test_the_closing_lines_have_no_trace_and_no_warning(demo: Any) -> None:
    assert "Traceback" not in demo.output
    assert "Warning" not in demo.output
    assert demo.output.startswith("SANDBOX")
    assert "SANDBOX: Welcome new customers" in demo.output
    assert demo.last_line["run"] == "onboarding@demo"
    assert int(demo.last_line["email_accepted"]) + int(demo.last_line["sms_accepted"]) == len(demo.truth())
    for figure in ("audience", "excluded from", "email delivered", "opened", "clicked", "SMS sent", "replies", "cost"):
        assert figure in demo.output


def test_prefect_knows_no_person(demo: Any) -> None:
    crm = sqlite3.connect(f"file:{demo.home / 'crm.sqlite'}?mode=ro", uri=True)
    people = crm.execute("SELECT full_name, email, mobile FROM customers").fetchall()
    crm.close()
    database = b"".join(path.read_bytes() for path in (demo.home / "prefect").glob("prefect.db*"))
    logs = b"".join(path.read_bytes() for path in (demo.home / "logs").glob("*.log"))
    for kept in (database, logs):
        assert b"person.example.com" not in kept.lower()
        for full_name, _, mobile in people:
            assert full_name.encode() not in kept
            if mobile and len(mobile) > 10:
                assert mobile.encode() not in kept


def test_the_run_page_reads_like_the_plan(demo: Any) -> None:
    runs = demo.ask_prefect("/flow_runs/filter", {})
    assert [run["name"] for run in runs] == ["onboarding · demo · SANDBOX"]
    tasks = demo.ask_prefect("/task_runs/filter", {"sort": "EXPECTED_START_TIME_ASC"})
    names = [task["name"] for task in tasks]
    assert names[:3] == ["prepare", "audience", "content"]
    assert names[-1] == "evaluate"
    assert {"welcome · email", "nudge · sms", "survey · email", "gather"} <= set(names)


def test_the_same_run_key_again_changes_nothing(demo: Any) -> None:
    before, ledger = demo.truth(), _ledger(demo)
    deployment = demo.ask_prefect("/deployments/filter", {})[0]["id"]
    again = demo.ask_prefect(f"/deployments/{deployment}/create_flow_run", {"parameters": {"run_key": "demo"}})
    until = time.monotonic() + 120
    while time.monotonic() < until:
        run = demo.ask_prefect("/flow_runs/filter", {"flow_runs": {"id": {"any_": [again["id"]]}}})[0]
        if run["state"]["type"] in ("COMPLETED", "FAILED", "CRASHED"):
            break
        time.sleep(0.5)
    assert run["state"]["type"] == "COMPLETED"
    assert len(demo.truth()) == len(before)
    assert _ledger(demo) == ledger
    evaluations = sqlite3.connect(f"file:{demo.home / 'store.sqlite'}?mode=ro", uri=True)
    assert evaluations.execute("SELECT count(*) FROM evaluations").fetchone() == (1,)
    evaluations.close()


def test_sigterm_ends_every_child(tmp_path: Path, start_demo: Any) -> None:
    process = start_demo(tmp_path / "home", "--contacts", "20")
    until = time.monotonic() + 120
    while not (tmp_path / "home" / "addresses.json").exists() and time.monotonic() < until:
        assert process.poll() is None
        time.sleep(0.1)
    children = _descendants(process.pid)
    assert len(children) >= 4
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in output
    assert not [pid for pid in children if Path(f"/proc/{pid}/cmdline").exists() and _is_ours(pid, tmp_path)]


def _descendants(pid: int) -> set[int]:
    found = {pid}
    while True:
        more = {
            int(path.parent.name)
            for path in Path("/proc").glob("[0-9]*/stat")
            if int(path.read_text().rpartition(")")[2].split()[1]) in found
        } - found
        if not more:
            return found - {pid}
        found |= more


def _is_ours(pid: int, home: Path) -> bool:
    try:
        return str(home).encode() in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False
