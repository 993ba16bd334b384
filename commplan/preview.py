"""Previews: every message of a plan, for the invented people of ``sample.yaml`` beside it.

Never looks at the audience; what is shown could be shown to anybody.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from commplan import yamlfile
from commplan.content import Library, TemplateFault, fill
from commplan.content.source import ContentName
from commplan.errors import Finding, InputError
from commplan.plan import Plan, Touch
from commplan.terms import Channel

#: The file with the invented people, beside the plan.
SAMPLE_FILE = "sample.yaml"
_LINKS = {
    name: f"https://www.example.com/{path}/sample"
    for name, path in (("unsubscribe", "u"), ("preferences", "p"), ("stranger", "w"), ("survey", "s"), ("rsvp", "r"))
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One message as an invented person would get it."""

    step: str
    segment: str | None
    channel: Channel
    content: str
    locale: str
    subject: str
    text: str
    html: str
    parts: int | None

    @property
    def file_name(self) -> str:
        """A name for the HTML of this message."""
        return f"{self.step}.{self.content}.{self.locale}.html"

    def as_text(self) -> str:
        """Return the message for a terminal."""
        head = f"── {self.step} · {self.channel} · {self.content} · {self.locale}"
        if self.segment is not None:
            head += f" · segment {self.segment}"
        if self.parts is not None:
            head += f" · {self.parts} SMS part{'s' if self.parts != 1 else ''}"
        subject = f"Subject: {self.subject}\n\n" if self.subject else ""
        return f"{head}\n{subject}{self.text.strip()}\n"


def read_people(folder: Path) -> dict[str, dict[str, str]]:
    """Return the invented people of a scenario's folder by language; nobody where there is no file."""
    path = folder / SAMPLE_FILE
    if not path.exists():
        return {}
    root = yamlfile.parse(yamlfile.read_text(path), str(path)).root
    people = {}
    for locale, columns in root.items() if isinstance(root, dict) else ():
        if isinstance(columns, dict):
            people[locale] = {name: str(value) for name, value in columns.items()}
    if not people or len(people) != len(root):
        raise InputError.one(str(path), "it is not one person for each language", "write en: {first_name: Ada}")
    return people


def _segments(plan: Plan) -> list[str | None]:
    names: list[str | None] = [segment.name for segment in plan.audience.segments]
    everybody = any(segment.condition is None for segment in plan.audience.segments)
    return names if everybody else [*names, None]


def _locales(files: Mapping[str, str], touch: Touch) -> list[str]:
    names = (ContentName.parse(file) for file in files)
    return sorted({n.locale for n in names if n and n.channel is touch.channel and n.content == touch.content})


def previews(plan: Plan, files: Mapping[str, str], people: Mapping[str, Mapping[str, str]]) -> Iterator[Sample]:
    """Yield every different message of a plan: step by step, content by content, language by language.

    Raises InputError with every fault of every template, after all were tried.
    """
    library = Library(plan, files, "cp-preview-")
    faults: list[Finding] = []
    seen: set[tuple[int, str, str]] = set()
    for step_no in range(1, len(plan.sequence) + 1):
        for segment in _segments(plan):
            touch = plan.touch(step_no, segment)
            for locale in _locales(files, touch):
                if touch.skip or (step_no, touch.content, locale) in seen:
                    continue
                seen.add((step_no, touch.content, locale))
                person = people.get(locale) or people.get(locale.split("-")[0]) or people.get(plan.locale) or {}
                columns = {name: int(value) if value.isdecimal() else value for name, value in person.items()}
                try:
                    rendered = library.render(
                        touch,
                        locale=locale,
                        columns=columns,
                        contact={"id": "0", "locale": locale, "segment": segment},
                        links=_LINKS,
                    )
                except TemplateFault as fault:
                    faults.append(fault.finding)
                    continue
                finished = rendered.skeleton
                subject, text, html = (
                    fill(part, finished.placeholders, rendered.values)
                    for part in (finished.subject, finished.text, finished.html)
                )
                yield Sample(
                    step=touch.step,
                    segment=segment,
                    channel=touch.channel,
                    content=touch.content,
                    locale=locale,
                    subject=subject,
                    text=text,
                    html=html,
                    parts=rendered.parts,
                )
    if faults:
        raise InputError(list(dict.fromkeys(faults)))
