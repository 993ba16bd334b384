"""Other machines that help to send: how many are called, what they are told, and that nothing depends on them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from prefect import flow, get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.logging import disable_run_logger
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, PREFECT_SERVER_ANALYTICS_ENABLED, temporary_settings
from prefect.testing.utilities import prefect_test_harness

from commplan import campaign
from commplan.campaign import Campaign
from commplan.campaign.sending import WORTH_A_MACHINE
from commplan.clock import Clock
from commplan.errors import InputError, RunError
from commplan.ledger import ending, standstill
from commplan.settings import load_settings
from commplan.store import Store
from commplan.supervisor import free_port
from commplan.terms import RunState
from flows import hands
from flows.deployment import deploy
from flows.dispatch import dispatch
from tests.campaign.conftest import LETTER, Rehearsal, crowd
from tests.test_cli import ROOT

on_one_database = pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)


def ready(here: Rehearsal, *, machines: int = 4) -> Campaign:
    return here.ready(LETTER, settings=here.settings.model_copy(update={"machines": machines}))


@on_one_database
def test_other_machines_are_called_for_as_much_as_is_worth_it_and_as_many_as_are_asked_for(rehearse):
    here = rehearse(crowd(3 * WORTH_A_MACHINE), batch=1)
    running = ready(here)
    assert running.hands(1) == 2
    assert ready(here, machines=2).hands(1) == 1
    assert ready(here, machines=1).hands(1) == 0
    here.send_due(running)
    assert running.hands(1) == 0


@on_one_database
def test_one_machine_sends_what_is_not_worth_two(rehearse):
    here = rehearse(crowd(2 * WORTH_A_MACHINE - 1), batch=1)
    assert ready(here).hands(1) == 0


@pytest.mark.parametrize("url", [None, "sqlite:///shared/store.sqlite"])
def test_several_machines_are_refused_over_sqlite(monkeypatch: pytest.MonkeyPatch, url: str | None) -> None:
    monkeypatch.setenv("COMMPLAN_MACHINES", "2")
    if url is not None:
        monkeypatch.setenv("COMMPLAN_STORE_URL", url)
    with pytest.raises(InputError) as caught:
        load_settings()
    assert str(caught.value) == (
        "COMMPLAN_MACHINES: several machines share a store on PostgreSQL only; "
        "set COMMPLAN_STORE_URL to postgresql+psycopg://…, or leave COMMPLAN_MACHINES at 1"
    )


@pytest.mark.parametrize("url", ["postgresql://db/commplan", "postgresql+psycopg://db/commplan"])
def test_several_machines_share_a_store_on_postgresql(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("COMMPLAN_MACHINES", "2")
    monkeypatch.setenv("COMMPLAN_STORE_URL", url)
    assert load_settings().machines == 2


@on_one_database
def test_a_hand_is_refused_for_what_it_cannot_help_with(rehearse):
    here = rehearse(crowd(1))
    key = here.ready().run.run_key
    with pytest.raises(RunError, match="there is no run 'letter@second'"):
        campaign.join(here.store, here.settings, key="letter@second", step_no=1)
    for step_no in (0, 2):
        with pytest.raises(InputError, match=f"step: letter@first has no step {step_no}; write a number from 1 to 1"):
            campaign.join(here.store, here.settings, key=key, step_no=step_no)
    elsewhere = Store(here.settings.store_address, Clock.real(), here.store.keyring)
    with pytest.raises(RunError, match="started on another plan time"):
        campaign.join(elsewhere, here.settings, key=key, step_no=1)
    elsewhere.dispose()


def _elsewhere(here: Rehearsal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Be another machine: with the settings, and without the organisation's database."""
    for name, value in here.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("CRM_DATABASE_URL")


def _lend(here: Rehearsal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do what a flow run on another machine does for the first step."""
    _elsewhere(here, monkeypatch)
    with disable_run_logger():
        dispatch.fn(run_key="letter@first", step=1)


@on_one_database
@pytest.mark.parametrize("state", ["paused", "held", "cancelled", "finished"])
def test_a_hand_that_finds_its_run_kept_back_or_over_ends_at_once(rehearse, monkeypatch, state):
    here = rehearse(crowd(3))
    run_id = ready(here).run.run_id
    if state == "paused":
        standstill.pause(here.store, run_id, by="ops")
    elif state == "held":
        standstill.hold(here.store, run_id, "the key is refused")
    elif state == "cancelled":
        ending.cancel_run(here.store, run_id)
    else:
        ready(here).evaluate()
    _lend(here, monkeypatch)
    assert (here.truth(), here.outcomes()) == ([], [])


@on_one_database
def test_a_late_hand_finds_nothing_and_ends(rehearse, monkeypatch):
    here = rehearse(crowd(3))
    running = ready(here)
    here.send_due(running)
    _lend(here, monkeypatch)
    assert len(here.truth()) == 3
    here.require_balance(running)


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SyncPrefectClient]:
    quiet = {PREFECT_SERVER_ANALYTICS_ENABLED: False, PREFECT_HOME: tmp_path_factory.mktemp("prefect")}
    with (
        temporary_settings(quiet),
        prefect_test_harness(server_startup_timeout=180),
        get_client(sync_client=True) as client,
    ):
        yield client


def _inside(running: Campaign, body: Any) -> FlowRun:
    """Run `body` as a campaign's flow does; return the flow run."""
    seen = []

    @flow(name="campaign")
    def carrying() -> None:
        from prefect.runtime import flow_run

        seen.append(flow_run.id)
        body()

    carrying()
    with get_client(sync_client=True) as client:
        return client.read_flow_run(seen[0])


@on_one_database
def test_hands_are_called_by_name_and_called_off_when_the_step_is_sent(rehearse, prefect):
    here = rehearse(crowd(3 * WORTH_A_MACHINE), batch=1)
    running = ready(here)
    deployment = deploy(prefect, ROOT, only=["dispatch"])["dispatch"]

    def known() -> list[FlowRun]:
        found = (run for run in prefect.read_flow_runs() if run.deployment_id == deployment)
        return sorted(found, key=lambda run: run.name)

    def body() -> None:
        with hands.lent(running, 1):
            called = known()
            assert {run.state.type for run in called} == {StateType.SCHEDULED}
            assert all(run.parameters == {"run_key": "letter@first", "step": 1} for run in called)
            assert [run.name for run in called] == [
                f"letter@first · welcome · email · hand {number} of 2 · SANDBOX" for number in (1, 2)
            ]
            here.send_due(running)
        assert {run.state_name for run in known()} == {"NotNeeded"}
        hands.let_go(running)

    assert _inside(running, body).state_name == "Completed"
    assert len(known()) == 2


@on_one_database
def test_where_nobody_can_be_called_the_campaign_sends_alone(rehearse, prefect, caplog):
    here = rehearse(crowd(2 * WORTH_A_MACHINE), batch=1)
    running = ready(here)
    for run in prefect.read_deployments():
        prefect.delete_deployment(run.id)

    def body() -> None:
        with hands.lent(running, 1):
            here.send_due(running)

    with caplog.at_level(logging.WARNING, logger="prefect.flow_runs"):
        assert _inside(running, body).state_name == "Completed"
    assert "this Prefect server has no deployment dispatch" in caplog.text
    here.require_balance(running)


@on_one_database
def test_a_server_that_is_away_keeps_nobody_from_sending(rehearse):
    here = rehearse(crowd(2 * WORTH_A_MACHINE), batch=1)
    running = ready(here)
    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{free_port()}/api"}), disable_run_logger():
        with hands.lent(running, 1):
            here.send_due(running)
        hands.let_go(running)
    here.require_balance(running)


@on_one_database
def test_a_hand_sends_what_is_due_and_holds_the_run_when_its_provider_refuses_everything(
    rehearse, prefect, monkeypatch
):
    here = rehearse(crowd(3), batch=1)
    running = ready(here)
    _elsewhere(here, monkeypatch)
    monkeypatch.setenv("COMMPLAN_EMAIL__API_KEY", "SG.of-nobody")
    with pytest.raises(RunError, match=r"letter@first is held: .*; mend that and start the same run again"):
        dispatch(run_key="letter@first", step=1)
    assert running.state is RunState.HELD
    assert here.send_due(running).batches == 0
    standstill.resume(here.store, running.run.run_id)
    monkeypatch.setenv("COMMPLAN_EMAIL__API_KEY", here.environment()["COMMPLAN_EMAIL__API_KEY"])
    dispatch(run_key="letter@first", step=1)
    assert len(here.truth()) == 3
    here.require_balance(running)
