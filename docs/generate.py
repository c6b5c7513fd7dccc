"""Write the parts of docs/ that come from the code: commands, settings, reasons, exit codes, the reports' schema.

    python docs/generate.py [FOLDER]

Without FOLDER also the schema in the package, the options that move a number in evidence.py and in the docstring of
`check`, from the table in checker/cli/options.py. From the constant that says where the project lives (HOME in
checker/text.py) also README's links, [project.urls] of pyproject.toml, and how pages install the package.

A page that people write has such a part below the line MADE. Tests compare the pages of the repository with what this
makes.
"""

from __future__ import annotations

import ast
import hashlib
import html
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import fill
from typing import Any, get_args
from urllib.parse import urlsplit

import typer
from json_schema import json_schema
from typer.cli import get_docs_for_click
from typer.core import TyperGroup
from typer.main import get_command

from robustcheck_onnx.checker.cli import app as cli
from robustcheck_onnx.checker.cli import settings as config
from robustcheck_onnx.checker.cli.options import FIELDS, HARMLESS, ROWS, ROWS_BY_KEY, RUN, Settings
from robustcheck_onnx.checker.cli.verbs import look_up
from robustcheck_onnx.checker.core.options import Options
from robustcheck_onnx.checker.core.verdict.gate import Waiver
from robustcheck_onnx.checker.core.verdict.kinds import KINDS, NAMES
from robustcheck_onnx.checker.core.verdict.reasons import RULES
from robustcheck_onnx.checker.errors import EXIT_CODES
from robustcheck_onnx.checker.report import record as report
from robustcheck_onnx.checker.text import HOME
from robustcheck_onnx.thresholds.statistics import DECIDING

NAME = "robustcheck"
SCHEMA_FILE = Path(report.__file__).parent / "report.schema.json"
DOCS = Path(__file__).parent
README = DOCS.parent / "README.md"
PYPROJECT = DOCS.parent / "pyproject.toml"
OPTIONS = [DOCS.parent / "checker" / name for name in ("core/options.py", "questions/check.py")]
INSTALLING = [
    README,
    *(page for page in sorted(DOCS.rglob("*")) if page.suffix in {".md", ".ipynb"} and "dev" not in page.parts),
]
PATHS = ("preprocess",)  # options that Python takes a Path for
MADE = "<!-- made by `python docs/generate.py`; not to be edited by hand -->\n"
MEANING = {
    0: "the only code that lets a release through",
    1: "a verdict, not an error; no exception ever ends with it",
    2: "there is no verdict; the command line or a file that it names is at fault",
    3: "there is no verdict",
    4: "there is no verdict; the machine or a server is at fault, not the model",
    70: "there is no verdict; `--debug` shows where",
    130: "there is no verdict; nothing half-written is left",
    143: "there is no verdict; nothing half-written is left",
}


def pages() -> dict[str, str]:
    """Return every page by its place in docs/."""
    made = {"reference/cli.md": commands(), "reports.md": exit_codes(), "settings.md": settings(), "warn.md": reasons()}
    made["glossary.md"] = glossary()
    made["dev/architecture.md"] = files()
    return {name: _head(name) + MADE + text.rstrip() + "\n" for name, text in made.items()} | {
        "reference/report-schema.json": json_schema(),
        "dev/architecture.svg": picture_of_parts(),
    }


def _head(name: str) -> str:
    """Return what people wrote of a page."""
    return (DOCS / name).read_text(encoding="utf-8").partition(MADE)[0]


def row(*cells: str) -> str:
    """A row of a table; a bar in a cell would end it."""
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"


# --------------------------------------------------------------------------------------------- architecture


def files() -> str:
    """Write a list of the package's files by folder, each with the first sentence of its docstring."""
    root = DOCS.parent
    paths = [path for part in ("checker", "exporters", "thresholds") for path in (root / part).rglob("*.py")]
    lines = []
    for folder in sorted({path.parent for path in paths}, key=lambda path: path.relative_to(root).parts):
        lines += ["", f"### `{folder.relative_to(root).as_posix()}/`", ""]
        for path in sorted(folder.glob("*.py")):
            said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            sentence = re.split(r"(?<=[.?!])\s", said, maxsplit=1)[0]
            lines.append(f"- `{path.name}`: {' '.join(sentence.split())}")
    return "\n".join(lines)


def picture_of_parts() -> str:
    """Draw the parts of checker/ as boxes, one above the other, from the page's source for Mermaid."""
    source = _head("dev/architecture.md").split("```mermaid\n")[1].split("\n```")[0]
    boxes = re.findall(r'^  \w+\["(.*)"\]$', source, re.MULTILINE)
    digest = hashlib.sha256(source.encode()).hexdigest()
    shapes = []
    for place, text in enumerate(boxes):
        top = 10 + 70 * place
        shapes.append(f'<rect x="10" y="{top}" width="700" height="44" rx="6"/>')
        shapes.append(f'<text x="360" y="{top + 27}">{html.escape(text)}</text>')
        if place + 1 < len(boxes):
            shapes.append(f'<path d="M360 {top + 44} v22 m-5 -7 l5 7 l5 -7"/>')
    height = 70 * len(boxes)
    style = "rect { fill: #f4f1ea; stroke: #575d66 } path { fill: none; stroke: #575d66 } "
    style += "text { font: 15px system-ui, sans-serif; fill: #20242a; text-anchor: middle }"
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 {height}" width="720" height="{height}" role="img">'
    )
    title = f"<title>The parts of checker/</title><!-- of the source in architecture.md, sha256 {digest} -->"
    back = f'<rect width="720" height="{height}" style="fill: white; stroke: none"/>'
    return "\n".join([head, title, f"<style>{style}</style>", back, *shapes, "</svg>", ""])


# ------------------------------------------------------------------------------------------------- commands


def commands() -> str:
    """Every verb as typer describes it: words, options, defaults; with examples to copy."""
    group = get_command(cli.app)
    assert isinstance(group, TyperGroup)
    text = get_docs_for_click(obj=group, ctx=typer.Context(group, info_name=NAME), name=NAME, title="Commands")
    text = re.sub(r"^Examples?: (.*)$", r"```console\n$ \1\n```", text, flags=re.MULTILINE)
    for path, summary in _summaries(group):  # typer cuts them short
        text = re.sub(rf"^\* `{path}`: .*\.\.\.$", f"* `{path}`: {summary}", text, flags=re.MULTILINE)
    return text


def _summaries(group: TyperGroup) -> Iterator[tuple[str, str]]:
    """Name and first paragraph of every verb and group."""
    for name, command in group.commands.items():
        yield name, " ".join((command.help or "").split("\n\n")[0].split())
        if isinstance(command, TyperGroup):
            yield from _summaries(command)


# ------------------------------------------------------------------------------------- exit codes and reasons


def exit_codes() -> str:
    """Return the table of exit codes."""
    lines = [
        "",
        "## Exit codes",
        "Only 0 lets a release through. `robustcheck explain exit-codes` prints this table.",
        "",
    ]
    lines += [row("code", "meaning", ""), row("---", "---", "---")]
    lines += [row(str(code), text, MEANING[code]) for code, text in EXIT_CODES.items()]
    lines += [
        "",
        "With several models the largest code counts. `--fail-on never` and [waivers](settings.md#waivers) set the",
        "code of a WARN to 0, and the report shows it; they change no error. `scan`, `shift`, `concepts`,",
        "`directions`, `inspect` and `demo` give no verdict, so their 0 is not a PASS.",
    ]
    return "\n".join(lines)


def reasons() -> str:
    """Return every reason for WARN: what it means and what to do."""
    lines = ["", "## All reasons", "The names are stable once released.", ""]
    lines += [row("reason", "kind", "title"), row("---", "---", "---")]
    rules = sorted(RULES.items(), key=lambda rule: [*KINDS].index(rule[1].kind))
    lines += [row(f"[`{name}`](#{name})", rule.kind, rule.title) for name, rule in rules]
    for name, rule in rules:
        words = f"**{rule.title}** ({rule.kind}). {rule.explanation}"
        lines += ["", f"### {name}", "", words, "", f"Next step: {rule.next_step}"]
    return "\n".join(lines)


def glossary() -> str:
    """Write the words that a user needs, as `explain` prints them."""
    words = look_up._words()
    verdicts = dict(f"{text}.".split(": ") for text in (EXIT_CODES[0], EXIT_CODES[1]))
    terms = verdicts | {
        word: words[word] for word in [*look_up.WORDS, *(NAMES[name] for name in (*DECIDING, "kurtosis"))]
    }
    assert len(terms) <= 25
    rows = [row(f"**{word}**", text[0].upper() + text[1:]) for word, text in sorted(terms.items(), key=_as_sorted)]
    return "\n".join(["", row("word", "meaning"), row("---", "---"), *rows])


def _as_sorted(term: tuple[str, str]) -> str:
    return term[0].casefold()


# ------------------------------------------------------------------------------------------------- settings


def _type(kind: dict[str, Any]) -> str:
    """Return a type of JSON Schema in words."""
    if "anyOf" in kind:
        return " or ".join(_type(one) for one in kind["anyOf"])
    if "const" in kind:
        return f"`{json.dumps(kind['const'])}`"
    if "enum" in kind:
        return " or ".join(f"`{json.dumps(one)}`" for one in kind["enum"])
    if kind["type"] == "array":
        return f"list of {_type(kind['items'])}"
    limits = {"minimum": "≥", "maximum": "≤", "exclusiveMinimum": ">", "exclusiveMaximum": "<"}
    return " ".join([kind["type"], *(f"{sign} {kind[key]:g}" for key, sign in limits.items() if key in kind)])


def settings() -> str:
    """Return every key of a settings file with its type, default and variable, and the keys of a waiver."""
    described = config.FILE.model_json_schema(by_alias=True)["properties"]
    lines = ["", "## All keys"]
    lines += [row("key", "type", "default", "variable", "what it is"), row(*["---"] * 5)]
    for key, name in FIELDS.items():
        about, variable = ROWS[name], config.PREFIX + name.upper()
        default = "–" if about.default in (None, ()) else f"`{json.dumps(about.default)}`"
        kind = "list of waivers" if key == "waivers" else _type(described[key]).removesuffix(" or null")
        lines.append(
            row(
                f"`{key}`",
                kind,
                default,
                f"`{variable}`" if variable in config.VARIABLES else "–",
                about.about,
            )
        )
    lines += ["", "## Keys of a waiver", "", row("key", "type", "required"), row("---", "---", "---")]
    for key, about in Waiver.model_fields.items():
        kind = "list of text" if get_args(about.annotation) else getattr(about.annotation, "__name__", "text")
        lines.append(row(f"`{key}`", {"str": "text"}.get(kind, kind), "yes" if about.is_required() else "no"))
    lines += ["", "## What each key can do to the gate", ""]
    lines += [
        "With `--strict` only the command line can set what loosens the gate or hands the check over. A report starts"
    ]
    lines += ["with what loosens it, and where that was set.", ""]
    lines += [row("key", "what it can do", "how", "with `--strict`"), row(*["---"] * 4)]
    for key, rule in ROWS_BY_KEY.items():
        allowed = "anywhere" if rule.power == HARMLESS else "command line only"
        lines.append(row(f"`{key}`", rule.power, rule.why, allowed))
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------------- README


def linked(page: str, home: str) -> str:
    """The page with its relative links made from the project's home; as it is where no home is known.

    Links to other sites and to headings of the page itself stay. A second call changes nothing.
    """
    if not home:
        return page

    def absolute(link: re.Match[str]) -> str:
        picture, words, target = link.groups()
        return f"{picture}[{words}]({home.rstrip('/')}/{'raw' if picture else 'blob'}/main/{target})"

    return re.sub(r"(!?)\[([^\]]*)\]\((?![a-z]+:|#)([^)]+)\)", absolute, page)


PUBLISHED = (  # from a clone, and from the package index
    (r"In a clone and a virtual environment", "In a virtual environment"),
    (r"In a clone of the repository, with Python", "With Python"),
    (r"from a clone of the repository, with Python", "with Python"),
    (r"\s+This package is not on PyPI yet\.", ""),
    (
        r"`pip install \.` \(\[without CUDA\]\((\S+)\)\)",
        r"`pip install robustcheck-onnx`, or `pip install robustcheck-onnx-cpu` [without CUDA](\1)",
    ),
    (r"python release/cpu\.py build/cpu && pip install \./build/cpu", "pip install robustcheck-onnx-cpu"),
    (r"pip install ('?)\./build/cpu(?=\[)", r"pip install \1robustcheck-onnx-cpu"),
    (r"pip install ('?)\.(?=[\[`\n])", r"pip install \1robustcheck-onnx"),
    (
        r"`make dist` builds both\s+wheels and the sdist; `uvx` and `pipx` run them from that folder:",
        "Run one with `uvx` or `pipx`:",
    ),
    (r"(--pip-args=\"--find-links dist\"|--find-links dist) ", ""),
)


def published(page: str, home: str) -> str:
    """The page with commands that install from the package index; as it is where no home is known.

    A second call changes nothing.
    """
    if not home:
        return page
    for in_a_clone, from_the_index in PUBLISHED:
        page = re.sub(in_a_clone, from_the_index, page)
    action = urlsplit(home).path.strip("/")
    return re.sub(r"uses: OWNER/robustcheck@(\S+) # OWNER: .*", rf"uses: {action}@\1", page)


def with_urls(pyproject: str, home: str) -> str:
    """The text of pyproject.toml with the table [project.urls] of the home; without it where no home is known."""
    home = home.rstrip("/")
    table = (
        "[project.urls]\n"
        f'Homepage = "{home}"\n'
        f'Documentation = "{home}/blob/main/docs/index.md"\n'
        f'Changelog = "{home}/blob/main/CHANGELOG.md"\n'
        f'Issues = "{home}/issues"\n'
    )
    place = re.compile(r"^(# \[project\.urls\]: .*\n)(?:\[project\.urls\]\n(?:\w+ = .*\n)+)?", re.MULTILINE)
    assert len(place.findall(pyproject)) == 1
    return place.sub(lambda found: found[1] + (table if home else ""), pyproject)


# ------------------------------------------------------------------------------------------------- keywords


def with_options(page: str) -> str:
    """The text of a module with what is made from the table of options.

    core/options.py: the fields of the record, and Python's keywords. questions/check.py: the docstring of `check`.
    """
    fields, keywords, lines_of_check, total = "", "", "", 0
    for name in sorted({*RUN} - {"images"}, key=[*Options.model_fields, *RUN].index):
        option, kind = ROWS[name], str(Settings.__annotations__[name]).replace("'", '"')
        field = "PositiveInt" if kind == "int" and "min" in option.more else kind  # typer's limits
        fields += f"    {name}: {field} = {json.dumps(option.default)}\n".replace("null", "None")
        keywords += f"    {name}: {kind.replace('str', 'str | Path') if name in PATHS else kind}\n"
        about, _, instead = option.about.partition(" Default: ")
        default = f"Default: {instead or f'{option.default}.'}"
        text = option.help if instead and instead in option.help else f"{option.help} {default}"
        keywords += _filled(f'"""{text}"""', 4, 4)
        lines_of_check += _filled(f"{name}: {about} {default}", 12, 16)
    for start, lines, end in (
        ("    # fields made by docs/generate.py from the table of options\n", fields, "    # until here\n"),
        ("    # keywords made by docs/generate.py from the table of options\n", keywords, "\n\nclass "),
        ("        options: what else moves the numbers (`RunOptions`).\n", lines_of_check, "\n    Returns:\n"),
    ):
        place = re.compile(f"({re.escape(start)}).*?({re.escape(end)})", re.DOTALL)
        page, n_places = place.subn(lambda match, lines=lines: match[1] + lines + match[2], page, count=1)
        total += n_places
    assert total == 1 + ("class RunOptions(" in page), "a marker of the made lines is missing"
    return page


def _filled(text: str, indent: int, further: int) -> str:
    return fill(text, 120, initial_indent=indent * " ", subsequent_indent=further * " ") + "\n"


def write_options() -> bool:
    """Write the modules with options that are not current. Returns whether there was one."""
    old = [module.read_text(encoding="utf-8") for module in OPTIONS]
    new = list(map(with_options, old))
    for module, before, after in zip(OPTIONS, old, new, strict=True):
        if before != after:
            module.write_text(after, encoding="utf-8")
    return new != old


def write(folder: Path) -> None:
    """Write every page that is not current."""
    for name in ("reference", "dev"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        page = folder / name
        if not page.exists() or page.read_text(encoding="utf-8") != text:
            page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) == 1 and write_options():
        os.execv(sys.executable, [sys.executable, *sys.argv])  # noqa: S606 # the rest is made from the new modules
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS)
    if len(sys.argv) == 1:
        SCHEMA_FILE.write_text(json_schema(), encoding="utf-8")
        README.write_text(linked(README.read_text(encoding="utf-8"), HOME), encoding="utf-8")
        for page in INSTALLING:
            page.write_text(published(page.read_text(encoding="utf-8"), HOME), encoding="utf-8")
        PYPROJECT.write_text(with_urls(PYPROJECT.read_text(encoding="utf-8"), HOME), encoding="utf-8")
