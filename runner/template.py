"""A job's request as a template: rendered once per row, with the row's values as data and never as code.

Jinja2 in its sandbox, without globals. A missing field or a null stops the row unless `default` is given. A
string that is exactly one `{{ expression }}` keeps its JSON type; in other text, values that are not text
print as JSON. Mappings have items only, so that a field may be called `items` or `keys`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from difflib import get_close_matches
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError, Undefined, meta, nodes
from jinja2.runtime import Context

from runner import record
from runner.sandbox import ROW, Absent, Sandbox, plain

_MARKS = ("{{", "{%", "{#")
_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
