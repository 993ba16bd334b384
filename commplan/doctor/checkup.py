"""Whether an installation is fit to send: one line for each thing it needs, with the remedy where it lacks it.

Opens a connection to each provider, reads what it is set up with, and sends nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from commplan.batching import last_passed, why_unbatched
from commplan.bundle import why_unheard
from commplan.channels.base import open_gateways
from commplan.errors import CommplanError, DeliveryError, InputError
from commplan.fence import reachable
from commplan.ledger.standstill import stop_in_force
from commplan.pull import standing
from commplan.pulse import EVENTS_PATH, hook_at, missing_events
from commplan.returnaddress import INBOUND_PATH
from commplan.settings import Settings, kind_of
from commplan.store import Store, open_store
from commplan.terms import Channel

#: Upkeep reads them every quarter of an hour.
LISTS_ARE_LATE = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at: what was found, and what to do if it is not right."""

    what: str
    found: str
    remedy: str = ""


def examine(settings: Settings) -> list[Check]:
    """Return what there is to say of an installation, in the order in which it is set up."""
    checks = []
    try:
        store = open_store(settings, create=False)
    except CommplanError as error:
        checks.append(_lacking("store", error))
    else:
        checks += _of_store(store, settings)
        store.dispose()
    providers = {channel: _provider(settings, channel) for channel in Channel}
    checks += [*providers.values(), *_receiver(settings)]
    # One that cannot be reached has been named already.
    if providers[Channel.EMAIL].remedy:
        return checks
    return [*checks, _events(settings), *([_answers(settings)] if settings.email.inbound_domain else [])]


def _of_store(store: Store, settings: Settings) -> Iterator[Check]:
    yield Check(what="store", found="for rehearsals" if store.is_sandbox else "live")
    with store.read() as connection:
        stopped = stop_in_force(connection)
    if stopped is not None:
        yield Check(what="stop", found=f"{stopped.what} by {stopped.by}", remedy=stopped.remedy)
    allowed = reachable(store, settings, live=True)
    if store.is_sandbox:
        yield Check(what="fence", found="nobody is reached")
    elif allowed is None:
        yield Check(what="fence", found="plans that say live: true write to everybody")
    else:
        yield Check(
            what="fence",
            found=f"only the {len(allowed)} addresses of the allow list may be written to",
            remedy="for real sending set COMMPLAN_LIVE to the name that the store was created under",
        )
    if settings.email.batching == "off":
        yield Check(what="batching", found="off, as COMMPLAN_EMAIL__BATCHING says: a request for each email")
    elif (reason := why_unbatched(store, settings)) is not None:
        found, _, remedy = reason.partition("; ")
        yield Check(what="batching", found=found, remedy=remedy)
    elif store.is_sandbox or (proven := last_passed(store, settings)) is None:
        yield Check(what="batching", found="on, as always in rehearsals")
    else:
        yield Check(what="batching", found=f"proven {proven.passed_at:%Y-%m-%d} by {proven.passed_by}")
    yield _lists(store)


def _lists(store: Store) -> Check:
    """Say when SendGrid's suppression lists were last read to their end, the one longest ago."""
    what, found = "lists", standing(store)
    broken = next((one for one in found if one.failure is not None), None)
    if broken is not None and broken.failure is not None:
        why, _, remedy = broken.failure.partition("; ")
        last = "never read" if broken.pulled_at is None else f"last read {broken.pulled_at:%Y-%m-%d %H:%M} UTC"
        return Check(what=what, found=f"{broken.name}: {last}; {why}", remedy=remedy or "upkeep asks again in a minute")
    read = [one.pulled_at for one in found if one.pulled_at is not None]
    if len(read) < len(found):
        return Check(what=what, found="SendGrid's are not read yet; upkeep reads them")
    last = f"SendGrid's last read {min(read):%Y-%m-%d %H:%M} UTC"
    late = store.clock.now() - min(read) > LISTS_ARE_LATE
    return Check(what=what, found=last, remedy="see that upkeep runs (commplan up)" if late else "")


def _provider(settings: Settings, channel: Channel) -> Check:
    named = "SendGrid" if channel is Channel.EMAIL else "Twilio"
    base_url = (settings.email if channel is Channel.EMAIL else settings.sms).base_url
    try:
        gateways = open_gateways(settings, channels=[channel])
    except InputError as error:
        return _lacking(named, error)
    try:
        (gateways.email if channel is Channel.EMAIL else gateways.sms).connect()
    except DeliveryError as error:
        what = "start `commplan sandbox`" if kind_of(base_url) == "sandbox" else "see to the network"
        return Check(what=named, found=f"{base_url}: {error.reason}", remedy=what)
    finally:
        gateways.close()
    return Check(what=named, found=f"credentials are set, and {base_url} takes connections")


def _receiver(settings: Settings) -> Iterator[Check]:
    url = settings.public_url
    if (why := why_unheard(settings)) is not None:
        yield Check(
            what="receiver",
            found=why,
            remedy="set COMMPLAN_PUBLIC_URL to the address under which recipients reach `commplan serve`",
        )
    else:
        yield Check(what="receiver", found=url)
    if settings.email.webhook_keys:
        yield Check(what="event webhook", found="its posts can be verified")
    else:
        yield Check(
            what="event webhook",
            found="no key is set, so its posts are refused",
            remedy="sign it in the SendGrid console, and set COMMPLAN_EMAIL__WEBHOOK_KEYS",
        )


def _events(settings: Settings) -> Check:
    """Look whether SendGrid posts to our receiver all that says how messages fared and what people did."""
    what, url = "event types", settings.public_url.rstrip("/") + EVENTS_PATH
    gateways = open_gateways(settings, channels=[Channel.EMAIL])
    try:
        hook = hook_at(gateways.email.event_hooks(), url)
    except DeliveryError as error:
        found, _, remedy = error.reason.partition("; ")
        return Check(what=what, found=found, remedy=remedy or "ask again in a while")
    finally:
        gateways.close()
    if hook is None:
        remedy = "add it under Settings › Mail Settings › Event Webhooks in the SendGrid console, and switch it on"
        return Check(what=what, found=f"no event webhook of the account posts to {url}", remedy=remedy)
    if missing := missing_events(hook):
        return Check(what=what, found=f"{', '.join(missing)} are off", remedy="switch them on in the SendGrid console")
    if hook.public_key not in settings.email.webhook_keys:
        remedy = "add the key that the SendGrid console shows to COMMPLAN_EMAIL__WEBHOOK_KEYS"
        return Check(what=what, found="all are on, and signed with a key that is not ours", remedy=remedy)
    return Check(what=what, found="all are on")


def _answers(settings: Settings) -> Check:
    """Look whether SendGrid posts what people answer by mail to our receiver, and reads it for us."""
    what, url = "answers by mail", settings.public_url.rstrip("/") + INBOUND_PATH
    host = (settings.email.inbound_domain or "").casefold()
    gateways = open_gateways(settings, channels=[Channel.EMAIL])
    try:
        hook = next((one for one in gateways.email.inbound_hooks() if one.host.casefold() == host), None)
    except DeliveryError as error:
        found, _, remedy = error.reason.partition("; ")
        return Check(what=what, found=found, remedy=remedy or "ask again in a while")
    finally:
        gateways.close()
    where = "under Settings › Inbound Parse in the SendGrid console"
    if hook is None:
        return Check(what=what, found=f"Inbound Parse does not know {host}", remedy=f"add it {where}, with {url}")
    if hook.url.rstrip("/") != url:
        return Check(what=what, found=f"mail to {host} is posted to {hook.url}", remedy=f"let it lead to {url} {where}")
    if hook.is_raw:
        found = f"mail to {host} is posted as raw MIME, which is not read"
        return Check(what=what, found=found, remedy=f"switch “POST the raw, full MIME message” off {where}")
    return Check(what=what, found=f"mail to {host} is posted to us")


def _lacking(what: str, error: CommplanError) -> Check:
    """Return an error as a check: what it says up to its last semicolon, and the remedy after that."""
    if isinstance(error, InputError):
        findings = error.findings
        found = ", ".join(f"{finding.place} {finding.rule}" for finding in findings)
        return Check(what=what, found=found, remedy=", ".join(finding.remedy for finding in findings))
    found, _, remedy = str(error).rpartition("; ")
    return Check(what=what, found=found or remedy, remedy=remedy)
