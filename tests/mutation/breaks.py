"""Each invariant of the ledger, broken on purpose: the line that is taken away, and the test that notices."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Break:
    """In `file`, `line` becomes `instead`; then `test` fails. `rule` is what is broken."""

    rule: str
    file: str
    line: str
    instead: str
    test: str


MACHINE = "tests/ledger/test_machine.py::test_no_short_sequence_of_events_breaks_an_invariant_of_the_ledger[sqlite]"
_LAST_LOOK = "tests/campaign/test_last_look.py::"
_TRACKING = "tests/listening/test_tracking.py::"

BREAKS = (
    Break(
        rule="1. Row before wire: no transaction is open over the network",
        file="commplan/dispatch/email.py",
        line="                acceptance = gateway.send(_request(store, batch, outgoing, public_url=public_url))\n",
        instead="                with store.write() as _:\n"
        "                    acceptance = gateway.send(_request(store, batch, outgoing, public_url=public_url))\n",
        test=f"{_LAST_LOOK}test_a_request_is_on_record_before_it_is_written_and_no_transaction_waits_for_its_answer"
        "[sqlite-email]",
    ),
    Break(
        rule="1. Row before wire: a lease that is over gives nothing to write",
        file="commplan/ledger/look.py",
        line="        batches.c.lease_machine > machine_now(),\n",
        instead="",
        test=f"{_LAST_LOOK}test_a_worker_whose_lease_is_over_writes_nothing_even_if_nobody_has_noticed_it_yet[sqlite]",
    ),
    Break(
        rule="2. Once for an address: a row for every run, step and address key",
        file="commplan/store/migrations/versions/0002_values_apart_from_state.py",
        line='        sa.UniqueConstraint("address_key", "run_id", "step_no", '
        'name=op.f("uq_messages_address_key_run_id_step_no")),\n',
        instead="",
        test="tests/campaign/test_proof.py::test_what_the_database_forbids_cannot_be_written_at_all[sqlite]",
    ),
    Break(
        rule="2. Once for an occurrence: nothing is planned into a run that sends",
        file="commplan/ledger/enqueue.py",
        line="        if state != RunState.FROZEN:\n",
        instead="        if state is None:\n",
        test="tests/campaign/test_start.py::test_nothing_can_be_planned_into_a_run_that_sends[sqlite]",
    ),
    Break(
        rule="3. No blind retry: what was on the wire when a lease ended is unknown",
        file="commplan/ledger/close.py",
        line="        messages.c.state == MessageState.SENDING,\n    )\n    .values(state=MessageState.UNKNOWN)\n",
        instead="        messages.c.state == MessageState.SENDING,\n    )\n    .values(state=MessageState.CLAIMED)\n",
        test=MACHINE,
    ),
    Break(
        rule="3. No blind retry: an error of the provider proves nothing",
        file="commplan/dispatch/failure.py",
        line="    if not isinstance(error, RejectedError):\n",
        instead="    if not isinstance(error, RejectedError):\n"
        "        close.take_back(store, attempt_id, status=status, code=code)\n"
        "        return [list(seqs)]\n",
        test="tests/campaign/test_failure.py::test_a_request_that_may_have_been_accepted_is_never_made_again"
        "[sqlite-email-accept_then_500]",
    ),
    Break(
        rule="4. The books balance: a request and its messages are held against each other",
        file="commplan/ledger/proof.py",
        line='            what="messages carried by requests = messages that name their request", expected=carried, '
        "found=with_attempt\n",
        instead='            what="messages carried by requests = messages that name their request", '
        "expected=0, found=0\n",
        test="tests/campaign/test_proof.py::test_whatever_is_off_is_named_and_the_command_exits_1"
        "[sqlite-_count_a_request_for_more-messages carried by requests]",
    ),
    Break(
        rule="5. Suppression wins: in the last look",
        file="commplan/ledger/rules.py",
        line="            applies=suppressed.exists(),\n",
        instead="            applies=suppressed.exists() & (messages.c.seq < 0),\n",
        test=f"{_LAST_LOOK}test_an_opt_out_on_one_channel_leaves_the_other_open[sqlite]",
    ),
    Break(
        rule="5. Suppression wins: at planning",
        file="commplan/rendering/renderer.py",
        line="        if reason is not None:\n            return reason\n        if self._allowed",
        instead="        if self._allowed",
        test=f"{_LAST_LOOK}test_a_suppression_counts_when_the_run_is_planned_and_again_right_before_the_wire"
        "[sqlite-hard_bounce-all-True-planning]",
    ),
    Break(
        rule="6. Receipts are facts: a failure stays one whatever is told after it",
        file="commplan/ledger/facts.py",
        line="                    (messages.c.state == MessageState.FAILED, messages.c.state),\n",
        instead="",
        test=f"{_TRACKING}test_a_bounce_after_the_delivery_wins_and_a_later_delivery_does_not_undo_it[sqlite]",
    ),
    Break(
        rule="6. Receipts are facts: told again they are the same",
        file="commplan/ledger/facts.py",
        line="        .on_conflict_do_nothing()\n        .returning(receipts.c.receipt_key)\n",
        instead="        .returning(receipts.c.receipt_key)\n",
        test=f"{_TRACKING}test_a_repeated_post_changes_nothing_even_when_its_event_ids_changed[sqlite]",
    ),
    Break(
        rule="7. Silence is no answer of somebody who was not reached",
        file="commplan/ledger/evidence.py",
        line="        answer = case((reached, facts), else_=null())\n",
        instead="        answer = case((reached, facts), else_=false())\n",
        test="tests/ledger/test_evidence.py::"
        "test_a_conversion_after_the_message_was_accepted_is_a_response_and_an_earlier_one_is_not[sqlite]",
    ),
    Break(
        rule="7. Silence is no answer of somebody who could not be heard",
        file="commplan/ledger/gate.py",
        line="        proven = _NEVER if silent is not None or found.last is None else found.last - times.lag\n",
        instead="        proven = now\n",
        test="tests/campaign/test_gate.py::"
        "test_nobody_is_texted_for_their_silence_while_no_heartbeat_has_been_heard[sqlite]",
    ),
    Break(
        rule="7. A machine's click is no response",
        file="commplan/ledger/reaction.py",
        line="            name = (_MACHINE_FIRSTS if whys.get(one.key) else _FIRSTS).get(kind)\n",
        instead="            name = _FIRSTS.get(kind)\n",
        test=f"{_TRACKING}test_a_scanner_is_known_by_its_name_and_the_person_who_clicks_later_counts[sqlite]",
    ),
    Break(
        rule="7. What is fetched unasked is no response",
        file="commplan/receipts/link.py",
        line="    return agent, MachineWhy.FLAGGED if unasked else None\n",
        instead="    return agent, None\n",
        test="tests/listening/test_links.py::test_a_head_is_a_machines_and_tells_where_the_link_leads[sqlite]",
    ),
    Break(
        rule="8. What was started is what goes out: the files of the first start",
        file="commplan/ledger/run.py",
        line="            .values(starts=1, started_machine=machine_now(), alive_machine=machine_now())\n",
        instead="            .values(starts=1, started_machine=machine_now(), digest=digest)\n",
        test="tests/campaign/test_start.py::test_files_changed_after_the_start_change_nothing[sqlite]",
    ),
    Break(
        rule="9. No personal data in logs",
        file="commplan/dispatch/sender.py",
        line='            extra={"batch": batch.batch_id,',
        instead='            extra={"values": "ann@person.example.com", "batch": batch.batch_id,',
        test="tests/campaign/test_start.py::test_a_run_half_sent_goes_on_where_it_is[sqlite]",
    ),
    Break(
        rule="10. Two clocks: leases go by the database's",
        file="commplan/ledger/close.py",
        line="                    batches.c.lease_machine < machine_now(),\n",
        instead="                    batches.c.lease_machine < store.clock.now().timestamp(),\n",
        test="tests/campaign/test_bad_input.py::"
        "test_a_worker_whose_clock_is_two_minutes_off_takes_nothing_from_another_and_loses_nothing[sqlite-2]",
    ),
)


def table() -> str:
    """The list as tests/README.md shows it."""
    rows = ["| Invariant | Taken away from | It is noticed by |", "|---|---|---|"]
    for one in BREAKS:
        shown = " ".join(one.line.split())[:60].replace("|", r"\|")
        test = one.test.partition("::")[2].partition("[")[0]
        rows.append(f"| {one.rule} | `{one.file}`: `{shown}` | `{test}` |")
    return "\n".join(rows)
