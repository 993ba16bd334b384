"""The inbox: verified posts kept as they came, and applied to the ledger afterwards, each exactly once.

Never parses before a post is durable, and never lets one post that cannot be read hold up the others.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from urllib.parse import urlencode

from sqlalchemy import BigInteger, Connection, Integer, and_, func, insert, or_, select, text, update

from commplan.envelope import InboundText
from commplan.errors import UnreadableError
from commplan.ledger import facts as ledger
from commplan.ledger import feed
from commplan.ledger.facts import Fact
from commplan.receipts import link, mail, sendgrid, twilio
from commplan.receipts.base import Parsed
from commplan.store import Store
from commplan.store.given import given
from commplan.store.tables import inbox, receipts
from commplan.store.types import machine_now
from commplan.terms import ReceiptKind
from commplan.tracking.consequence import follow
from commplan.tracking.placing import Stray, as_stray, believe, place_mail, place_strays, place_text

_LOG = logging.getLogger("commplan.tracking")

#: Most bytes of posts that are applied in one transaction: about a fifth of a second's work.
_CHUNK = 512 * 1024
#: Whoever applies receipts on PostgreSQL takes this lock first, so that two never wait for each other's rows.
_TURN = 0x636F6D6D706C616E
#: Parameter of the receiver's address in which a heartbeat carries its secret name.
BEAT = "beat"
#: Machine seconds until a post that could not be applied is tried again: the first time, and at most.
_FIRST_RETRY, _LAST_RETRY = 10.0, 600.0


class PostKind(StrEnum):
    """What a post of the inbox is, and so how it is read."""

    SENDGRID_EVENTS = "sendgrid.events"
    TWILIO_STATUS = "twilio.status"
    TWILIO_INBOUND = "twilio.inbound"
    SENDGRID_INBOUND = "sendgrid.inbound"
    #: A text that nobody posted to us: it was found in Twilio's list, which tells its time.
    TWILIO_LISTED = "twilio.listed"
    LINK_CLICK = "link.click"


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """Counts of what came of posts: `new` facts, facts already `known`, events of `foreign` systems on the same
    account, `unreadable` ones, and messages `accepted` that nobody knew to be; `kinds` of the new facts.
    """

    posts: int = 0
    new: int = 0
    known: int = 0
    foreign: int = 0
    unreadable: int = 0
    accepted: int = 0
    kinds: Counter[ReceiptKind] = field(default_factory=Counter)

    def __add__(self, other: Applied) -> Applied:
        return Applied(**{name: getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Post:
    inbox_id: int
    received_at: datetime
    parsed: Parsed
    beat: str | None


def append(store: Store, *, kind: PostKind, query: Mapping[str, str], body: bytes) -> int:
    """Keep a verified post and return its inbox id: one INSERT in its own transaction, durable on return."""
    with store.write() as connection:
        found = connection.execute(
            insert(inbox)
            .values(
                kind=kind,
                query=json.dumps(dict(query)),
                body=body,
                received_at=store.clock.now(),
            )
            .returning(inbox.c.inbox_id)
        ).scalar_one()
    return int(found)


def append_listed(store: Store, texts: Iterable[InboundText]) -> int:
    """Keep those texts of Twilio's list that nobody told us of, oldest first; return how many.

    What was posted meanwhile and is not applied yet has been told. Each is durable by itself, as in `append`.
    """
    forms: dict[str, bytes] = {}
    for one in sorted(texts, key=lambda one: one.at):
        fields = {"MessageSid": one.provider_id, "From": one.sender, "Body": one.body, "At": one.at.isoformat()}
        form = urlencode(fields, errors="replace").encode("ascii")
        for receipt in _read(PostKind.TWILIO_LISTED, {}, form).receipts:
            forms[receipt.key] = form
    known = _told(store, list(forms))
    new = [form for key, form in forms.items() if key not in known]
    for form in new:
        append(store, kind=PostKind.TWILIO_LISTED, query={}, body=form)
    return len(new)


def _told(store: Store, keys: Sequence[str]) -> set[str]:
    """Return which facts are known, or wait to be applied; of the latter all texts."""
    texts = inbox.c.kind.in_((PostKind.TWILIO_INBOUND, PostKind.TWILIO_LISTED))
    with store.read() as connection:
        # First what waits: it may be applied in between.
        unread = connection.execute(select(inbox.c.kind, inbox.c.body).where(inbox.c.applied_at.is_(None), texts)).all()
        found = {receipt.key for row in unread for receipt in _read(row.kind, {}, row.body).receipts}
        for at in range(0, len(keys), 500):
            part = receipts.c.receipt_key.in_(keys[at : at + 500])
            found.update(connection.execute(select(receipts.c.receipt_key).where(part)).scalars())
    return found


def waiting(store: Store) -> int:
    """Return how many posts are kept and not applied yet."""
    with store.read() as connection:
        return int(
            connection.execute(select(func.count()).select_from(inbox).where(inbox.c.applied_at.is_(None))).scalar_one()
        )


def apply_inbox(store: Store, *, limit: int = 500, give_way: Callable[[float], None] = lambda seconds: None) -> Applied:
    """Apply up to `limit` waiting posts, oldest first, in short transactions of their own.

    A post's effects and its mark as applied are one transaction, so that a process killed at any moment loses
    nothing and does nothing twice. Several processes may call this at once; each post is applied by one of them.
    A post that cannot be applied (the plan of its run is no longer readable, say) holds up no other, however many
    such posts there are: it is set aside, and tried again after `_FIRST_RETRY`, then ever more seldom. `give_way` is
    called after each transaction, with the machine seconds that it took.
    """
    total, last = Applied(), 0
    while total.posts < limit:
        with store.read() as connection:
            sizes = connection.execute(
                select(inbox.c.inbox_id, func.length(inbox.c.body))
                .where(
                    inbox.c.applied_at.is_(None),
                    or_(inbox.c.retry_machine.is_(None), inbox.c.retry_machine <= machine_now()),
                    inbox.c.inbox_id > last,
                )
                .order_by(inbox.c.inbox_id)
                .limit(limit - total.posts)
            ).all()
        if not sizes:
            break
        last = sizes[-1][0]
        for ids in _chunks([(row[0], row[1]) for row in sizes]):
            began = time.monotonic()
            total += _apply(store, ids)
            give_way(time.monotonic() - began)
    if total.posts:
        _LOG.info(
            "applied posts of providers", extra={name: getattr(total, name) for name in total.__dataclass_fields__}
        )
    return total


def _chunks(sizes: Sequence[tuple[int, int]]) -> Iterator[list[int]]:
    ids: list[int] = []
    held = 0
    for inbox_id, size in sizes:
        if ids and held + size > _CHUNK:
            yield ids
            ids, held = [], 0
        ids.append(inbox_id)
        held += size
    if ids:
        yield ids


def _apply(store: Store, ids: Sequence[int]) -> Applied:
    try:
        return _apply_together(store, _posts(store, ids))
    except Exception as error:  # in whatever way a post is odd, it must not hold up another
        if len(ids) > 1:
            return sum((_apply(store, [inbox_id]) for inbox_id in ids), Applied())
        _LOG.error("cannot apply a post; it waits", extra={"inbox_id": ids[0], "kind": type(error).__name__})
        _set_aside(store, ids[0])
        return Applied()


def _posts(store: Store, ids: Sequence[int]) -> list[_Post]:
    with store.read() as connection:
        rows = connection.execute(select(inbox).where(inbox.c.inbox_id.in_(ids)).order_by(inbox.c.inbox_id)).all()
    queries = [json.loads(row.query) for row in rows]
    return [
        _Post(
            inbox_id=row.inbox_id,
            received_at=row.received_at,
            parsed=_read(row.kind, query, row.body),
            beat=query.get(BEAT),
        )
        for row, query in zip(rows, queries, strict=True)
    ]


def _set_aside(store: Store, inbox_id: int) -> None:
    """Let a post wait that cannot be applied, twice as long as the last time, up to `_LAST_RETRY`."""
    with store.write() as connection:
        here = and_(inbox.c.inbox_id == inbox_id, inbox.c.applied_at.is_(None))
        failures = connection.execute(
            update(inbox).where(here).values(failures=inbox.c.failures + 1).returning(inbox.c.failures)
        ).scalar_one_or_none()
        if failures is not None:
            pause = min(_LAST_RETRY, _FIRST_RETRY * 2.0 ** min(failures - 1, 20))
            connection.execute(update(inbox).where(here).values(retry_machine=machine_now() + pause))


def _apply_together(store: Store, posts: Sequence[_Post]) -> Applied:
    with store.write() as connection:
        take_turn(connection)
        ours = _claim(connection, posts, now=store.clock.now())
        for post in posts:
            if post.beat is not None and post.inbox_id in ours:
                feed.hear(connection, post.beat, post.received_at)
        return _apply_posts(store, connection, [post for post in posts if post.inbox_id in ours])


def take_turn(connection: Connection) -> None:
    """Wait until nobody else is applying what recipients and providers said; held to the end of the transaction.

    SQLite has one writer anyway.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:turn)"), {"turn": _TURN})


def _read(kind: str, query: Mapping[str, str], body: bytes) -> Parsed:
    if kind == PostKind.SENDGRID_EVENTS and BEAT in query:
        # Its events are invented; to us it says that it came.
        return Parsed(receipts=())
    try:
        match kind:
            case PostKind.SENDGRID_EVENTS:
                return sendgrid.parse(body)
            case PostKind.TWILIO_STATUS:
                return Parsed(receipts=(twilio.parse_status(query, twilio.read_form(body)),))
            case PostKind.TWILIO_INBOUND:
                return Parsed(receipts=(twilio.parse_inbound(twilio.read_form(body)),))
            case PostKind.SENDGRID_INBOUND:
                return Parsed(receipts=(mail.parse(body),))
            case PostKind.TWILIO_LISTED:
                return Parsed(receipts=(twilio.parse_listed(twilio.read_form(body)),))
            case PostKind.LINK_CLICK:
                return Parsed(receipts=(link.parse(query),))
    except UnreadableError:
        pass
    return Parsed(receipts=(), unreadable=1)


def _claim(connection: Connection, posts: Sequence[_Post], *, now: datetime) -> set[int]:
    rows = given(
        connection,
        {"inbox_id": BigInteger(), "unreadable": Integer()},
        [(post.inbox_id, post.parsed.unreadable) for post in posts],
    )
    return set(
        connection.execute(
            update(inbox)
            .where(inbox.c.inbox_id == rows.c.inbox_id, inbox.c.applied_at.is_(None))
            .values(applied_at=now, unreadable=rows.c.unreadable)
            .returning(inbox.c.inbox_id)
        ).scalars()
    )


def _apply_posts(store: Store, connection: Connection, posts: Sequence[_Post]) -> Applied:
    placed: list[Fact] = []
    strays: list[Stray] = []
    for post in posts:
        for receipt in post.parsed.receipts:
            at = receipt.at or post.received_at
            ref = store.keyring.open(receipt.token_purpose, receipt.token) if receipt.token else None
            if ref is not None:
                placed.append(Fact(receipt=receipt, ref=ref, at=at, received_at=post.received_at))
            elif receipt.text is not None:
                if receipt.source == "sendgrid":
                    placed.append(place_mail(store, connection, receipt, post.received_at))
                else:
                    placed.append(place_text(store, connection, receipt, at=at, received_at=post.received_at))
            else:
                strays.append(as_stray(store, receipt, post.received_at))
    found = place_strays(connection, strays)
    placed += filter(None, found)
    folded = ledger.apply(connection, placed, now=store.clock.now())
    follow(store, connection, folded.new)
    for stray, fact in zip(strays, found, strict=True):
        # A bounce that is kept for its message to be found says of its address what any other says.
        if fact is None or fact.ref is None:
            believe(connection, stray)
    return Applied(
        posts=len(posts),
        new=len(folded.new),
        known=len(placed) - len(folded.new),
        foreign=found.count(None),
        unreadable=sum(post.parsed.unreadable for post in posts),
        accepted=len(folded.accepted),
        kinds=Counter(fact.receipt.kind for fact in folded.new),
    )
