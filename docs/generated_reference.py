"""
What the reference pages are made of, read from the program when they are built: commands, fields, Python names.

    ```{command-line}
    ```
    ```{report-fields}
    ```
    ```{result-schemas}
    ```
    ```{config-fields}
    ```
    ```{python-names}
    ```
"""

import inspect
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any, get_type_hints

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


def build_section(title: str, *content: nodes.Node) -> nodes.section:
    """Return a section whose link is its title."""
    section = nodes.section(ids=[nodes.make_id(title)], names=[nodes.fully_normalize_name(title)])
    section += nodes.title(text=title)
    section += list(content)
    return section


def build_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> nodes.table:
    """Return a table of plain words; the first column is code."""
    group = nodes.tgroup(cols=len(header))
    group += [nodes.colspec(colwidth=1) for _ in header]

    def build_row(cells: Sequence[str], *, is_code: bool) -> nodes.row:
        row = nodes.row()
        for index, cell in enumerate(cells):
            words = nodes.literal(text=cell) if is_code and index == 0 else nodes.Text(cell)
            row += nodes.entry("", nodes.paragraph("", "", words))
        return row

    group += nodes.thead("", build_row(header, is_code=False))
    group += nodes.tbody("", *(build_row(cells, is_code=True) for cells in rows))
    return nodes.table("", group)


class CommandLine(Directive):
    """The help of every command, as its own parser prints it."""

    def run(self) -> list[nodes.Node]:
        os.environ["COLUMNS"] = "92"
        from modeling_apex.cli import GROUPS, build_parser

        parser = build_parser()
        (commands,) = (action for action in parser._actions if action.dest == "command")
        sections = []
        for group, names in GROUPS.items():
            helps = []
            for name in names:
                text = commands.choices[name].format_help()  # type: ignore[index,call-overload]
                helps.append(build_section(f"apex-music {name}", nodes.literal_block(text, text, language="text")))
            sections.append(build_section(group.capitalize(), *helps))
        return sections


class ReportFields(Directive):
    """The fields of a song's report."""

    def run(self) -> list[nodes.Node]:
        from modeling_apex.inference.song_report_apex import SongReport

        required = SongReport.__required_keys__
        rows = [
            [name, re.sub(r"typing\.|<class '|'>", "", str(kind)), "always" if name in required else ""]
            for name, kind in get_type_hints(SongReport).items()
        ]
        return [build_table(["field", "type", "present"], rows)]


class ResultSchemas(Directive):
    """The fields of every kind of result file."""

    def run(self) -> list[nodes.Node]:
        from modeling_apex.statistics.result_schema import SCHEMAS

        return [
            build_section(
                name,
                nodes.paragraph(text=schema.get("description", "")),
                build_table(["field", "type", "meaning"], list(_list_fields(schema))),
            )
            for name, schema in SCHEMAS.items()
        ]


def _list_fields(schema: dict[str, Any]) -> Iterator[list[str]]:
    for name, field in schema.get("properties", {}).items():
        kind = field.get("type") or " or ".join(map(str, field.get("enum", ["see meaning"])))
        kind = kind if isinstance(kind, str) else " or ".join(kind)
        items = field.get("items", {}) if kind == "array" else field.get("additionalProperties", {})
        inner = items.get("description", "") if isinstance(items, dict) else ""
        required = "" if name in schema.get("required", ()) else " (optional)"
        yield [name, kind + required, " ".join(filter(None, [field.get("description", ""), inner]))]


class ConfigFields(Directive):
    """The fields of an APEX config, with the comments that stand above or behind their declarations."""

    def run(self) -> list[nodes.Node]:
        from modeling_apex import ApexConfig
        from modeling_apex.inference.configuration_fields_apex import ApexFields

        config, rows, comment = ApexConfig(), [], ""
        for line in map(str.strip, inspect.getsource(ApexFields).split("\n")):
            field = re.match(r"(\w+): (.+?) = declare_field\([^#]*(?:#(.*))?$", line)
            if line.startswith("#"):
                comment = f"{comment} {line[1:].strip()}".strip()
            elif field:
                default = repr(getattr(config, field[1]))
                meaning = " ".join(filter(None, [comment, (field[3] or "").strip()]))
                rows.append([field[1], field[2], default if len(default) < 60 else "see meaning", meaning])
                comment = ""
            elif re.match(r"\w+: ClassVar", line):
                comment = ""
        return [build_table(["field", "type", "default", "meaning"], rows)]


class PythonNames(SphinxDirective):
    """Every public name of `modeling_apex` with its docstring."""

    def run(self) -> list[nodes.Node]:
        import modeling_apex

        # Docstrings are reStructuredText here, so they are parsed as such and not as the Markdown around them.
        lines = ["```{eval-rst}"]
        for name in sorted(modeling_apex.__all__, key=str.lower):
            kind = "autoclass" if isinstance(getattr(modeling_apex, name), type) else "autofunction"
            lines += [f".. {kind}:: modeling_apex.{name}", ""]
        lines += ["```"]
        container = nodes.container()
        self.state.nested_parse(StringList(lines, source="python-names"), self.content_offset, container)
        return container.children


def use_literals(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Turn the Markdown of our docstrings, backticks and fences, into what autodoc reads."""
    text = "\n".join(lines)
    text = re.sub(r"^( *)```(\w+)\n(.*?)^ *```$", _indent_code, text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^( +)((?:`\w+`, )+`\w+`): (.*)$", _list_errors, text, flags=re.MULTILINE)
    text = re.sub(r"\[(`[^`\n]+`)\]", r"\1", text)
    text = re.sub(r"(?<![`:])`((?:[^`\n]|\n(?!\s*\n))+)`(?!`)", r"``\1``", text)
    lines[:] = text.split("\n")


def _indent_code(match: re.Match) -> str:
    space = match[1]
    code = "\n".join(f"    {line}" if line.strip() else "" for line in match[3].rstrip("\n").split("\n"))
    return f"{space}.. code-block:: {match[2]}\n\n{code}\n"


def _list_errors(match: re.Match) -> str:
    """Give each of several errors that are raised for one reason a line, which is how autodoc reads them."""
    return "\n".join(f"{match[1]}{error}: {match[3]}" for error in match[2].split(", "))


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("command-line", CommandLine)
    app.add_directive("report-fields", ReportFields)
    app.add_directive("result-schemas", ResultSchemas)
    app.add_directive("config-fields", ConfigFields)
    app.add_directive("python-names", PythonNames)
    app.connect("autodoc-process-docstring", use_literals, priority=100)
    return {"parallel_read_safe": True}
