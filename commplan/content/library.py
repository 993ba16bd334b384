"""The content of one run, compiled: a person in, a skeleton and this person's values out.

Built from the run's frozen files alone; never looks at a disk, a clock or the store.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from jinja2 import Template
from jinja2.runtime import Context
from markupsafe import escape

from commplan.content import locale as language_tags
from commplan.content.abridgement import Abridgement, Path, abridge
from commplan.content.diagnosis import Diagnosis
from commplan.content.fault import Site, TemplateFault
from commplan.content.grammar import inspect
from commplan.content.language import MAX_OUTPUT, Empty, Language, LimitError
from commplan.content.mail import URL_SCHEMES, Document, finish
from commplan.content.skeleton import (
    MAX_VALUES,
    Link,
    Rendered,
    Skeleton,
    fill,
    placeholders_size,
    values_size,
)
from commplan.content.slots import SHORT, Slot
from commplan.content.sms import sms_parts
from commplan.content.source import SHARED, ContentName, line_of, missing_kind, split
from commplan.errors import Finding, InputError
from commplan.ids import MAX_LINKS
from commplan.plan import Plan, Touch
from commplan.terms import Channel, Purpose

#: Most skeletons that one content may have in one language: more means that one person's data got into the shared part.
MAX_SKELETONS = 500
#: What a counted link begins with where there is no installation, and what stands in for its token until it has one.
SAMPLE_LINKS, _TOKEN = "https://www.example.com/l/", "x" * 16
#: Longest address that a counted link may lead to.
MAX_TARGET = 2_000
_ONE_LINE = "a subject is one line, and for this person it would be several"

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029]")
_TARGET = re.compile(r"https?://[^\s/?#]+\S*")
_PREFIX = re.compile(r"[A-Za-z][A-Za-z0-9-]*-")

#: What one template yields for one person: text that many share, and slots.
_Chunks = list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Variant:
    """A finished skeleton, where its values are printed, which of them begin an address, and which are links.

    `has_subject`: says something in its subject whatever the values are.
    """

    skeleton: Skeleton
    sites: tuple[Site, ...]
    addresses: tuple[int, ...]
    links: tuple[int, ...]
    has_subject: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Content:
    """One content in one language: its templates, and its skeletons, or why there is none, by what their people share.

    `templates` are those of subject, text, preheader and HTML; of an SMS only that of the text. `by_path` has the
    finished skeletons of `abridgement`.
    """

    name: str
    channel: Channel
    locale: str
    kind: str
    templates: tuple[Template, ...]
    abridgement: Abridgement | None
    variants: dict[tuple[object, ...], _Variant | TemplateFault] = field(default_factory=dict)
    by_path: dict[tuple[int, ...], _Variant] = field(default_factory=dict)

    @property
    def file(self) -> str:
        """The file that faults of the whole are about."""
        return self.templates[-1].name or ""


class Library:
    """Everything that a run may say, ready to render; used by one thread at a time.

    `files` is what `read_templates` returned when the run was frozen. `prefix` begins every placeholder: random, of
    ASCII letters, digits and hyphens, the last a hyphen. `links` begins every counted link. Raises InputError if the
    files are not templates.
    """

    def __init__(self, plan: Plan, files: Mapping[str, str], prefix: str, *, links: str = SAMPLE_LINKS) -> None:
        if not _PREFIX.fullmatch(prefix):
            raise ValueError(f"{prefix!r} cannot begin a placeholder")
        self._prefix = prefix
        self._stand_in = links + _TOKEN
        self._default = plan.locale
        self._is_marketing = plan.purpose is Purpose.MARKETING
        self._plan = {"name": plan.plan, "title": plan.title, "topic": plan.topic}
        self._files = files
        sources = _sources(files)
        self._sources = sources
        self._language = Language(sources)
        self._diagnosis = Diagnosis(self._language, sources)
        self._by_name: dict[tuple[Channel, str], dict[str, dict[str, str]]] = {}
        for file in sorted(files, key=lambda name: name.startswith(SHARED)):
            named = ContentName.parse(file)
            if named is not None:
                kinds = self._by_name.setdefault((named.channel, named.content), {}).setdefault(named.locale, {})
                kinds.setdefault(named.kind, file)
        self._compiled: dict[tuple[Channel, str, str], _Content] = {}
        self._chosen: dict[tuple[Channel, str, str | None], _Content] = {}

    def render(
        self,
        touch: Touch,
        *,
        locale: str | None,
        columns: Mapping[str, object],
        contact: Mapping[str, object],
        links: Mapping[str, str],
    ) -> Rendered:
        """Return one person's message of one step, in the language nearest to theirs.

        A column that is None is empty: false in a condition, and a fault where it is printed. Control characters in
        values are left out. Raises TemplateFault if the templates cannot be rendered for this person, or cannot become
        a mail.
        """
        content = self._choose(touch.channel, touch.content, locale)
        known: dict[str, object] = dict(self._language.globals)
        for name, value in columns.items():
            known[name] = Empty(name) if value is None else value
        known.update(contact=contact, plan=self._plan, links=links)
        self._language.begin()
        path = None if content.abridgement is None else content.abridgement.follow(known)
        if path is None:
            return self._render_whole(content, known, links)[0]
        if (variant := content.by_path.get(path.branches)) is not None:
            rendered = self._render_ordinary(content, variant, path)
            if rendered is not None:
                return rendered
        rendered, variant, values = self._render_whole(content, known, links)
        if values == path.values:
            content.by_path[path.branches] = variant
        return rendered

    def _render_ordinary(self, content: _Content, variant: _Variant, path: Path) -> Rendered | None:
        """Return what a path amounts to; None if its values are such that the whole has to be looked at."""
        values = path.values
        joined = "\n".join(values)
        if (
            self._language.links != len(variant.links)
            or _CONTROL.search(joined)
            or self._prefix in joined
            or "<mj-" in joined
            or len(joined.encode()) + placeholders_size(variant.skeleton.placeholders) > MAX_VALUES
            or not all(values[number].startswith(URL_SCHEMES) for number in variant.addresses)
        ):
            return None
        if content.channel is Channel.SMS:
            return self._rendered_sms(content, variant, values)
        if not variant.has_subject or "\r" in joined or joined.count("\n") >= len(values):
            return None
        return Rendered(skeleton=variant.skeleton, values=values)

    def _render_whole(
        self, content: _Content, known: dict[str, object], links: Mapping[str, str]
    ) -> tuple[Rendered, _Variant, tuple[str, ...]]:
        """Return what the templates amount to, its skeleton, and every value printed."""
        self._language.begin()
        slots: list[Slot] = []
        shape: list[object] = []
        last = content.templates[-1] if content.kind == "mjml" else None
        parts = [self._run(each, known, slots, shape, mjml=each is last) for each in content.templates]
        variant = content.variants.get(found := tuple(shape))
        if variant is None:
            try:
                variant = self._finish(content, parts, links)
            except TemplateFault as fault:
                variant = fault
            content.variants[found] = variant
        if isinstance(variant, TemplateFault):
            raise variant.with_traceback(None)
        if self._language.links != len(variant.links):
            rule = f"makes a link short where it is not printed at once: `{SHORT}` has no effect there"
            remedy = f"write {{{{ … | {SHORT} }}}} by itself, outside macros, set blocks and other expressions"
            raise TemplateFault(content.file, 0, None, rule, remedy)
        values = self._values(variant, slots)
        if content.channel is Channel.SMS:
            return self._rendered_sms(content, variant, values), variant, values
        self._check_subject(content, parts[0])
        return _rendered_mail(variant, values), variant, values

    def _run(
        self, template: Template, known: dict[str, object], slots: list[Slot], shape: list[object], *, mjml: bool
    ) -> _Chunks:
        """Return what a template yields; add its slots, and its shape: what is shared, and the class of each slot.

        Captured output that holds MJML elements is shared: they must be there when MJML becomes HTML. Nothing a
        person is called looks like this: in MJML a value's ``<`` is escaped.
        """
        chunks: _Chunks = []
        length = 0
        try:
            for chunk in template.root_render_func(Context(self._language, known, template.name, template.blocks)):
                length += len(chunk)
                if length > MAX_OUTPUT:
                    raise LimitError(f"more than {MAX_OUTPUT:,} characters")
                if chunk.__class__ is str or not isinstance(chunk, Slot):
                    shape.append(chunk)
                    chunks.append(chunk)
                elif mjml and "<mj-" in chunk:
                    shape.append(str(chunk))
                    chunks.append(str(chunk))
                else:
                    shape.append(chunk.__class__)
                    chunks.append(chunk)
                    slots.append(chunk)
            shape.append(None)
        except Exception as error:  # a template may fail in any way; its author hears where
            raise self._diagnosis.explain(error, template.name or "") from None
        return chunks

    def _values(self, variant: _Variant, slots: list[Slot]) -> tuple[str, ...]:
        """Return what stands at the placeholders; a fault if a value could be taken for one, or is no address."""
        values = tuple(map(str, slots))
        joined = "\n".join(values)
        if _CONTROL.search(joined):
            values = tuple(_CONTROL.sub("", value) for value in values)
            joined = "\n".join(values)
        if self._prefix in joined:
            site = next(site for site, value in zip(variant.sites, values, strict=True) if self._prefix in value)
            raise TemplateFault.at(site, "holds what only this run's placeholders may hold", "clean the column")
        for number in variant.addresses:
            if not values[number].startswith(URL_SCHEMES):
                rule = "stands where a link goes, and is no web address for this person"
                raise TemplateFault.at(variant.sites[number], rule, f"it must begin with {URL_SCHEMES[0]}")
        return values

    def _finish(self, content: _Content, parts: list[_Chunks], links: Mapping[str, str]) -> _Variant:
        """Return the skeleton of everybody whose message has this shape: MJML, styles and checks, once."""
        if len(content.variants) >= MAX_SKELETONS:
            rule = f"comes in more than {MAX_SKELETONS} variants: what is one person's is in what many should share"
            remedy = "MJML from a macro or a captured block must be the same for many; use {% include %} instead"
            raise TemplateFault(content.file, 0, None, rule, remedy)
        if self._is_marketing and content.channel is Channel.EMAIL:
            _check_unsubscribe(content, parts, links.get("unsubscribe", ""))
        sites: list[Site] = []
        texts = [self._with_placeholders(part, sites) for part in parts]
        if any(
            text.count(self._prefix) != sum(isinstance(c, Slot) for c in part)
            for text, part in zip(texts, parts, strict=True)
        ):
            raise TemplateFault(
                content.file, 0, None, f"holds {self._prefix!r}, which is kept for placeholders", "reword it"
            )
        placeholders = tuple(self._placeholder(number) for number in range(len(sites)))
        subject, text, html = "", texts[0], ""
        addresses: tuple[int, ...] = ()
        if content.channel is Channel.EMAIL:
            subject, text = texts[0], texts[1]
            document = Document(
                file=content.file,
                kind=content.kind,
                preheader=texts[2],
                body=texts[3],
                placeholders=placeholders,
                sites=sites,
            )
            finished = finish(document, self._locate)
            html, addresses = finished.html, finished.addresses
        counted = _links(content, parts)
        skeleton = Skeleton(
            content=content.name,
            channel=content.channel,
            locale=content.locale,
            subject=subject,
            text=text,
            html=html,
            placeholders=placeholders,
            links=tuple(counted.values()),
        )
        constant = "".join(chunk for chunk in parts[0] if not isinstance(chunk, Slot))
        return _Variant(
            skeleton=skeleton,
            sites=tuple(sites),
            addresses=addresses,
            links=tuple(counted),
            has_subject=bool(constant.strip()),
        )

    def _with_placeholders(self, chunks: _Chunks, sites: list[Site]) -> str:
        written: list[str] = []
        for chunk in chunks:
            if isinstance(chunk, Slot):
                written.append(self._placeholder(len(sites)))
                sites.append(chunk.site)
            else:
                written.append(chunk)
        return "".join(written)

    def _placeholder(self, number: int) -> str:
        return f"{self._prefix}{number}-"

    def _rendered_sms(self, content: _Content, variant: _Variant, values: tuple[str, ...]) -> Rendered:
        skeleton = variant.skeleton
        links = tuple(Link(place, values[place]) for place in variant.links)
        if links:
            for place, target in links:
                if len(target) > MAX_TARGET or not _TARGET.fullmatch(target):
                    rule = f"is made short, and is no web address of at most {MAX_TARGET:,} characters for this person"
                    raise TemplateFault.at(variant.sites[place], rule, "it must begin with https:// and have no spaces")
            values = tuple(self._stand_in if place in variant.links else value for place, value in enumerate(values))
        text = fill(skeleton.text, skeleton.placeholders, values)
        if not text or text.isspace():
            raise TemplateFault(content.file, 0, None, "the text is empty for this person", "say something in any case")
        return Rendered(skeleton=skeleton, values=values, parts=sms_parts(text)[1], links=links)

    def _check_subject(self, content: _Content, chunks: _Chunks) -> None:
        subject = "".join(chunks)
        if "\n" not in subject and "\r" not in subject and subject and not subject.isspace():
            return
        for chunk in chunks:
            if isinstance(chunk, Slot) and ("\n" in chunk or "\r" in chunk):
                raise TemplateFault.at(chunk.site, _ONE_LINE, "clean the column, or write {{ … | oneline }}")
        line = line_of(self._files[content.file], "subject")
        if not subject or subject.isspace():
            rule, remedy = "the subject is empty for this person", "say something in any case"
            raise TemplateFault(content.file, line, None, rule, remedy)
        raise TemplateFault(content.file, line, None, _ONE_LINE, "take the line break out of the subject")

    def _locate(self, piece: str) -> tuple[str, int] | None:
        """Return the first file and line that has a piece of static text, None if it was put together from several."""
        for file, text in self._files.items():
            at = text.find(piece)
            if at >= 0:
                return file, text.count("\n", 0, at) + 1
        return None

    def _choose(self, channel: Channel, name: str, locale: str | None) -> _Content:
        key = (channel, name, locale)
        content = self._chosen.get(key)
        if content is None:
            content = self._chosen[key] = self._compile(channel, name, locale)
        return content

    def _compile(self, channel: Channel, name: str, locale: str | None) -> _Content:
        by_locale = self._by_name.get((channel, name), {})
        wanted = (*language_tags.fallbacks(locale), *language_tags.fallbacks(self._default))
        tag = next((tag for tag in wanted if tag in by_locale), None)
        kinds = by_locale.get(tag or "", {})
        kind = next((kind for kind in ("mjml", "html") if kind in kinds), "txt")
        if tag is None or "txt" not in kinds or (channel is Channel.EMAIL and kind == "txt"):
            missing = missing_kind(kinds, channel)
            file = f"{name}.{channel}.{tag or self._default}.{missing}.j2"
            raise TemplateFault(file, 0, None, f"the {channel} {name!r} has no such file in this run", "write it")
        if (channel, name, tag) not in self._compiled:
            get = self._language.get_template
            names = [kinds["txt"]]
            if channel is Channel.EMAIL:
                names = [f"{kinds[kind]}#subject", kinds["txt"], f"{kinds[kind]}#preheader", kinds[kind]]
            self._compiled[channel, name, tag] = _Content(
                name=name,
                channel=channel,
                locale=tag,
                kind=kind,
                templates=tuple(map(get, names)),
                abridgement=abridge(self._language, names, self._sources),
            )
        return self._compiled[channel, name, tag]


def _sources(files: Mapping[str, str]) -> dict[str, str]:
    sources: dict[str, str] = {}
    findings: list[Finding] = []
    for file, text in files.items():
        parts, wrong = split(file, text)
        sources.update(parts)
        findings.extend(wrong)
        for name, source in parts.items():
            findings.extend(inspect(name, source, file)[1])
    if findings:
        raise InputError(findings)
    return sources


def _links(content: _Content, parts: list[_Chunks]) -> dict[int, str]:
    """Return the name of every counted link by the place of its value; no two have the same."""
    found: dict[int, str] = {}
    slots = (chunk for part in parts for chunk in part if isinstance(chunk, Slot))
    for place, slot in enumerate(slots):
        if slot.link is None:
            continue
        if content.channel is Channel.EMAIL:
            rule, remedy = f"`{SHORT}` is for texts", "leave it out: the email provider counts clicks by itself"
            raise TemplateFault.at(slot.site, rule, remedy)
        alike = sum(name.partition(" (")[0] == slot.link for name in found.values())
        found[place] = f"{slot.link} ({alike + 1})" if alike else slot.link
        if len(found) > MAX_LINKS:
            rule = f"a text has more than {MAX_LINKS} links that are counted"
            raise TemplateFault.at(slot.site, rule, f"leave `{SHORT}` away at some")
    return found


def _rendered_mail(variant: _Variant, values: tuple[str, ...]) -> Rendered:
    skeleton = variant.skeleton
    if values_size(skeleton.placeholders, values) <= MAX_VALUES:
        return Rendered(skeleton=skeleton, values=values)
    alone = replace(
        skeleton,
        subject=fill(skeleton.subject, skeleton.placeholders, values),
        text=fill(skeleton.text, skeleton.placeholders, values),
        html=fill(skeleton.html, skeleton.placeholders, values),
        placeholders=(),
    )
    return Rendered(skeleton=alone, values=(), oversize=True)


def _check_unsubscribe(content: _Content, parts: list[_Chunks], link: str) -> None:
    for template, chunks, written in zip(content.templates[1::2], parts[1::2], (link, str(escape(link))), strict=True):
        if not link or written not in "".join(chunks):
            rule = "marketing mail must say how to unsubscribe"
            raise TemplateFault(
                template.name or "", 0, None, rule, "print {{ links.unsubscribe }}, or use the shared layout"
            )
