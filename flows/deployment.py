"""Putting the deployments of ``prefect.yaml`` on a Prefect server, and starting one of them.

``python -m flows.deployment [NAME …]`` makes the work pools and every deployment, or those named, again if they are
there, and prints their ids as one JSON line. One process with one client: the same by Prefect's command line takes
several times as long.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any
from uuid import UUID

import yaml
from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate
from prefect.client.schemas.objects import ConcurrencyOptions
from prefect.exceptions import ObjectAlreadyExists
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema

from commplan.errors import InputError

_LOG = logging.getLogger("commplan.deployment")


def read_deployments(root: Path) -> list[dict[str, Any]]:
    """Return the deployments of ``prefect.yaml`` in a project folder; InputError when it cannot be read."""
    path = root / "prefect.yaml"
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))["deployments"]
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        raise InputError.one(str(path), "the file has no readable list of deployments", "restore it") from None
    return list(found)


def deploy(client: SyncPrefectClient, root: Path, *, only: Collection[str] = ()) -> dict[str, UUID]:
    """Create or update the work pools and deployments of a project; return the deployments' ids by name.

    `only`: the deployments of these names; none: all of them. A deployment carries the documentation of its flow and
    the schema of its parameters, so the UI shows a form.
    """
    ids = {}
    for wanted in read_deployments(root):
        if only and wanted["name"] not in only:
            continue
        pool = wanted["work_pool"]["name"]
        try:
            client.create_work_pool(WorkPoolCreate(name=pool, type="process"))
        except ObjectAlreadyExists:
            _LOG.debug("the work pool is there", extra={"pool": pool})
        entrypoint: str = wanted["entrypoint"]
        flow: Flow[Any, Any] = load_flow_from_entrypoint(str(root / entrypoint))
        ids[wanted["name"]] = client.create_deployment(
            flow_id=client.create_flow(flow),
            name=wanted["name"],
            parameters=wanted.get("parameters", {}),
            description=wanted.get("description") or flow.description,
            tags=wanted.get("tags", []),
            work_pool_name=pool,
            schedules=[_schedule(given) for given in wanted.get("schedules", [])],
            **_limit(wanted.get("concurrency_limit")),
            entrypoint=entrypoint,
            parameter_openapi_schema=parameter_schema(flow).model_dump_for_openapi(),
            enforce_parameter_schema=True,
            pull_steps=[{"prefect.deployments.steps.set_working_directory": {"directory": str(root)}}],
        )
    return ids


def _schedule(given: dict[str, Any]) -> DeploymentScheduleCreate:
    schedule = {name: value for name, value in given.items() if name not in ("active", "slug")}
    return DeploymentScheduleCreate(schedule=schedule, active=given.get("active", True), slug=given.get("slug"))


def _limit(given: int | dict[str, Any] | None) -> dict[str, Any]:
    if not isinstance(given, dict):
        return {"concurrency_limit": given}
    options = ConcurrencyOptions(collision_strategy=given["collision_strategy"])
    return {"concurrency_limit": given["limit"], "concurrency_options": options}


def main() -> None:
    """Deploy the project that this file belongs to."""
    with get_client(sync_client=True) as client:
        ids = deploy(client, Path(__file__).resolve().parent.parent, only=sys.argv[1:])
    sys.stdout.write(json.dumps({"deployments": {name: str(found) for name, found in ids.items()}}) + "\n")


if __name__ == "__main__":
    main()
