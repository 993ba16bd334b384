"""What a run freezes when it first starts: the plan and everything else that decides what it sends.

Reads files and settings; writes nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from commplan import content, planfile, pricing, yamlfile
from commplan.channels.base import open_gateways
from commplan.errors import InputError
from commplan.ledger.run import PLAN_FILE
from commplan.plan import Plan
from commplan.settings import Settings

#: Names in a run's frozen files, besides the plan and its templates.
PRICES_FILE = "prices.yaml"
SENDER_FILE = "sender.json"


def read_files(path: Path, settings: Settings) -> tuple[Plan, dict[str, str]]:
    """Return a plan and everything that decides what its runs send: itself, templates, prices, sender.

    Raises InputError with all findings of plan, templates and prices.
    """
    plan = planfile.read_plan(path)
    files = content.read_templates(plan, path.parent, settings.templates / "shared")
    files[PLAN_FILE] = yamlfile.read_text(path)
    try:
        files[PRICES_FILE] = settings.prices.read_text(encoding="utf-8")
    except OSError:
        raise InputError.one(str(settings.prices), "the price file cannot be read", "set COMMPLAN_PRICES") from None
    pricing.read_prices(files[PRICES_FILE], str(settings.prices))
    sender = {
        "public_url": settings.public_url,
        "from_address": settings.email.from_address,
        "from_name": settings.email.from_name,
        "from_number": settings.sms.from_number,
    }
    files[SENDER_FILE] = json.dumps(sender, sort_keys=True)
    return plan, files


def require_ready(plan: Plan, settings: Settings, environ: Mapping[str, str] = os.environ) -> None:
    """Refuse, before anything is read or sent, a run that could not be carried through.

    Raises InputError naming every variable that is missing: the plan's own, and the providers' keys.
    """
    findings = list(planfile.missing_environment(plan, environ))
    try:
        open_gateways(settings, channels=plan.channels).close()
    except InputError as error:
        findings.extend(error.findings)
    if findings:
        raise InputError(findings)


def with_sender(settings: Settings, files: Mapping[str, str]) -> Settings:
    """Return the settings with the sender and the public address that a run was started with."""
    sender = json.loads(files[SENDER_FILE])
    email = {"from_address": sender["from_address"], "from_name": sender["from_name"]}
    return settings.model_copy(
        update={
            "public_url": sender["public_url"],
            "email": settings.email.model_copy(update=email),
            "sms": settings.sms.model_copy(update={"from_number": sender["from_number"]}),
        }
    )
