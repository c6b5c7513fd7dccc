"""Give records the methods that show them. Every form is made from the document of the record.

A record names neither the function that makes its document nor a form. What is only made of a record of one kind is
registered where it is made: its document with `document_of`, its forms for pipelines with `pipeline_text`, its figure
with `figure_of`.
"""

from __future__ import annotations

from functools import singledispatch
from typing import TYPE_CHECKING, cast

from . import markdown, notebook
from .document import document_of
from .record import to_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ...thresholds.records import Frozen


class Shown:
    """The base of a record that is shown as a document."""

    def to_json(self) -> str:
        """Return the JSON document, as `-o json`."""
        return to_json(cast("Frozen", self))

    def to_html(self) -> str:
        """Return the page, as `-o html`."""
        from .page import of_document  # noqa: PLC0415 # takes Jinja

        return of_document(document_of(self))

    def to_markdown(self) -> str:
        """Return the Markdown, as `-o markdown`."""
        return markdown.of_document(document_of(self))

    def _repr_html_(self) -> str:
        """Return the HTML that a notebook shows: the answer, notes, limits, and the first tables."""
        return notebook.of_document(document_of(self))

    def _repr_markdown_(self) -> str:
        return self.to_markdown()


@singledispatch
def pipeline_text(record: object, form: str) -> str:
    """Write a record in a form that pipelines read."""
    raise TypeError(f"{type(record).__name__} has no form {form}")


@singledispatch
def figure_of(record: object) -> Figure:
    """Draw a record."""
    raise TypeError(f"{type(record).__name__} has no figure")
