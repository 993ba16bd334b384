"""Three awkward people who share one text: what a proof of batching sends, and what must arrive.

The same placeholder and mark give the same specimen, so nothing but these need be kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from markupsafe import escape

from commplan.content import fill
from commplan.envelope import EmailBatch, EmailRecipient
from commplan.ids import AttemptId, Token

#: People of a specimen.
PEOPLE = 3
#: Bytes of the longest values: with all others of its person just below what a request may carry.
LONG = 9_000

_SUBJECT = "commplan proves batching: {name}"
_TEXT = "Proof {mark}\n\nName: {name}\nLink: {link}\nMuch: {much}\n\nThe end.\n"
# Links say so because click tracking, which other mail has, would leave nothing to compare.
_HTML = """<!DOCTYPE html>
<html><head><meta charset="utf-8"></head><body>
<p>Proof {mark}</p>
<p>Name: <b title="{name}">{name}</b></p>
<p><a clicktracking="off" href="{link}">{link}</a></p>
<p>Much: {much}</p>
<p>The end.</p>
</body></html>
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mail:
    """What one person is to see."""

    subject: str = field(repr=False)
    text: str = field(repr=False)
    html: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Person:
    name: str
    link: str
    much_text: str
    much_html: str


@dataclass(frozen=True)
class Specimen:
    """One text with placeholders that begin with `placeholder`, for three people; `mark` is in every mail of it."""

    placeholder: str
    mark: AttemptId

    @cached_property
    def lookalikes(self) -> tuple[str, ...]:
        """What only looks like a placeholder, and must stay as it is."""
        bare = self.placeholder.rstrip("-")
        return (
            *("-name-", "%name%", ":name", "{{name}}", "{{{name}}}", "[%name%]", "<%name%>", "*|NAME|*", "${name}"),
            *("$1", "\\1", "%s", self.placeholder.upper() + "0-", f"{bare}_0-", f"-{bare[3:]}-0-"),
        )

    @cached_property
    def _people(self) -> tuple[_Person, ...]:
        words = " ".join(f"{number:05d}" for number in range(LONG // 6))
        signs = "".join(f"{number:04d}林黛玉読書한글𠮷🎉" for number in range(LONG // 33))
        return (
            _Person(
                name=" ".join(self.lookalikes),
                link="https://example.com/-name-/%25s/$1?q=:name&r={{name}}",
                much_text="little",
                much_html="little",
            ),
            _Person(
                name="Ada & Bob <ada> \"Ada\" 'Bob' &amp; &lt;b&gt; &#65; &copy",
                link="https://example.com/a?b=1&c=%26+%2B&copy=2&amp=3&d=%C3%A9#e'f",
                much_text=words,
                much_html="little",
            ),
            _Person(
                name="林黛玉，𠮷野家「読書」 한국어 🎉",
                link="https://example.com/%E6%9E%97?q=%F0%A0%AE%B7",
                much_text="little",
                much_html=signs,
            ),
        )

    @property
    def _slots(self) -> tuple[str, ...]:
        return tuple(f"{self.placeholder}{number}-" for number in range(6))

    def _shared(self) -> Mail:
        name, link, much, name_html, link_html, much_html = self._slots
        return Mail(
            subject=_SUBJECT.format(name=name),
            text=_TEXT.format(mark=self.mark, name=name, link=link, much=much),
            html=_HTML.format(mark=self.mark, name=name_html, link=link_html, much=much_html),
        )

    def _values(self, number: int) -> tuple[str, ...]:
        who = self._people[number]
        escaped = (str(escape(value)) for value in (who.name, who.link, who.much_html))
        return (who.name, who.link, who.much_text, *escaped)

    def batch(self, addresses: Sequence[str]) -> EmailBatch:
        """Return the one request that carries it to three addresses, as a request of a campaign does."""
        shared = self._shared()
        return EmailBatch(
            attempt_id=self.mark,
            subject=shared.subject,
            text=shared.text,
            html=shared.html,
            placeholders=self._slots,
            recipients=[
                EmailRecipient(token=Token(f"proof-{number}"), address=address, values=self._values(number))
                for number, address in enumerate(addresses)
            ],
        )

    def meant(self) -> tuple[Mail, ...]:
        """Return what each person must get."""
        shared = self._shared()
        return tuple(
            Mail(
                subject=fill(shared.subject, self._slots, values),
                text=fill(shared.text, self._slots, values),
                html=fill(shared.html, self._slots, values),
            )
            for values in map(self._values, range(PEOPLE))
        )
