"""Every deployment in prefect.yaml can be made: its flow imports and takes the parameters it is given."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
from prefect.client.schemas.objects import StateType
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema

from commplan import planfile
from commplan.errors import InputError
from commplan.ledger.revival import FlowState
from flows.deployment import read_deployments

_ROOT = Path(__file__).resolve().parents[2]
#: What a person, or a campaign, fills in.
_ASKED_FOR = {"run_key": "onboarding@first", "step": 1}
_DEPLOYMENTS = {wanted["name"]: wanted for wanted in read_deployments(_ROOT)}


@pytest.mark.parametrize("name", _DEPLOYMENTS)
def test_the_entrypoint_imports_and_its_parameters_fit(name: str) -> None:
    wanted = _DEPLOYMENTS[name]
    flow = load_flow_from_entrypoint(str(_ROOT / wanted["entrypoint"]))
    given = wanted.get("parameters", {})
    fields = inspect.signature(flow.fn)
    fields.bind_partial(**given)
    flow.validate_parameters({name: value for name, value in _ASKED_FOR.items() if name in fields.parameters} | given)
    if "plan" in given:
        planfile.read_plan(_ROOT / given["plan"])
    described = parameter_schema(flow).model_dump_for_openapi()["properties"]
    assert described.keys() >= given.keys()
    assert all("description" in described[field] for field in described), "the UI's form explains every field"


def test_a_file_without_deployments_is_refused(tmp_path: Path) -> None:
    (tmp_path / "prefect.yaml").write_text("deployments: [", encoding="utf-8")
    with pytest.raises(InputError, match="no readable list of deployments"):
        read_deployments(tmp_path)


def test_upkeep_has_a_pool_of_its_own_and_never_runs_twice_at_once() -> None:
    wanted = _DEPLOYMENTS["upkeep"]
    others = {deployment["work_pool"]["name"] for name, deployment in _DEPLOYMENTS.items() if name != "upkeep"}
    assert wanted["work_pool"]["name"] not in others
    assert wanted["concurrency_limit"] == {"limit": 1, "collision_strategy": "CANCEL_NEW"}


def test_every_state_that_prefect_knows_has_a_meaning_for_a_silent_run() -> None:
    ours = {state.value for state in FlowState} - {FlowState.DELETED.value, FlowState.FOREIGN.value}
    assert ours == {state.value for state in StateType}
