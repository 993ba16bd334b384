"""The page that an owner's link leads to: what people said in answer to a run, until the link expires.

Never shows an address, never acts, and never asks another server for anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from sqlalchemy import select
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from commplan import feedback
from commplan.errors import InputError
from commplan.evaluation.wording import moment
from commplan.ids import RunId
from commplan.ledger.run import plan_of
from commplan.settings import Settings
from commplan.store import Store
from commplan.store.tables import runs, store_info
from commplan.web.pages import language_of

#: Most of what people said that the page shows.
MOST = 200


class FeedbackPage:
    """The endpoint below ``/f/``."""

    def __init__(self, store: Store, settings: Settings) -> None:
        folder: Path = settings.templates / "shared" / "pages"
        self._store = store
        self._templates = Environment(
            loader=FileSystemLoader(folder),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        with store.read() as connection:
            kind = connection.execute(select(store_info.c.kind)).scalar_one()
        self._templates.globals.update(
            # Our own file, which the pages' policy names by its hash.
            style=Markup((folder / "style.css").read_text(encoding="utf-8")),  # noqa: S704
            sandbox=kind == "sandbox",
            sender=settings.email.from_name,
        )

    async def show(self, request: Request) -> Response:
        """Show what people said, or kindly that the link is over, or that it is none."""
        return await run_in_threadpool(self._show, request)

    def _show(self, request: Request) -> Response:
        link = feedback.open_link(self._store.keyring, request.path_params["token"])
        if link is None:
            return self._page(request, "gone.html.j2", status=404)
        if link.is_over:
            return self._page(request, "feedback_over.html.j2", status=410)
        found = self._found(link.run_id)
        if found is None:
            return self._page(request, "gone.html.j2", status=404)
        return self._page(request, "feedback.html.j2", values=found)

    def _found(self, run_id: RunId) -> dict[str, object] | None:
        """Return what the page shows of a run; None if the store has no such run, or cannot read its plan any more."""
        with self._store.read() as connection:
            run_key = connection.execute(select(runs.c.run_key).where(runs.c.run_id == run_id)).scalar_one_or_none()
            if run_key is None:
                return None
            try:
                plan = plan_of(connection, run_id)
            except InputError:
                return None
            items = feedback.find(connection, run_id, limit=MOST)
        shown = [(item, moment(item.at, plan.zone)) for item in items]
        return {"run_key": run_key, "title": plan.title, "items": shown, "most": MOST}

    def _page(
        self, request: Request, template: str, *, status: int = 200, values: Mapping[str, object] | None = None
    ) -> Response:
        language = language_of(request.query_params.get("lang"), request.headers.get("accept-language"))
        page = self._templates.get_template(template)
        return HTMLResponse(page.render(language=language, **(values or {})), status_code=status)
