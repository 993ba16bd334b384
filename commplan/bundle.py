"""What a run freezes when it first starts: the plan and everything else that decides what it sends.

Reads files and settings, and asks the source; writes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from commplan import condition as conditions
from commplan import contacts, content, letterhead, planfile, pricing, trial, yamlfile
from commplan.channels.base import open_gateways
from commplan.condition import claims
from commplan.errors import Finding, InputError, UnreachableError
from commplan.ledger.run import PLAN_FILE
from commplan.plan import Plan
from commplan.settings import Settings, kind_of
from commplan.terms import Channel, Metric
from commplan.trial import Trial

#: Its name among a run's frozen files.
PRICES_FILE = "prices.yaml"


def read_files(path: Path, settings: Settings) -> tuple[Plan, dict[str, str]]:
    """Return a plan and everything that decides what its runs send: itself, templates, prices, sender.

    Raises InputError with all findings of plan, templates and prices.
    """
    plan = planfile.read_plan(path)
    files = content.read_templates(plan, path.parent, settings.templates / "shared")
    files[PLAN_FILE] = yamlfile.read_text(path)
    if uncounted := list(_uncounted(path, plan, files)):
        raise InputError(planfile.locate(uncounted, files[PLAN_FILE], str(path)))
    try:
        files[PRICES_FILE] = settings.prices.read_text(encoding="utf-8")
    except OSError:
        raise InputError.one(str(settings.prices), "the price file cannot be read", "set COMMPLAN_PRICES") from None
    pricing.read_prices(files[PRICES_FILE], str(settings.prices))
    files[letterhead.FILE] = letterhead.written(settings)
    return plan, files


def _uncounted(path: Path, plan: Plan, files: Mapping[str, str]) -> Iterator[Finding]:
    """Yield where a plan asks for clicks of texts that have no link whose clicks are counted."""
    asked = [
        (f"sequence[{number}].when", str(claim), [plan.step_number(claim.subject)])
        for number, step in enumerate(plan.sequence)
        if step.condition is not None
        for claim in conditions.claims(step.condition)
        if claim.verb == "clicked"
    ]
    every = list(range(1, len(plan.sequence) + 1))
    asked += [
        (f"goals[{number}].metric", goal.metric, every if goal.step is None else [plan.step_number(goal.step)])
        for number, goal in enumerate(plan.goals)
        if goal.metric == Metric.CLICK_RATE
    ]
    for field, what, steps in asked:
        if not any(content.counts_clicks(plan, files, step_no) for step_no in steps):
            yield Finding(
                place=str(path),
                field=field,
                rule=f"{what}: no text that it is about has a link whose clicks are counted",
                remedy="print the link as {{ … | short }}",
            )


def require_feed(path: Path, plan: Plan, files: Mapping[str, str], settings: Settings) -> None:
    """Refuse a plan whose conditions rest on what could never reach us.

    Steps that rest on silence, where providers cannot tell us what people do, and answers by mail, where nothing takes
    them. Raises InputError at the `when` of every such step.
    """
    why, findings = why_unheard(settings), []
    for number, step in enumerate(plan.sequence):
        place, field = str(path), f"sequence[{number}].when"
        if why is not None and any(claim.verb != "converted" for claim in step.silences):
            remedy = "set COMMPLAN_PUBLIC_URL to the https address under which `commplan serve` is reached from outside"
            findings.append(Finding(place=place, field=field, rule=f"rests on silence, and {why}", remedy=remedy))
        asked = () if step.condition is None or settings.email.inbound_domain is not None else claims(step.condition)
        findings.extend(
            Finding(
                place=place,
                field=field,
                rule=f"{claim}: answers by mail go to the sender's mailbox, where nobody counts them",
                remedy="set COMMPLAN_EMAIL__INBOUND_DOMAIN, or ask for opened, clicked or responded",
            )
            for claim in asked
            if claim.verb == "replied" and plan.channels_of(plan.step_number(claim.subject)) == [Channel.EMAIL]
        )
    if findings:
        raise InputError([planfile.locate([finding], files[PLAN_FILE], str(path))[0] for finding in findings])


def why_unheard(settings: Settings) -> str | None:
    """Return why providers cannot reach the receiver at its public address; None if nothing speaks against it."""
    url = settings.public_url
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        return "COMMPLAN_PUBLIC_URL is no address"
    live = "live" in (kind_of(settings.email.base_url), kind_of(settings.sms.base_url))
    if live and (kind_of(url) == "sandbox" or parts.scheme != "https"):
        return f"{url} cannot be reached from outside, or is not https"
    return None


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


def source_url(plan: Plan, settings: Settings, environ: Mapping[str, str] = os.environ) -> str:
    """Return the URL of the database that a plan's people come from; it may carry a password.

    UnreachableError when its variable is not set, or nobody was imported under its name.
    """
    source = plan.audience.source
    if source.url is not None:
        name = source.url.removeprefix("env:")
        if url := environ.get(name):
            return url
        raise UnreachableError.one(plan.plan, f"{name} is not set", "set it in the environment", "audience.source.url")
    if source.contacts is not None and not contacts.is_imported(settings.home, source.contacts):
        raise UnreachableError.one(
            plan.plan,
            f"nobody is imported as {source.contacts!r}",
            f"run commplan contacts import FILE --people {source.contacts}",
            "audience.source.contacts",
        )
    return contacts.source_url(settings.home)


def try_source(
    path: Path, plan: Plan, files: Mapping[str, str], settings: Settings, environ: Mapping[str, str] = os.environ
) -> Trial:
    """Ask a plan's database what it says of the plan, as `trial.try_source` does; findings with line and column."""

    def located(findings: Iterable[Finding]) -> tuple[Finding, ...]:
        return tuple(planfile.locate(findings, files[PLAN_FILE], str(path)))

    try:
        tried = trial.try_source(plan, source_url=source_url(plan, settings, environ))
    except InputError as error:
        raise type(error)(located(error.findings)) from None
    return replace(tried, findings=located(tried.findings), advice=located(tried.advice))


def require_source(path: Path, plan: Plan, files: Mapping[str, str], settings: Settings) -> None:
    """Refuse a plan that its database cannot answer; InputError with every finding at its line and column."""
    if findings := try_source(path, plan, files, settings).findings:
        raise InputError(findings)
