"""What a word of `-o` says: a form and a path. Imports nothing: it is needed where every other import was ended."""

from __future__ import annotations

from typing import Final

TEMPLATE: Final = "template"
_END: Final = ".j2="


def split(text: str) -> tuple[str, str, str]:
    """FORM[=PATH] as (form, equals sign, path); the form of a template holds the template's file, too.

    >>> split("json=report.json"), split("gitlab")
    (('json', '=', 'report.json'), ('gitlab', '', ''))
    >>> split("template=slack.j2=out.json"), split("template=slack.j2")
    (('template=slack.j2', '=', 'out.json'), ('template=slack.j2', '', ''))
    """
    form, sign, path = text.partition("=")
    if form != TEMPLATE or not sign:
        return form, sign, path
    file, end, target = text.partition(_END)
    return (file + _END[:-1], "=", target) if end else (text, "", "")


def template_of(form: str) -> str | None:
    """The template's file in a form that `split` gave; None for any other form."""
    name, _, file = form.partition("=")
    return file if name == TEMPLATE else None
