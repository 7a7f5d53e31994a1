"""A job's request as a template: rendered once per row, with the row's values as data and never as code.

Jinja2 in its sandbox, without globals. A missing field or a null stops the row unless `default` is given. A
string that is exactly one `{{ expression }}` keeps its JSON type; in other text, values that are not text
print as JSON.
"""

from runner.template.request import RowFault, Template, TemplateFault, compile_request, field_path

__all__ = ["RowFault", "Template", "TemplateFault", "compile_request", "field_path"]
