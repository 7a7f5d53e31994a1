"""The Jinja2 environment of templates: no globals, nothing random, mappings with items only, JSON as text."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Set
from decimal import Decimal
from functools import wraps
from typing import Any, NoReturn

from jinja2 import StrictUndefined, Undefined, UndefinedError, pass_environment
from jinja2.exceptions import TemplateRuntimeError
from jinja2.filters import make_attrgetter
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import missing

from runner import record

ROW = "row"
"""The name by which a template reaches the whole record."""

MAX_REPEAT = 10_000_000
MAX_EXPONENT = 1_000

TEXT_FILTERS = (
    *("capitalize", "center", "e", "escape", "forceescape", "indent", "lower", "replace", "striptags"),
    *("title", "trim", "truncate", "upper", "urlencode", "wordcount", "wordwrap"),
)


class MissingField(UndefinedError):
    """A field that the row does not have; the message is its name."""


class NullField(UndefinedError):
    """A field that is null; the message is its name."""


class Refused(TemplateRuntimeError):
    """What a template may not do; the message says what, and never repeats the row's values."""


class Absent(StrictUndefined):
    """What a missing field stands for: any use but `default` and the tests for it raises MissingField."""

    __slots__ = ()
    reason: type[TemplateRuntimeError] = MissingField

    def __init__(
        self,
        hint: str | None = None,
        obj: Any = missing,
        name: str | None = None,
        exc: type[TemplateRuntimeError] = UndefinedError,
    ) -> None:
        if exc is UndefinedError and name is not None:
            hint, exc = str(name), self.reason
        super().__init__(hint, obj, name, exc)


class Null(Absent):
    """What a field that is null stands for: as Absent, but raises NullField."""

    __slots__ = ()
    reason = NullField


class RowContext(Context):
    """Where a template finds its names: in the row's fields alone."""

    def resolve_or_missing(self, key: str) -> Any:
        value = self.vars[key] if key in self.vars else self.parent.get(key, missing)
        return Null(name=key) if value is None else value


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment that a job's templates are compiled in."""

    context_class = RowContext
    intercepted_binops = frozenset({"*", "**"})

    def __init__(self) -> None:
        super().__init__(
            undefined=Absent, keep_trailing_newline=True, autoescape=False, finalize=printed, loader=None
        )
        self.globals.clear()
        # One row must always give one request: what a crash interrupted is rendered again and compared.
        del self.filters["random"]
        for name in TEXT_FILTERS:
            self.filters[name] = _of_text(self.filters[name])
        self.filters.update(
            default=_default,
            d=_default,
            string=printed,
            tojson=_to_json,
            join=_join,
            items=_items,
            attr=self.getattr,
        )
        self.tests["none"] = _is_none

    def getattr(self, obj: Any, attribute: str) -> Any:
        """`obj.attribute`: of a mapping its item, and never a method."""
        if isinstance(obj, (dict, Undefined)):
            return self.getitem(obj, attribute)
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """`obj[argument]`; absent within absent is absent, so that one `default` covers a whole path."""
        if isinstance(obj, Undefined):
            return obj
        if isinstance(obj, dict):
            value = obj.get(argument, missing)
            if value is missing:
                return Absent(obj=obj, name=str(argument))
        else:
            value = super().getitem(obj, argument)
        return Null(obj=obj, name=str(argument)) if value is None else value

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "**":
            if isinstance(right, (int, float)) and abs(right) > MAX_EXPONENT:
                raise Refused(f"an exponent is larger than {MAX_EXPONENT:,}")
        else:
            times, repeated = (left, right) if isinstance(left, int) else (right, left)
            if (
                isinstance(times, int)
                and isinstance(repeated, (str, list))
                and times * len(repeated) > MAX_REPEAT
            ):
                raise Refused(f"a repeated text or list is longer than {MAX_REPEAT:,}")
        return super().call_binop(context, operator, left, right)


def printed(value: Any) -> str:
    """A value as it stands in text: text as it is, everything else as JSON."""
    if type(value) is str:
        return value
    if isinstance(value, (str, Undefined)):
        return str(value)
    if value is None:
        raise NullField("")
    value = plain(value)
    return value if isinstance(value, str) else record.dumps(value).decode()


def plain(value: Any) -> Any:
    """A value in JSON's own types, all the way down. Raises Refused, or what an absent field raises."""
    if value is None or type(value) in (str, int, float, bool, Decimal):
        return value
    if isinstance(value, (str, Undefined)):
        return str(value)
    if isinstance(value, Mapping):
        return {printed(key): plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple, range, Iterator, Set)):
        return [plain(part) for part in value]
    raise Refused(f"an expression gives a {type(value).__name__}, which has no JSON form")


def _default(value: Any, default_value: Any = "", boolean: bool = False) -> Any:
    if value is None or isinstance(value, Undefined) or (boolean and not value):
        return default_value
    return value


def _of_text(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that reads its value as text prints it: Jinja2's own would read null as "None"."""
    at = 1 if hasattr(function, "jinja_pass_arg") else 0

    @wraps(function)
    def filtered(*args: Any, **kwargs: Any) -> Any:
        return function(*args[:at], printed(args[at]), *args[at + 1 :], **kwargs)

    return filtered


def _is_none(value: Any) -> bool:
    return value is None or isinstance(value, Null)


def _to_json(value: Any, indent: int | None = None) -> str:
    value = plain(value)
    if indent is None:
        return record.dumps(value).decode()
    return json.dumps(value, indent=indent, ensure_ascii=False, default=_refuse)


def _refuse(value: object) -> NoReturn:
    raise Refused(f"tojson with indent cannot print a {type(value).__name__}")


@pass_environment
def _join(environment: Sandbox, value: Any, d: str = "", attribute: str | int | None = None) -> str:
    if attribute is not None:
        value = map(make_attrgetter(environment, attribute), value)
    return printed(d).join(map(printed, value))


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Undefined):
        str(value)
    if not isinstance(value, Mapping):
        raise Refused(f"items needs an object, and an expression gives a {type(value).__name__}")
    return iter(value.items())
