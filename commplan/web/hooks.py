"""Where providers post: see that it is them, keep what they said, answer.

Never applies anything and never parses more than it must: a post is durable before its 2xx, and what it means is
worked out afterwards.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from hashlib import sha256

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from commplan import tracking
from commplan.errors import ForgedError, UnreadableError
from commplan.receipts import mail, sendgrid, twilio
from commplan.settings import Settings
from commplan.store import Store
from commplan.tracking import PostKind
from commplan.web.priority import Priority

_LOG = logging.getLogger("commplan.web")

#: An answer that says nothing: the provider answers keywords itself, and a second answer would cost and confuse.
_NO_ANSWER = '<?xml version="1.0" encoding="UTF-8"?><Response/>'


class Hooks:
    """The endpoints that providers post to. `on_post` is called after a post was kept; it must return at once.

    `priority` is held while a post is kept.
    """

    def __init__(self, store: Store, settings: Settings, *, priority: Priority, on_post: Callable[[], None]) -> None:
        self._store = store
        self._public_urls = (settings.public_url, *settings.earlier_public_urls)
        self._public_keys = settings.email.webhook_keys
        self._inbound_keys = settings.email.inbound_keys
        tokens = (settings.sms.auth_token, *settings.sms.earlier_auth_tokens)
        self._auth_tokens = [token.get_secret_value() for token in tokens if token is not None]
        self._priority = priority
        self._on_post = on_post

    async def sendgrid_events(self, request: Request) -> Response:
        """Take a batch of SendGrid's events."""
        return await self._take(request, self._check_sendgrid, PostKind.SENDGRID_EVENTS, Response(status_code=204))

    async def sendgrid_inbound(self, request: Request) -> Response:
        """Take a mail that a person, or a machine, wrote."""
        return await self._take(request, self._check_mail, PostKind.SENDGRID_INBOUND, Response(status_code=200))

    async def twilio_status(self, request: Request) -> Response:
        """Take one of Twilio's status callbacks."""
        return await self._take(request, self._check_twilio, PostKind.TWILIO_STATUS, Response(status_code=204))

    async def twilio_inbound(self, request: Request) -> Response:
        """Take a text that a person wrote, and answer nothing."""
        answer = Response(_NO_ANSWER, media_type="text/xml")
        return await self._take(request, self._check_twilio, PostKind.TWILIO_INBOUND, answer)

    async def _take(
        self, request: Request, check: Callable[[Request, bytes, PostKind], None], kind: PostKind, answer: Response
    ) -> Response:
        if request.headers.get("content-encoding", "identity") != "identity":
            return PlainTextResponse("send it uncompressed\n", status_code=415)
        body = await request.body()
        return await run_in_threadpool(self._keep, request, body, check, kind, answer)

    def _keep(
        self,
        request: Request,
        body: bytes,
        check: Callable[[Request, bytes, PostKind], None],
        kind: PostKind,
        answer: Response,
    ) -> Response:
        try:
            check(request, body, kind)
        except ForgedError as error:
            request.state.why = error.why
            if not getattr(request.state, "is_limited", False):
                _LOG.warning("refused a post", extra={"post": kind.value, "why": str(error)})
            return PlainTextResponse("not signed\n", status_code=403)
        except UnreadableError as error:
            digest = sha256(body).hexdigest()[:12]
            _LOG.warning("cannot read a post", extra={"post": kind.value, "digest": digest, "why": str(error)})
            return PlainTextResponse("not readable\n", status_code=400)
        # Attachments are nobody's business here, and may be large.
        kept = mail.strip_files(body) if kind is PostKind.SENDGRID_INBOUND else body
        with self._priority:
            tracking.append(self._store, kind=kind, query=dict(request.query_params), body=kept)
        self._on_post()
        return answer

    def _check_sendgrid(self, request: Request, body: bytes, kind: PostKind) -> None:
        sendgrid.verify(body, request.headers, self._public_keys)
        sendgrid.load(body)

    def _check_mail(self, request: Request, body: bytes, kind: PostKind) -> None:
        sendgrid.verify(body, request.headers, self._inbound_keys, of="Inbound Parse", setting="INBOUND_KEYS")
        mail.load(body)

    def _check_twilio(self, request: Request, body: bytes, kind: PostKind) -> None:
        # The address that the provider was told, not the one a proxy passed on; its query string byte for byte. A run
        # tells the one that it was started with.
        query = request.scope["query_string"].decode("latin-1")
        asked = request.url.path + (f"?{query}" if query else "")
        twilio.verify([url + asked for url in self._public_urls], body, request.headers, self._auth_tokens)
        form = twilio.read_form(body)
        if kind is PostKind.TWILIO_STATUS:
            twilio.parse_status(request.query_params, form)
        else:
            twilio.parse_inbound(form)
