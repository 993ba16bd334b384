"""From an exception inside a template to what its author needs to hear.

Takes nothing over from an exception's text: it may quote a person's data.
"""

from __future__ import annotations

from collections.abc import Mapping

from jinja2 import Template, TemplateNotFound, UndefinedError, nodes
from jinja2.exceptions import SecurityError, TemplateRuntimeError

from commplan.content.fault import TemplateFault
from commplan.content.language import EmptyError, Language, LimitError
from commplan.content.slots import file_of, variable_of


class Diagnosis:
    """Explains what goes wrong in the templates of one run."""

    def __init__(self, language: Language, sources: Mapping[str, str]) -> None:
        self._language = language
        self._sources = sources
        self._variables: dict[str, list[tuple[int, str]]] = {}

    def explain(self, error: Exception, template: str) -> TemplateFault:
        """Return the fault that an exception amounts to; `template` is what was being rendered."""
        name, line = _place(error) or (template, 0)
        message = (error.message or "") if isinstance(error, TemplateRuntimeError) else ""
        variable = self._variable(name, line, message)
        match error:
            case EmptyError():
                rule = "has no value for this person"
                remedy = (
                    f"say what stands there instead: {{{{ {variable or 'it'} or '…' }}}}, or put {{% if %}} around it"
                )
            case SecurityError():
                rule = "is not open to templates"
                remedy = "use columns, contact, plan, links and the filters; nothing that begins with _"
            case UndefinedError():
                rule = "does not exist"
                remedy = "use a column of the audience, contact, plan or links; check the spelling"
            case LimitError():
                rule, remedy = f"needs {message}", "make loops, and what they print, smaller"
            case RecursionError():
                rule, remedy = "calls itself without end", "a macro or include must stop calling itself"
            case TemplateNotFound():
                rule, remedy = "includes a file that the run does not have", "write the file, or take the include out"
            case _:
                rule = f"cannot be computed for this person ({type(error).__name__})"
                remedy = "check that the value is of the kind that the expression needs"
        return TemplateFault(file_of(name), line, variable, rule, remedy)

    def _variable(self, template: str, line: int, name: str) -> str | None:
        """Return the variable a fault is about: the one of the line that ends in `name`, or the only one of the line.

        `name` may be a person's data (a lookup by value), so what is returned is always taken from the template.
        """
        if template not in self._variables:
            tree = self._language.parse(self._sources.get(template, ""), template)
            self._variables[template] = [
                (node.lineno, variable)
                for node in tree.find_all((nodes.Name, nodes.Getattr, nodes.Getitem))
                if (variable := variable_of(node)) is not None
            ]
        known = self._variables[template]
        here = list(dict.fromkeys(variable for at, variable in known if at == line))
        named = [variable for variable in here if name and variable.rpartition(".")[2] == name]
        named += [variable for _, variable in known if variable == name]
        return named[0] if named else here[0] if len(here) == 1 else None


def _place(error: BaseException) -> tuple[str, int] | None:
    """Return the template and line in which an exception came up, the innermost if templates are nested."""
    found: tuple[str, int] | None = None
    traceback = error.__traceback__
    while traceback is not None:
        template = traceback.tb_frame.f_globals.get("__jinja_template__")
        if isinstance(template, Template) and template.name is not None:
            found = (template.name, template.get_corresponding_lineno(traceback.tb_lineno))
        traceback = traceback.tb_next
    return found
