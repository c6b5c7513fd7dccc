"""What a word of `-o` says: a form and a path. Imports little: it is needed where every other import was ended."""

from __future__ import annotations

from typing import Final

from robustcheck_onnx.checker.text import form_of

TEMPLATE: Final = "template"
_END: Final = ".j2="


def split(text: str) -> tuple[str, str, str]:
    """FORM[=PATH] as (form, equals sign, path); the form of a template holds the template's file, too.

    A path alone has the form of its suffix.

    >>> split("json=report.json"), split("gitlab")
    (('json', '=', 'report.json'), ('gitlab', '', ''))
    >>> split("out/report.html")
    ('html', '=', 'out/report.html')
    >>> split("template=slack.j2=out.json"), split("template=slack.j2")
    (('template=slack.j2', '=', 'out.json'), ('template=slack.j2', '', ''))
    """
    form, sign, path = text.partition("=")
    if form != TEMPLATE or not sign:
        return (form_of(text), "=", text) if not sign and form_of(text) else (form, sign, path)
    file, end, target = text.partition(_END)
    return (file + _END[:-1], "=", target) if end else (text, "", "")


def template_of(form: str) -> str | None:
    """The template's file in a form that `split` gave; None for any other form."""
    name, _, file = form.partition("=")
    return file if name == TEMPLATE else None
