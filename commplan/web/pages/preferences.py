"""The preference page: which topics on which channels, a pause, and nothing at all."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response

from commplan import tracking
from commplan.terms import Channel
from commplan.tracking import PAUSE
from commplan.web.pages.desk import Desk


class Preferences:
    """Shows what somebody gets from us, and makes of it what they want."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def answer(self, request: Request, token: str, form: Mapping[str, str] | None) -> Response:
        """Show the choices as they are, or make the one that was pressed."""
        store = self._desk.store
        now = tracking.preferences(store, token)
        if now is None:
            return self._desk.gone(request)
        result = None
        if form is not None:
            result = self._act(request, now, token, form)
            now = tracking.preferences(store, token) or now
        rows = [
            {
                "name": topic.name,
                "title": self._desk.topic(request, now.visit, topic.name, topic.title),
                "cells": [(channel.value, topic.cells.get(channel)) for channel in Channel],
            }
            for topic in now.topics
        ]
        until = now.paused_until
        return self._desk.show(
            request,
            "preferences.html.j2",
            visit=now.visit,
            channels=[channel.value for channel in Channel],
            rows=rows,
            closed=sorted({cell.closed for topic in now.topics for cell in topic.cells.values() if cell.closed}),
            is_stopped=now.is_stopped,
            paused_until=None
            if until is None
            else self._desk.day(request, now.visit, until.astimezone(now.visit.zone).date()),
            days=PAUSE.days,
            result=result,
        )

    def _act(self, request: Request, now: tracking.Preferences, token: str, form: Mapping[str, str]) -> str | None:
        store, desk, visit = self._desk.store, self._desk, now.visit
        match form.get("do"):
            case "save":
                tracking.choose(store, token, _wanted(form), said=self._shown(request, now, form))
                return "saved"
            case "pause":
                tracking.pause(store, token, said=desk.word(request, visit, "pause_text", days=PAUSE.days))
                return "paused"
            case "resume":
                tracking.resume(store, token, said=desk.word(request, visit, "resume_button"))
                return "resumed"
            case "stop":
                tracking.stop(store, token, said=desk.word(request, visit, "stop_all_text"))
                return "stopped"
            case "unstop":
                tracking.unstop(store, token, said=desk.word(request, visit, "unstop_button"))
                return "unstopped"
        return None

    def _shown(self, request: Request, now: tracking.Preferences, form: Mapping[str, str]) -> str:
        """Return what the person was asked and what they ticked, as the page said it."""
        wanted, shown = _wanted(form), []
        for topic in now.topics:
            title = self._desk.topic(request, now.visit, topic.name, topic.title)
            for channel in topic.cells:
                if (choice := wanted.get((topic.name, channel))) is not None:
                    way = self._desk.word(request, now.visit, f"way_{channel}")
                    shown.append(f"{'☑' if choice else '☐'} {title} · {way}")
        return " ".join([self._desk.word(request, now.visit, "preferences_text"), "; ".join(shown)])


def _wanted(form: Mapping[str, str]) -> dict[tuple[str, Channel], bool]:
    """Return what was ticked of what was shown: each box has a field of its own for being empty."""
    wanted = {}
    for name, value in form.items():
        kind, _, rest = name.partition(":")
        topic, _, channel = rest.rpartition(":")
        if kind == "get" and channel in tuple(Channel) and topic:
            wanted[topic, Channel(channel)] = value == "yes"
    return wanted
