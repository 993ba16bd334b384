"""The pages that recipients see, in their language, readable on a phone and without a mouse.

Never acts on a GET or a HEAD (scanners follow links), never shows an address, never asks another server for anything.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from commplan.settings import Settings
from commplan.store import Store
from commplan.web.pages.desk import LANGUAGES, Desk, language_of, localized
from commplan.web.pages.feedback import Feedback
from commplan.web.pages.optout import OptOut
from commplan.web.pages.preferences import Preferences
from commplan.web.pages.rsvp import Rsvp
from commplan.web.pages.stranger import Stranger
from commplan.web.pages.survey import Survey

__all__ = ["LANGUAGES", "Pages", "language_of", "localized"]


class Pages:
    """The endpoints that people reach. `style_hash` is what the content security policy allows as style."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._desk = desk = Desk(store, settings)
        self.style_hash = desk.style_hash
        self.routes = [
            Route(f"/{path}/{{token}}", desk.endpoint(page), methods=["GET", "POST"])
            for path, page in (
                ("u", OptOut(desk)),
                ("p", Preferences(desk)),
                ("s", Survey(desk)),
                ("r", Rsvp(desk)),
                ("w", Stranger(desk)),
            )
        ]
        self.routes.append(Route("/f/{token}", desk.endpoint(Feedback(desk)), methods=["GET"]))

    def not_found(self, request: Request) -> Response:
        """Say kindly that there is nothing here."""
        return self._desk.gone(request)

    def over(self, request: Request) -> Response:
        """Say kindly that what was here is over."""
        return self._desk.gone(request, status=410)

    def busy(self, request: Request) -> Response:
        """Say kindly that this was too often."""
        return self._desk.show(request, "busy.html.j2", status=429)
