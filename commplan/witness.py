"""What the sandbox itself counted for a run: the one witness that commplan's own code did not write.

Only for rehearsals; real providers keep no such list. Never changes anything.
"""

from __future__ import annotations

import json
import ssl
from collections import Counter
from functools import cache

import httpx
from sqlalchemy import func, select

from commplan.errors import RunError
from commplan.ids import RunId, TokenPurpose
from commplan.ledger.proof import Check
from commplan.settings import Settings
from commplan.store import Store
from commplan.store.tables import attempts, messages
from commplan.terms import OnUnknown


@cache
def _certificates() -> ssl.SSLContext:
    """Return what a sandbox behind HTTPS is known by; read once, which takes longer than asking."""
    return httpx.create_ssl_context(trust_env=False)


def ask_sandbox(store: Store, settings: Settings, run_id: RunId) -> tuple[Check, ...]:
    """Return the sandbox's count of a run's messages against the ledger's, and its count of repeated ones.

    Nothing when the providers are real. RunError when the sandbox does not answer.
    """
    if settings.provider_kind != "sandbox":
        return ()
    with store.read() as connection:
        # What was sent again on a decision may arrive twice, and is not held against the books.
        decided = set(
            connection.execute(
                select(attempts.c.attempt_id).where(
                    attempts.c.run_id == run_id, attempts.c.decision == OnUnknown.RESEND
                )
            ).scalars()
        )
    found: Counter[int] = Counter()
    repeated = 0
    seen: set[tuple[int, int]] = set()
    try:
        for base_url in {settings.email.base_url, settings.sms.base_url}:
            with httpx.stream(
                "GET", f"{base_url}/sandbox/messages", timeout=30, trust_env=False, verify=_certificates()
            ) as answer:
                for line in answer.iter_lines():
                    args = json.loads(line)["args"]
                    ref = store.keyring.open(TokenPurpose.MESSAGE, args.get("cp_m") or args.get("m") or "")
                    if ref is None or ref.run_id != run_id or (args.get("cp_a") or args.get("a")) in decided:
                        continue
                    repeated += (ref.step_no, ref.seq) in seen
                    seen.add((ref.step_no, ref.seq))
                    found[ref.step_no] += 1
    except (httpx.HTTPError, ValueError, KeyError):
        raise RunError("the sandbox does not answer; start it, or prove with --no-witness") from None
    with store.read() as connection:
        accepted: dict[int, int] = {
            row.step_no: row.n
            for row in connection.execute(
                select(messages.c.step_no, func.count().label("n"))
                .where(messages.c.run_id == run_id, messages.c.accepted_at.is_not(None))
                .group_by(messages.c.step_no)
            )
        }
    return (
        Check(what="messages the sandbox accepted twice", expected=0, found=repeated),
        *(
            Check(
                what=f"step {step_no}: accepted in the ledger = accepted by the sandbox",
                expected=accepted.get(step_no, 0),
                found=found[step_no],
            )
            for step_no in sorted(set(accepted) | set(found))
        ),
    )
