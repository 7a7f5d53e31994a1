"""The tree of a request, compiled once and rendered per row."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from jinja2 import TemplateError, TemplateSyntaxError, nodes
from jinja2.exceptions import SecurityError

from runner import record
from runner.template import syntax
from runner.template.sandbox import ROW, MissingField, NullField, Refused, RowContext, Sandbox, plain

Names: TypeAlias = dict[str, Any]
Renderer: TypeAlias = Callable[[Names], Any]

_MARKS = ("{{", "{%", "{#")
_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_VALUE = "_value"
# What a template can raise on odd data. Their texts may quote the data, so that only their kinds are told.
_RAISED = (
    TemplateError,
    TypeError,
    ValueError,
    ArithmeticError,
    LookupError,
    AttributeError,
    MemoryError,
    RecursionError,
)


class TemplateFault(ValueError):
    """A template that cannot be compiled. `field` is where it stands in the request, such as
    "request.messages[1].content", `line` the line within its string; `faults` has every fault found."""

    def __init__(self, field: str, message: str, line: int = 1) -> None:
        super().__init__(message)
        self.field = field
        self.message = message
        self.line = line
        self.faults: tuple[TemplateFault, ...] = (self,)

    @classmethod
    def of(cls, faults: Iterable[TemplateFault]) -> TemplateFault:
        """Several faults as one."""
        every = tuple(faults)
        whole = cls(every[0].field, "; ".join(f"{one.field}: {one.message}" for one in every), every[0].line)
        whole.faults = every
        return whole


class RowFault(ValueError):
    """A row that a template cannot render. `code` is missing_field, null_field or template_error; `field` is
    the template's place in the request. The message never repeats the row's values."""

    def __init__(self, code: str, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.code = code
        self.field = field
        self.message = message


class Template:
    """A request with its templates compiled. `fields` are the names of the row's fields that templates read,
    as far as that can be told without a row."""

    def __init__(
        self, render: Renderer, fields: frozenset[str], parts: Mapping[str, Renderer] | None = None
    ) -> None:
        self._render = render
        self._parts = parts or {}
        self.fields = fields

    def render(self, row: Mapping[str, object]) -> dict[str, object]:
        """The request of one row. Raises RowFault. Parts without templates are shared between rows: do not
        change them in place."""
        whole = row if isinstance(row, dict) else dict(row)
        rendered: dict[str, object] = self._render({**whole, ROW: whole})
        return rendered

    def only(self, field: str) -> Callable[[dict[str, object]], object] | None:
        """What renders that field of a row's request, as `render` does, where no other part of requests differs
        from row to row; else None."""
        if self._parts.keys() != {field}:
            return None
        render = self._parts[field]
        return lambda row: render({**row, ROW: row})


def compile_request(request: Mapping[str, object]) -> Template:
    """Compile a request, in which every string is a template. Raises one TemplateFault with all faults."""
    compiler = _Compiler()
    tree = json.loads(record.dumps(request))
    render = compiler.compile(tree, "request")
    if compiler.faults:
        raise TemplateFault.of(compiler.faults)
    parts = render.parts if isinstance(render, _Branch) else {}
    return Template(render or _Branch({}, tree.copy), frozenset(compiler.fields), parts)


def field_path(parent: str, key: str | int) -> str:
    """The name of a field within a field: `request` and `messages` give "request.messages"."""
    if isinstance(key, int):
        return f"{parent}[{key}]"
    return f"{parent}.{key}" if _PLAIN_NAME.match(key) else f"{parent}[{json.dumps(key)}]"


class _Compiler:
    """Compiles the strings of one request, and gathers what is wrong with them."""

    def __init__(self) -> None:
        self._sandbox = Sandbox()
        self.faults: list[TemplateFault] = []
        self.fields: set[str] = set()

    def compile(self, value: Any, field: str) -> Renderer | None:
        """What renders a value, or None where it holds no template."""
        if isinstance(value, str):
            return self._compile_text(value, field)
        if not isinstance(value, (dict, list)):
            return None
        if isinstance(value, dict):
            self.faults.extend(
                TemplateFault(field_path(field, key), "the name of a field cannot be a template")
                for key in value
                if any(mark in key for mark in _MARKS)
            )
        parts: dict[Any, Renderer] = {}
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            render = self.compile(part, field_path(field, key))
            if render is not None:
                parts[key] = render
        return _Branch(parts, value.copy) if parts else None

    def _compile_text(self, text: str, field: str) -> Renderer | None:
        if not any(mark in text for mark in _MARKS):
            return None
        try:
            tree = syntax.parse(self._sandbox, text)
            faults = [TemplateFault(field, *fault) for fault in syntax.faults(self._sandbox, tree)]
            if faults:
                self.faults.extend(faults)
                return None
            self.fields |= syntax.fields_read(tree)
            names = syntax.names_spelt(tree)
            expression = syntax.only_expression(text, tree)
            if expression is not None:
                target = nodes.Name(_VALUE, "store", lineno=1)
                tree = nodes.Template([nodes.Assign(target, expression, lineno=1)], lineno=1)
                tree.set_environment(self._sandbox)
            compiled = self._sandbox.from_string(tree)
        except TemplateSyntaxError as error:
            why = (error.message or "").rstrip(".")
            self.faults.append(
                TemplateFault(field, f"not a template: {why[:1].lower()}{why[1:]}", error.lineno or 1)
            )
            return None
        if expression is None:
            return _Text(self._sandbox, compiled.root_render_func, field, names)
        value = _Value(
            self._sandbox, compiled.root_render_func, field, names, nullable=syntax.nullable(expression)
        )
        # `self` is Jinja2's own, whatever the row has by that name.
        if isinstance(expression, nodes.Name) and expression.name != "self":
            return _Field(expression.name, value)
        return value


class _Branch:
    """Renders an object or a list that holds templates: a copy, in which those are replaced in place."""

    def __init__(self, parts: Mapping[Any, Renderer], copy: Callable[[], Any]) -> None:
        self.parts = parts
        self._items = tuple(parts.items())
        self._copy = copy

    def __call__(self, names: Names) -> Any:
        made = self._copy()
        for key, render in self._items:
            made[key] = render(names)
        return made


class _Text:
    """Renders a string."""

    def __init__(self, sandbox: Sandbox, root: Any, field: str, names: frozenset[str]) -> None:
        self._sandbox = sandbox
        self._root = root
        self._field = field
        self._names = names

    def __call__(self, names: Names) -> Any:
        try:
            return "".join(self._root(RowContext(self._sandbox, names, None, {})))
        except _RAISED as error:
            # The cause may quote the row, and a traceback would print it.
            raise self._fault(error) from None

    def _fault(self, error: Exception) -> RowFault:
        if isinstance(error, (MissingField, NullField)):
            code, state = (
                ("null_field", "null") if isinstance(error, NullField) else ("missing_field", "missing")
            )
            name = str(error)
            if name not in self._names:
                return RowFault(code, self._field, f"a value that the template computes is {state}")
            allow = 'to allow that, write | default("") after it'
            return RowFault(code, self._field, f"the field {name!r} is {state}; {allow}")
        reason = f"the template fails with {type(error).__name__}"
        if isinstance(error, Refused):
            reason = str(error)
        elif isinstance(error, SecurityError):
            reason = "the template uses an attribute or a method that is not open to templates"
        return RowFault("template_error", self._field, reason)


class _Value(_Text):
    """Renders a string that is exactly one expression, to the expression's own value."""

    def __init__(
        self, sandbox: Sandbox, root: Any, field: str, names: frozenset[str], *, nullable: bool
    ) -> None:
        super().__init__(sandbox, root, field, names)
        self._nullable = nullable

    def __call__(self, names: Names) -> Any:
        context = RowContext(self._sandbox, names, None, {})
        try:
            for _ in self._root(context):
                pass
            value = plain(context.vars[_VALUE])
            if value is None and not self._nullable:
                raise NullField("")
        except _RAISED as error:
            raise self._fault(error) from None
        return value


class _Field:
    """Renders a string that is exactly the name of a field. What is a text there, as nearly always, is itself."""

    def __init__(self, name: str, value: _Value) -> None:
        self._name = name
        self._value = value

    def __call__(self, names: Names) -> Any:
        found = names.get(self._name)
        return found if type(found) is str else self._value(names)
