"""Content files: how they are named, how they begin, and finding every one that a plan needs.

Reads from two folders, the plan's own and the shared one, and from nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from commplan.content import locale
from commplan.content.grammar import inspect, prints_short
from commplan.errors import Finding, InputError
from commplan.plan import Plan
from commplan.terms import Channel

#: Most characters in one template file.
MAX_FILE = 500_000
#: Prefix of the names of files in the shared folder.
SHARED = "shared/"

_NAME = re.compile(
    rf"(?:{SHARED})?(?P<content>[a-z][a-z0-9-]*)\.(?P<channel>email|sms)\.(?P<locale>{locale.TAG.pattern})"
    r"\.(?P<kind>mjml|html|txt)\.j2"
)
_PATH = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9._-]*/)*[A-Za-z0-9][A-Za-z0-9._-]*")
_FIELD = re.compile(r"\s*([A-Za-z_-]+)\s*:\s*(.*?)\s*")
_KEYS = ("subject", "preheader")


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentName:
    """What a content file's name says."""

    file: str
    content: str
    channel: Channel
    locale: str
    kind: str

    @classmethod
    def parse(cls, file: str) -> ContentName | None:
        """Return what a logical name such as ``welcome.email.en.mjml.j2`` says, None for layouts and other parts."""
        match = _NAME.fullmatch(file)
        if match is None:
            return None
        return cls(
            file=file,
            content=match["content"],
            channel=Channel(match["channel"]),
            locale=locale.normalise(match["locale"]),
            kind=match["kind"],
        )

    @property
    def is_mail(self) -> bool:
        """Tell whether the file is a mail's HTML part, which begins with front matter."""
        return self.channel is Channel.EMAIL and self.kind != "txt"


def split(file: str, text: str, place: str | None = None) -> tuple[dict[str, str], list[Finding]]:
    """Return the templates that a file holds, by name, and what is wrong with its front matter.

    A mail gives ``file``, ``file#subject`` and ``file#preheader``; any other file gives itself. Each begins with a
    comment of as many lines as stand above it in the file, so that lines in errors are the file's.
    """
    place = place or file
    text = text.replace("\r\n", "\n")
    name = ContentName.parse(file)
    if name is None or not name.is_mail:
        return {file: text}, []
    lines = text.split("\n")
    end = next((at for at, line in enumerate(lines[1:], 1) if line.rstrip() == "---"), None)
    if lines[0].rstrip() != "---" or end is None:
        remedy = "begin the file with a line ---, a line `subject: …`, a line `preheader: …` and a line ---"
        return {}, [Finding(place=f"{place}:1", rule="a mail begins with front matter", remedy=remedy)]
    parts: dict[str, str] = {}
    findings: list[Finding] = []
    for number, line in enumerate(lines[1:end], 2):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _FIELD.fullmatch(line)
        key = match[1] if match else ""
        if match is None or key not in _KEYS or f"{file}#{key}" in parts:
            rule = f"{key!r} appears twice" if key in _KEYS else f"{key or line.strip()!r} is not front matter"
            findings.append(
                Finding(place=f"{place}:{number}", rule=rule, remedy="write `subject: …` or `preheader: …`")
            )
            continue
        parts[f"{file}#{key}"] = _lines(number - 1) + _unquoted(match[2])
    if f"{file}#subject" not in parts:
        findings.append(Finding(place=f"{place}:1", rule="the mail has no subject", remedy="write `subject: …`"))
    parts.setdefault(f"{file}#preheader", "")
    parts[file] = _lines(end + 1) + "\n".join(lines[end + 1 :])
    return parts, findings


def line_of(text: str, key: str) -> int:
    """Return the line of a file on which a key of its front matter stands, 0 if it does not."""
    lines = enumerate(text.split("\n"), 1)
    return next((number for number, line in lines if (match := _FIELD.fullmatch(line)) and match[1] == key), 0)


def read_templates(plan: Plan, folder: Path, shared: Path) -> dict[str, str]:
    """Return every file that any step of the plan may use, in all languages, with all that they pull in.

    Keys are logical names: ``welcome.email.en.mjml.j2`` beside the plan, ``shared/layout.mjml.j2`` in the shared
    folder. A language that both folders have is taken from the plan's.

    Raises InputError with everything that is missing, misnamed or not a template.
    """
    reading = _Reading(folder=folder, shared=shared)
    for channel, content in sorted(needed(plan)):
        reading.add_content(channel, content, plan.locale)
    if reading.findings:
        raise InputError(reading.findings)
    return dict(sorted(reading.files.items()))


def needed(plan: Plan, step_no: int | None = None) -> set[tuple[Channel, str]]:
    """Return the contents that some person may be sent, by one step or any, each with its channel."""
    segments: list[str | None] = [segment.name for segment in plan.audience.segments]
    if not any(segment.condition is None for segment in plan.audience.segments):
        segments.append(None)
    steps = range(1, len(plan.sequence) + 1) if step_no is None else (step_no,)
    touches = (plan.touch(number, name) for number in steps for name in segments)
    return {(touch.channel, touch.content) for touch in touches if not touch.skip}


def counts_clicks(plan: Plan, files: Mapping[str, str], step_no: int) -> bool:
    """Tell whether clicks of some message of a step are counted: of an email, or of a text that prints a short link."""
    sent = needed(plan, step_no)
    texts = (file for file in files if (named := ContentName.parse(file)) and (named.channel, named.content) in sent)
    return any(channel is Channel.EMAIL for channel, _ in sent) or any(prints_short(file, files) for file in texts)


def missing_kind(kinds: Collection[str], channel: Channel) -> str | None:
    """Return a kind of file that one content still needs in a language in which it has `kinds`, None if it is whole."""
    if channel is Channel.EMAIL and not {"mjml", "html"} & set(kinds):
        return "mjml"
    return None if "txt" in kinds else "txt"


@dataclass(slots=True, kw_only=True)
class _Reading:
    folder: Path
    shared: Path
    files: dict[str, str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def add_content(self, channel: Channel, content: str, default: str) -> None:
        found: dict[str, dict[str, str]] = {}
        for name in self._candidates(channel, content):
            kinds = found.setdefault(name.locale, {})
            rival = kinds.get(name.kind) or (name.kind != "txt" and (kinds.get("mjml") or kinds.get("html")))
            if rival and rival.startswith(SHARED) == name.file.startswith(SHARED):
                self._find(name.file, 0, f"{rival} is the same content in the same language", "remove one of them")
            elif not rival:
                kinds[name.kind] = name.file
        for language, kinds in sorted(found.items()):
            kind = missing_kind(kinds, channel)
            if kind is not None:
                wanted = f"{content}.{channel}.{language}.{kind}.j2"
                self._find(
                    next(iter(kinds.values())), 0, f"its twin {wanted} is missing", f"write {self._path(wanted)}"
                )
        if not any(language in found for language in locale.fallbacks(default)):
            kind = "mjml" if channel is Channel.EMAIL else "txt"
            wanted = f"{content}.{channel}.{default}.{kind}.j2"
            rule = f"the plan sends {content!r} by {channel}, and its language is {default}, but there is no such file"
            self._find(wanted, 0, rule, f"write it, in {self.folder} or in {self.shared}")
        for kinds in found.values():
            for file in kinds.values():
                self._add(file)

    def _candidates(self, channel: Channel, content: str) -> Iterator[ContentName]:
        for folder, prefix in ((self.folder, ""), (self.shared, SHARED)):
            for path in sorted(folder.glob(f"{content}.{channel}.*.j2")):
                name = ContentName.parse(prefix + path.name)
                if name is not None:
                    yield name
                else:
                    rule = f"the name is not <content>.{channel}.<language>.<kind>.j2"
                    kinds = ".mjml.j2, .html.j2 or .txt.j2" if channel is Channel.EMAIL else ".txt.j2"
                    self._find(prefix + path.name, 0, rule, f"end it in a language and {kinds}")

    def _add(self, file: str) -> None:
        if file in self.files:
            return
        text = self._read(file)
        if text is None:
            return
        self.files[file] = text
        parts, findings = split(file, text, str(self._path(file)))
        self.findings.extend(findings)
        for name, source in parts.items():
            references, findings = inspect(name, source, str(self._path(file)))
            self.findings.extend(findings)
            for reference in references:
                if not _PATH.fullmatch(reference.name) or not self._path(reference.name).is_file():
                    if not reference.optional:
                        rule = f"{reference.name!r} is not beside the plan, and is not a shared file"
                        remedy = f"write {self._path(reference.name)}, or name a shared file as shared/<file>"
                        self._find(file, reference.line, rule, remedy)
                else:
                    self._add(reference.name)

    def _read(self, file: str) -> str | None:
        path = self._path(file)
        root = self.shared if file.startswith(SHARED) else self.folder
        try:
            if not path.resolve().is_relative_to(root.resolve()):
                self._find(file, 0, "it is a link to another folder", "put the file itself here")
                return None
            if path.stat().st_size > 4 * MAX_FILE:
                self._find(file, 0, f"it has more than {MAX_FILE:,} characters", "make it smaller")
                return None
            return path.read_text("utf-8-sig")
        except UnicodeDecodeError as error:
            self._find(file, path.read_bytes()[: error.start].count(b"\n") + 1, "it is not UTF-8", "save it as UTF-8")
        except OSError as error:
            self._find(file, 0, f"it cannot be read ({error.strerror})", "make it readable")
        return None

    def _path(self, file: str) -> Path:
        return self.shared / file.removeprefix(SHARED) if file.startswith(SHARED) else self.folder / file

    def _find(self, file: str, line: int, rule: str, remedy: str) -> None:
        place = f"{self._path(file)}:{line}" if line else str(self._path(file))
        self.findings.append(Finding(place=place, rule=rule, remedy=remedy))


def _lines(count: int) -> str:
    return "{#" + "\n" * count + "#}"


def _unquoted(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'" else value
