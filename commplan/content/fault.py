"""What is wrong with a template, said so that its author finds the place: file, line, variable, rule, remedy.

Never repeats a value: a template fails on one person's data, and that data stays in the store.
"""

from __future__ import annotations

from dataclasses import dataclass

from commplan.errors import Finding, InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A place in a template where something is printed. `variable` is what is printed there, None for an expression."""

    file: str
    line: int
    variable: str | None


class TemplateFault(InputError):  # noqa: N818 — what is at fault is the template, not the program
    """A template cannot be rendered for one person, or cannot become a mail for anybody.

    `finding` is hashable and the same for everybody whom the fault hits, so that the caller can count them.
    `line` is 0 where the fault belongs to the whole file.
    """

    def __init__(self, file: str, line: int, variable: str | None, rule: str, remedy: str) -> None:
        place = f"{file}:{line}" if line else file
        self.file, self.line, self.variable, self.rule, self.remedy = file, line, variable, rule, remedy
        self.finding = Finding(place=place, field=variable or "", rule=rule, remedy=remedy)
        super().__init__([self.finding])

    @classmethod
    def at(cls, site: Site, rule: str, remedy: str) -> TemplateFault:
        """Return a fault of the place where something is printed."""
        return cls(site.file, site.line, site.variable, rule, remedy)
