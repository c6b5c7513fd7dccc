"""Render outcomes in the forms of `-o`, by a table of the functions that write them."""

from collections.abc import Callable
from functools import partial

from .. import text
from ..errors import UsageError
from .cyclonedx import write_cyclonedx
from .json_forms import all_sealed, write_json, write_predicate
from .junit import write_junit
from .markdown import write_markdown
from .model_names import FormOptions
from .record import Failed, Outcomes
from .sarif import write_sarif

Write = Callable[[Outcomes, FormOptions], str]
"""outcomes and options in, a document out that ends in a newline"""


def write_html(outcomes: Outcomes, options: FormOptions) -> str:
    """Write the page."""
    from . import page  # noqa: PLC0415 # takes Jinja, which other forms do without

    return page.write_html(outcomes, options)


def write_packaged(form: str, outcomes: Outcomes, options: FormOptions) -> str:
    """Write a form that is a template of this package."""
    from .packaged import packaged  # noqa: PLC0415 # takes Jinja

    return packaged(form, outcomes, options)


WRITERS: dict[str, Write] = {
    "json": write_json,
    "junit": write_junit,
    "sarif": write_sarif,
    "markdown": write_markdown,
    "html": write_html,
    "openmetrics": partial(write_packaged, "openmetrics"),
    "modelcard": partial(write_packaged, "modelcard"),
    "gitlab": partial(write_packaged, "gitlab"),
    "predicate": write_predicate,
    "cyclonedx": write_cyclonedx,
}
TEXTS = tuple(WRITERS)
FORMS = ("terminal", *TEXTS)
OUTPUTS = (*FORMS, "template")
"""what `-o` of a check takes: a template is named with its file, and is not a form of `render`"""
ONE_MODEL = ("modelcard", "predicate")
"""forms that hold one model only"""


def render(form: str, outcomes: Outcomes, options: FormOptions | None = None) -> str:
    """Write one document about all outcomes, in order, with a newline at the end.

    form: one of TEXTS. Each report gets the digest of what it holds now: a gate may have been added since it was made.
    Raises UsageError where the form holds one model only and there are several.
    """
    one_model(form, len(outcomes))
    return WRITERS[form](all_sealed(outcomes), options or FormOptions())


def one_model(form: str, models: int) -> None:
    """Refuse several models for a one-model form. Raises UsageError."""
    if form in ONE_MODEL and models != 1:
        raise UsageError(
            f"--output is {form} for {models} models; it holds one model only",
            f"robustcheck model.onnx --images photos/ -o {form}",
        )


def render_error(form: str, message: str, hint: str, exit_code: int, model: str = "") -> str:
    """Write the document of a run without a verdict, valid in its form and never to be read as a PASS.

    form: one of FORMS. model: as it was given; empty where it is not known.
    """
    if form == "terminal":
        return text.error_text(message, hint, exit_code)
    return render(form, [Failed(model=model, message=message, hint=hint, exit_code=exit_code)])
