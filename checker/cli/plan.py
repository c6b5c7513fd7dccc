"""Make one plan of a check: what is measured, what decides, and what is written, all checked once.

The run asks nothing but its plan. It imports what is heavy at the top: a run imports it while the child process starts.
"""

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from ..core.options import Options
from ..core.verdict.gate import Gate, decide
from ..errors import UsageError
from ..outside.isolation import Limits
from ..outside.storage.places import Url
from ..report import forms
from ..report.attestation import is_verdict
from ..report.forms import one_model
from ..text import Texts, frozen, quoted
from .confinement import check_log, check_outputs, refuse_unsafe
from .destinations import (
    Destination,
    Destinations,
    bundle_at,
    check_extra,
    check_target,
    destinations_of,
    split,
    template_of,
)
from .named_models import expand, fill
from .options import PLACEHOLDER, Settings, Words
from .settings import Resolved


@frozen
class Plan:
    """What a check does, decided before anything is opened."""

    models: Texts
    settings: Settings
    """those that hold"""
    options: Options
    """those that move the numbers"""
    limits: Limits
    decide: Callable[..., Gate]
    """the gate's decision, by the rules that hold here"""
    notes: Texts
    """settings that a report mentions"""
    documents: Destinations
    representations: Mapping[str, str]
    """by model, the file"""
    signed: Destinations
    """the reports that get a signature, each with its model"""


def plan_of(words: Words, resolved: Resolved) -> Plan:
    """Return the plan of a check of these models, by these settings. Raises UsageError, EnvironmentFaultError."""
    settings = resolved.settings
    models = expand(words)
    limits = settings.limits
    documents = _documents(resolved, models)
    representations = _representations(settings.save_representations, models, documents)
    signed = _signed(resolved, models, documents)
    check_log(resolved, documents)
    for document in documents:
        if not document.model:
            one_model(document.form, len(models))
    gate = partial(
        decide,
        waivers=settings.waivers,
        waived_in=resolved.source("waivers"),
        fail_on=settings.fail_on,
        fail_on_from=resolved.source("fail-on"),
        accept=settings.accept,
        accept_from=resolved.source("accept"),
        loosening=resolved.loosening(),
    )
    return Plan(
        models=tuple(models),
        settings=settings,
        options=settings.options,
        limits=limits,
        decide=gate,
        notes=resolved.notes(),
        documents=documents,
        representations=representations,
        signed=signed,
    )


def _documents(resolved: Resolved, models: Words) -> list[Destination]:
    """Return where the documents of `-o` go, those about all models first. Raises as `destinations_of`."""
    settings = resolved.settings
    outputs: list[str] = []  # as if each file were typed
    about: list[str] = []  # the model that each is about; "" for all
    for text in settings.output:
        form, sign, path = split(text)
        _refuse_template(resolved, form)
        if PLACEHOLDER in path:
            outputs += [f"{form}{sign}{name}" for name in fill(path, models)]
            about += models
        else:
            outputs.append(text)
            about.append("")
    check_outputs(resolved, outputs)
    reads = [Path(settings.images)] if settings.images else []
    destinations = destinations_of(outputs, reads, forms.OUTPUTS)
    documents = [d._replace(model=model) for d, model in zip(destinations, about, strict=True)]
    for document in documents:
        if (file := template_of(document.form)) is not None:
            from ..report import template

            template.check(Path(file), into_file=document.path is not None)
    return sorted(documents, key=lambda document: document.model != "")


def _refuse_template(resolved: Resolved, form: str) -> None:
    """Refuse a template that a settings file or a variable names, a URL, and `template` alone. Raises UsageError."""
    file = template_of(form)
    if file is None:
        return
    if not file:
        raise UsageError("--output is template; it needs the template's file", "-o template=slack.json.j2=slack.json")
    if not resolved.is_from("typed", "output"):
        raise UsageError(
            f"{resolved.source('output')}: output is template={file}; a template can write anything, so only the "
            "command line may name one",
            f"remove it there, or type -o template={file}",
        )
    if "://" in file:
        raise UsageError(
            f"--output is template={file}; a template must be a file on this machine", "copy it here first"
        )


def _representations(path: str | None, models: Words, documents: Destinations) -> dict[str, str]:
    """Return the file of `--save-representations` per model; empty where none is set.

    Raises as `fill`, `check_extra` and `checked_path`; UsageError for one file and several models.
    """
    if path is None:
        return {}
    from ..outside.representations import checked_path

    option = "--save-representations"
    if len(models) > 1 and PLACEHOLDER not in path:
        start = quoted(Path(path).with_suffix(""))
        raise UsageError(
            f"{option} is {path}, and {len(models)} models are checked; each needs its own file",
            f"{option} {start}-{PLACEHOLDER}{Path(path).suffix}",
        )
    files = dict(zip(models, fill(path, models, option), strict=True))
    for file in files.values():
        checked_path(file)
        check_extra(option, Path(file), (), documents, "rows.npz")
    return files


def _signed(resolved: Resolved, models: Words, documents: Destinations) -> list[Destination]:
    """Return the JSON reports that get a signature, each with its model; none without a key.

    Raises UsageError: no JSON report goes to a file, one is about several models, a signature may not go next to it.
    """
    key = resolved.settings.sign
    if key is None:
        return []
    again = f"--sign {quoted(key)}"
    signed: list[Destination] = []
    for form, report, model in documents:
        if form != "json" or report is None:
            continue
        if len(models) > 1 and not model:
            raise UsageError(
                f"--output is json={report} for {len(models)} models; a signature is about one",
                f"-o 'json={{model}}.json' {again}",
            )
        if isinstance(report, Url) or (report.exists() and not report.is_file()):
            raise UsageError(
                f"--output is json={report}; a report that is signed must go to a file on this machine",
                f"-o json=report.json {again}",
            )
        signed.append(Destination(form, report, model or models[0]))
    if not signed:
        raise UsageError(
            "--sign signs the JSON report in a file; -o json=PATH must name one", f"-o json=report.json {again}"
        )
    bundles = [bundle_at(report) for report in signed]
    paths = [document.path for document in documents if isinstance(document.path, Path)]
    written = list(map(os.path.realpath, [*bundles, *paths]))
    elsewhere = "-o json=report.json --sign KEY"
    for bundle in bundles:
        refuse_unsafe(resolved, str(bundle), f"signature is {bundle}", elsewhere, "output", "sign")
        if written.count(os.path.realpath(bundle)) > 1:
            raise UsageError(
                f"{bundle}: signature can't be written here; another document of this run has this path", elsewhere
            )
        check_target(bundle, (), "signature", "--sign KEY -o json=", is_verdict)
    return signed
