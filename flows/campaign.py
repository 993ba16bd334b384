"""The campaign: prepare, plan, execute, evaluate — one flow run for as long as the campaign takes.

Decides nothing: which work is left is the ledger's answer, so a restart from the top repeats nothing.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from prefect import State, flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import deployment as this_deployment
from prefect.runtime import flow_run as this_flow_run
from prefect.states import Completed

from commplan import archive
from commplan import campaign as work
from commplan.campaign import Campaign
from commplan.errors import InputError, StoreError
from commplan.heartbeat import beating
from commplan.settings import load_settings
from commplan.store import open_store
from commplan.terms import RunState
from commplan.watch import gathering, watching
from flows import hands
from flows.artifacts import publish_evaluation
from flows.dispatch import send
from flows.guard import guarded
from flows.orchestrator import newer_occasion
from flows.waits import hand_back, wait_until, wait_while

#: Plan time until the organisation's database is asked again after it did not answer.
SOURCE_PATIENCE = timedelta(minutes=10)
#: Machine time until a run that the store did not serve is tried again.
STORE_PATIENCE = timedelta(minutes=1)


def _name_of_run() -> str:
    plan, key = Path(this_flow_run.parameters["plan"]).parent.name, this_flow_run.parameters.get("run_key")
    named = f"{plan} · {key}" if key else plan
    return f"{named} · SANDBOX" if load_settings().provider_kind == "sandbox" else named


@flow(name="campaign", flow_run_name=_name_of_run, retries=0, persist_result=False)
@guarded
def campaign(plan: str, run_key: str | None = None) -> State[None] | None:
    """Carry a communication plan from its file to its evaluation.

    Args:
        plan: The plan file, from the project's folder, such as templates/onboarding/plan.yaml.
        run_key: Names this occurrence of the plan. Starting the same key again continues that run or shows its
            evaluation; it never writes to anybody twice. Left out: the time this run was scheduled for.
    """
    known = this_flow_run.run_count > 1
    try:
        running = prepare(plan, run_key)
        known = True
        newer = newer_occasion() if running.state is RunState.FROZEN else None
        if newer is not None and running.give_way(newer.scheduled):
            return Completed(name="Superseded", message=running.standing)
        with beating(running, watches_upkeep=this_deployment.id is not None):
            carry(running)
    except StoreError as error:
        # At the very first start a wrong setting is likelier than a full disk or a database that is away for a while.
        if known:
            get_run_logger().error("%s; the run goes on in a minute", error)
            hand_back(datetime.now(UTC) + STORE_PATIENCE, name="AwaitingStore")
        raise
    return None


def carry(running: Campaign) -> None:
    """Carry a run on from where it is to its evaluation; Prefect's Pause when it is handed back to wait."""
    clock, tell = running.store.clock, get_run_logger().info
    wait_until(clock, clock.origin, tell=tell)
    if running.state is RunState.FROZEN:
        resolve_audience(running)
        render_content(running)
    with watching(running):
        execute(running)
    if goes_on(running) or running.state is RunState.FINISHED:
        hands.let_go(running)
        evaluate(running)


def execute(running: Campaign) -> None:
    """Wait, gather and send until nothing is left to be sent and the run may be judged."""
    clock, tell = running.store.clock, get_run_logger().info
    while goes_on(running):
        due = running.next_due()
        if due is None and running.standstill() is not None:
            continue
        wait_until(clock, due.at if due else running.evaluation_time(), tell=tell)
        if due is not None and wait_for_feed(running, due.steps):
            continue
        known = (due is not None and due.steps == (1,)) or brought_in(running)
        if due is None and running.next_due() is None:
            break
        if not known:
            wait_until(clock, clock.now() + SOURCE_PATIENCE, tell=tell)
            continue
        for step_no in due.steps if due else ():
            hold_back(running, step_no)
            with hands.lent(running, step_no), gathering(running, step_no):
                send(running, step_no)


def wait_for_feed(running: Campaign, steps: tuple[int, ...]) -> bool:
    """Hold what waits for its feed, before anybody's database is asked about it; tell whether that was all."""
    work.apply_receipts(running.store)
    held = [hold_back(running, step_no, gathered=False) for step_no in steps]
    return any(held) and not any(running.senders(step_no) for step_no in steps)


def hold_back(running: Campaign, step_no: int, *, gathered: bool = True) -> bool:
    """Hold what is due of a step and rests on silence that is not proven; tell whether there was any."""
    held = running.hold_back(step_no, gathered=gathered)
    if held is not None:
        (get_run_logger().info if held.closed is None else get_run_logger().warning)("%s", held)
    return held is not None


def goes_on(running: Campaign) -> bool:
    """Wait while somebody has to let the run go on; tell whether it is to be carried on, or is over."""
    wait_while(running.standstill, tell=get_run_logger().warning)
    return running.state is RunState.EXECUTING


@task(task_run_name="prepare", cache_policy=NO_CACHE)
@guarded
def prepare(plan: str, run_key: str | None) -> Campaign:
    """Check and freeze the plan with its templates, or join the run that exists."""
    settings = load_settings()
    running = work.start(
        open_store(settings),
        settings,
        path=Path(plan),
        occurrence=run_key,
        scheduled=this_flow_run.scheduled_start_time or datetime.now(UTC),
        flow_run_id=str(this_flow_run.id),
        deployment_id=this_deployment.id,
    )
    if running.state is RunState.FROZEN:
        running.require_providers()
    get_run_logger().info("%s is %s", running.run.run_key, running.state.value)
    return running


@task(task_run_name="audience", cache_policy=NO_CACHE)
@guarded
def resolve_audience(running: Campaign) -> None:
    """Look up who the run is for, and freeze the answer."""
    found = running.resolve_audience()
    if found is not None:
        left_out = "; ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in found.excluded.items())
        get_run_logger().info(
            "%s people in the audience%s", f"{found.audience:,}", f", of them {left_out}" if left_out else ""
        )
        for field, count in found.unread.items():
            get_run_logger().warning(
                "audience.contact.%s: %s values could not be read and count as left empty", field, f"{count:,}"
            )
        if not found.audience:
            get_run_logger().warning("nobody: the query returned no one since the last run of this plan")


@task(task_run_name="content", cache_policy=NO_CACHE)
@guarded
def render_content(running: Campaign) -> None:
    """Render every step for everybody, before the first message goes out."""
    people = running.render()
    if people is not None:
        get_run_logger().info("content is frozen for %s people", f"{people:,}")


def brought_in(running: Campaign) -> bool:
    """Gather; tell whether the organisation's database answered. If not its owner is told, and later steps wait."""
    try:
        gather(running)
    except InputError as error:
        get_run_logger().warning("%s; later steps wait, and it is asked again in a while", error)
        running.tell_owner(f"{running.run.run_key} waits", str(error))
        return False
    return True


@task(task_run_name="gather", cache_policy=NO_CACHE)
@guarded
def gather(running: Campaign) -> None:
    """Bring in receipts and conversions, and ask who is still in the audience."""
    found = running.gather()
    get_run_logger().info(
        "gathered %s receipts, %s conversions; %s people have left",
        found.receipts,
        found.conversions,
        found.left_audience,
    )
    settled = found.settled
    if settled.asked:
        get_run_logger().info(
            "asked about %s requests: %s messages accepted, %s not, %s unknown",
            settled.asked,
            settled.accepted,
            settled.lost,
            settled.unknown,
        )


@task(task_run_name="evaluate", cache_policy=NO_CACHE)
@guarded
def evaluate(running: Campaign) -> None:
    """Judge the goals, and publish the evaluation in the UI and as files."""
    judged = running.evaluate()
    archive.write_report(running.store, running.settings, judged)
    publish_evaluation(judged)
