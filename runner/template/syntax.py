"""What can be told of a template before there is a row: its syntax tree, its faults, the fields it reads."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches

from jinja2 import meta, nodes
from jinja2.visitor import NodeTransformer

from runner.template.sandbox import ROW, Sandbox


def parse(sandbox: Sandbox, text: str) -> nodes.Template:
    """The syntax tree of a template in which every newline stays. Raises jinja2.TemplateSyntaxError."""
    stand_in = ""
    if "\r" in text:  # Jinja2 rewrites CR and CRLF as LF
        stand_in = next(one for one in map(chr, range(0xE000, 0xF900)) if one not in text)
    tree = sandbox.parse(text.replace("\r", stand_in) if stand_in else text)
    if stand_in:
        for data in tree.find_all(nodes.TemplateData):
            data.data = data.data.replace(stand_in, "\r")
        for constant in tree.find_all(nodes.Const):
            if isinstance(constant.value, str):
                constant.value = constant.value.replace(stand_in, "\r")
    printed: nodes.Template = _PrintedConcat().visit(tree)
    return printed


def faults(sandbox: Sandbox, tree: nodes.Template) -> Iterator[tuple[str, int]]:
    """What the parser lets pass and no row can mend, each with its line within the template."""
    for kind, known in ((nodes.Filter, sandbox.filters), (nodes.Test, sandbox.tests)):
        for node in tree.find_all(kind):
            if node.name in known:
                continue
            near = get_close_matches(node.name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            if node.name == "random":
                hint = ": the same row must give the same request each time"
            yield f"there is no {kind.__name__.lower()} {node.name!r}{hint}", node.lineno
    for tag in tree.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)):
        yield "a job's templates cannot load others", tag.lineno


def only_expression(text: str, tree: nodes.Template) -> nodes.Expr | None:
    """The expression, where a template is exactly one `{{ expression }}`."""
    if len(tree.body) != 1 or not (text.startswith("{{") and text.endswith("}}")):
        return None
    output = tree.body[0]
    if not isinstance(output, nodes.Output) or len(output.nodes) != 1:
        return None
    return None if isinstance(output.nodes[0], nodes.TemplateData) else output.nodes[0]


def nullable(expression: nodes.Expr) -> bool:
    """Whether the author allows null: by `default`, or by writing none."""
    whole = nodes.Output([expression])
    return any(node.name in ("default", "d") for node in whole.find_all(nodes.Filter)) or any(
        node.value is None for node in whole.find_all(nodes.Const)
    )


def fields_read(tree: nodes.Template) -> set[str]:
    """The names of the row's fields that a template reads, as far as it spells them."""
    found = meta.find_undeclared_variables(tree) - {ROW}
    for attribute in tree.find_all(nodes.Getattr):
        if _is_row(attribute.node):
            found.add(attribute.attr)
    for item in tree.find_all(nodes.Getitem):
        if _is_row(item.node) and isinstance(item.arg, nodes.Const) and isinstance(item.arg.value, str):
            found.add(item.arg.value)
    return found


def names_spelt(tree: nodes.Template) -> frozenset[str]:
    """The names that a template itself spells, and that messages may therefore repeat."""
    found = {node.name for node in tree.find_all(nodes.Name)}
    found.update(node.attr for node in tree.find_all(nodes.Getattr))
    for node in tree.find_all(nodes.Const):
        if isinstance(node.value, str):
            found.update((node.value, *node.value.split(".")))
        elif isinstance(node.value, int):
            found.add(str(node.value))
    return frozenset(found)


def _is_row(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Name) and node.name == ROW


class _PrintedConcat(NodeTransformer):
    """Makes `a ~ b` print its parts as `{{ a }}{{ b }}` does."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802 - the visitor's own naming
        self.generic_visit(node)
        node.nodes = [
            nodes.Filter(part, "string", [], [], None, None, lineno=node.lineno, environment=node.environment)
            for part in node.nodes
        ]
        return node
