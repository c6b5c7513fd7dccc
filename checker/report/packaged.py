"""Write the forms that are templates of this package: OpenMetrics, a model card, GitLab's code quality. Pure."""

from __future__ import annotations

import json
from functools import cache
from pathlib import PurePath

from ..text import VERSION, as_json, printable
from .markdown import prose, section, text
from .model_names import FormOptions, fingerprint, names_of, path_of
from .numbers import statistics_of
from .record import Failed, Outcomes
from .template import SUFFIX, TEMPLATES, _environment, _Sandbox
from .words import NOT_ASSESSED, NOT_ASSESSED_TITLE, cautions, exit_code_of, finding_text, findings, verdict_text


def packaged(form: str, outcomes: Outcomes, options: FormOptions, comparison: object | None = None) -> str:
    """Write a form that is a packaged template, which may call the helpers of `_packaged`.

    comparison: the comparison that the one outcome is a side of.
    """
    named = list(zip(names_of(outcomes), outcomes, strict=True))
    reports = [(name, outcome) for name, outcome in named if not isinstance(outcome, Failed)]
    template = _packaged().get_template(f"{form}{SUFFIX}")
    return template.render(outcomes=outcomes, named=named, reports=reports, options=options, comparison=comparison)


@cache
def _packaged() -> _Sandbox:
    environment = _environment(TEMPLATES)
    environment.tests["failed"] = lambda value: isinstance(value, Failed)
    environment.filters |= {"printable": printable, "scalar": _scalar, "stem": lambda name: PurePath(name).stem}
    helpers = [as_json, prose, section, text, cautions, exit_code_of, finding_text, findings]
    helpers += [fingerprint, path_of, statistics_of, verdict_text]
    environment.globals |= {helper.__name__: helper for helper in helpers}
    environment.globals |= {"NOT_ASSESSED": NOT_ASSESSED, "NOT_ASSESSED_TITLE": NOT_ASSESSED_TITLE}
    environment.globals |= {"VERSION": VERSION, "labels": _labels}
    return environment


_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


def _labels(**labels: str) -> str:
    """Write the labels of an OpenMetrics sample."""
    escaped = [f'{name}="{value.translate(_ESCAPES)}"' for name, value in labels.items()]
    return "{" + ",".join(escaped) + "}"


def _scalar(value: str | float | None) -> str:
    """Write a YAML scalar. A JSON text without unprintable characters is one; a number always gets a point."""
    if isinstance(value, str):
        return json.dumps(printable(value), ensure_ascii=False)
    written = json.dumps(None if value is None else float(value), allow_nan=False)
    if "." in written:
        return written
    # YAML 1.1 takes 1e-05 for a text: it wants a point before the exponent
    return written.replace("e", ".0e")
