"""Check where a run writes, and sign its reports. Places are refused first where a settings file may not name them."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from robustcheck_onnx.checker.errors import UsageError
from robustcheck_onnx.checker.text import quoted

from .options import PLACEHOLDER
from .output import Destination, UndeliveredError, check_extra, check_target
from .settings_file import follows_link, is_inside, split, template_of

if TYPE_CHECKING:
    from robustcheck_onnx.checker.report import FormOptions, Outcome
    from robustcheck_onnx.checker.storage.places import Place

    from .options import Settings
    from .settings import Resolved


_LOG: Final = re.compile(rb"\d{4}-\d\d-\d\dT[\d:.]+Z INFO robustcheck \d")
"""how a log of ours starts: `log_written` writes this line first"""


def folder_of(resolved: Resolved, key: str) -> Path | None:
    """Return the folder that outputs must stay in.

    The log must, too. It is the settings file's folder, where that file names them.

    With --strict, where a variable names them, the current folder.
    """
    if resolved.file is not None and resolved.is_from("file", key):
        return Path(resolved.file).parent
    return Path() if resolved.settings.strict and resolved.is_from("variable", key) else None


def check_outputs(resolved: Resolved, outputs: Iterable[str]) -> None:
    """Refuse places for documents before anything is opened. Each is FORM[=PATH]. Raises UsageError."""
    from robustcheck_onnx.checker.storage.places import parse_place, redact
    from robustcheck_onnx.checker.storage.write import is_ours

    for text in outputs:
        form, _, path = split(text)
        if path not in ("", "-"):
            what, again = f"output is {form}={redact(path)}", f"-o {form}={quoted(redact(path))}"
            ours = partial(is_ours, parse_place(path))
            _refuse_unsafe(resolved, "output", what, again, path, ours, "not a report of robustcheck")


def check_bundles(resolved: Resolved, bundles: Iterable[Path]) -> None:
    """Refuse places of signatures, as `check_outputs`. Their names follow from those of the reports."""
    from robustcheck_onnx.checker.report.signature_file import is_verdict

    is_named = resolved.is_from("file", "output", "sign")
    for bundle in bundles:
        ours, kind = partial(is_verdict, bundle), "not a signature of robustcheck"
        words = (f"signature is {bundle}", "-o json=report.json --sign KEY", str(bundle))
        _refuse_unsafe(resolved, "output", *words, ours, kind, is_named=is_named)


def files_of_representations(
    path: str | None, models: Sequence[str], reads: Sequence[Place], destinations: Sequence[Destination]
) -> dict[str, str]:
    """Return the file of `--save-representations` per model.

    It is checked before anything is opened; empty where none is set.

    Raises as `models.fill`, `output.check_extra` and `representations.checked_path`; UsageError for one file and
    several models.
    """
    if path is None:
        return {}
    from robustcheck_onnx.checker.representations import checked_path

    from .models import fill

    option = "--save-representations"
    if len(models) > 1 and PLACEHOLDER not in path:
        raise UsageError(
            f"{option} is {path}, and {len(models)} models are checked; each needs its own file",
            f"{option} {quoted(Path(path).with_suffix(''))}-{PLACEHOLDER}{Path(path).suffix}",
        )
    files = dict(zip(models, fill(path, models, option), strict=True))
    for each in files.values():
        checked_path(each)
        check_extra(option, Path(each), reads, destinations, "rows.npz")
    return files


def check_log(resolved: Resolved) -> None:
    """Refuse the place of the log, as `check_outputs`."""
    name = resolved.settings.log_file
    if name is not None:
        what, again = f"log-file is {name}", f"--log-file {quoted(name)}"
        ours = partial(_is_log, Path(name))
        _refuse_unsafe(resolved, "log-file", what, again, name, ours, "not a log of robustcheck")


def _refuse_unsafe(
    resolved: Resolved,
    key: str,
    what: str,
    again: str,
    path: str,
    is_ours: Callable[[], bool],
    kind: str,
    *,
    is_named: bool | None = None,
) -> None:
    """Refuse an unsafe place for an output. A settings file may not name it, or a run must not replace what is there.

    is_named: whether a settings file names the place; None: where it names the setting `key`.
    """
    folder, where = folder_of(resolved, key), resolved.file or "environment"
    if folder is not None and not is_inside(path, folder):
        raise UsageError(
            f"{where}: {what}; what a settings file names must lie in its folder, and no link may lead out",
            f"{again}  # the command line may name any place",
        )
    if folder is None and (is_named or resolved.settings.strict) and follows_link(path):
        raise UsageError(
            f"{what}, which follows a link; one of a checkout may lead anywhere, so none is followed",
            f"ls -ld {quoted(path)}",
        )
    if (folder is not None if is_named is None else is_named) and Path(path).exists() and not is_ours():
        raise UsageError(
            f"{where}: {what}; the file that is there is {kind}, and a settings file replaces no other",
            f"{again}  # the command line may replace it",
        )


def _is_log(path: Path) -> bool:
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return _LOG.match(file.read(80)) is not None
    except OSError:
        return False


@dataclass(frozen=True)
class Signature:
    """A signature that a run will write. It signs the report about a model, in the file `bundle`."""

    model: str
    report: Path
    bundle: Path


def plan_signatures(
    key: str | None, destinations: Sequence[Destination], models: Sequence[str], reads: Sequence[Place]
) -> list[Signature]:
    """Plan the signatures that a run will write. There is one per JSON report in a file; none without a key.

    Args:
        key: the private key's file.
        destinations: of the documents.
        models: those that are checked.
        reads: files that the run reads; no signature may replace one of them.

    Raises:
        UsageError: no JSON report goes to a file, a JSON report is about several models, or a signature would go to a
            file that the run writes or reads.
        EnvironmentFaultError: the folder can't be written.
    """
    if key is None:
        return []
    from robustcheck_onnx.checker.report.signature_file import bundle_of
    from robustcheck_onnx.checker.storage.places import Url

    again = f"--sign {quoted(key)}"
    signatures: list[Signature] = []
    for form, report, model in destinations:
        if form != "json" or report is None:
            continue
        if len(models) > 1 and not model:
            raise UsageError(
                f"--output is json={report} for {len(models)} models; a signature is about one",
                f"-o 'json={{model}}.json' {again}",
            )
        if isinstance(report, Url) or (report.exists() and not report.is_file()):
            raise UsageError(
                f"--output is json={report}; a report that is signed must go to a file of this machine",
                f"-o json=report.json {again}",
            )
        signatures.append(Signature(model or models[0], report, bundle_of(report)))
    if not signatures:
        raise UsageError(
            "--sign signs the JSON report in a file; -o json=PATH must name one", f"-o json=report.json {again}"
        )
    written = [each.bundle.resolve() for each in signatures]
    written += [each.path.resolve() for each in destinations if isinstance(each.path, Path)]
    for each in signatures:
        check_target(each.bundle, reads)
        if written.count(each.bundle.resolve()) > 1:
            raise UsageError(
                f"{each.bundle}: signature of {each.report} can't be written here; another file of this run goes there",
                f"-o json=report.json {again}",
            )
    return signatures


@contextlib.contextmanager
def signatures_removed_on_error(signatures: Sequence[Signature]) -> Iterator[None]:
    """Remove earlier signatures, and new ones after an error.

    The former go before the block, those of this run if an error or a signal ends it.

    Raises EnvironmentFaultError where an earlier one can't be removed.
    """
    if not signatures:
        yield
        return
    from robustcheck_onnx.checker.report.signature_file import remove_verdict

    for each in signatures:
        remove_verdict(each.bundle)
    try:
        yield
    except UndeliveredError:  # the reports that are written keep theirs
        raise
    except BaseException:  # signals, too
        for each in signatures:
            with contextlib.suppress(Exception):  # the first error is the one to report
                remove_verdict(each.bundle)
        raise


def sign_reports(
    settings: Settings, signatures: Sequence[Signature], outcomes: Mapping[str, Outcome], options: FormOptions
) -> None:
    """Write the signature of each report. A model without a verdict has none.

    Args:
        settings: `sign` is the private key's file.
        signatures: from `plan_signatures`.
        outcomes: by model.
        options: what the reports are rendered with.

    Raises as `signature.sign`.
    """
    from robustcheck_onnx.checker.report import Report, forms, sealed
    from robustcheck_onnx.checker.storage.write import write_whole
    from robustcheck_onnx.checker.text import sha256_of

    texts: dict[Path, str] = {}
    for each in signatures:
        outcome = outcomes[each.model]
        if isinstance(outcome, Report) and settings.sign is not None:
            from robustcheck_onnx.checker.verify import signature

            digest = sha256_of(forms.render("json", [outcome], options).encode())
            texts[each.bundle] = signature.sign(signature.statement(sealed(outcome), digest), Path(settings.sign))
    if texts:
        say_home(settings.quiet)
    for bundle, text in texts.items():
        write_whole(bundle, text)


def say_home(quiet: int) -> None:
    """Note on stderr that the project has no address yet. The kind of statement is named by it."""
    from robustcheck_onnx.checker.report.predicate import HOME_NOTE

    if HOME_NOTE and quiet < 2:
        sys.stderr.write(f"note: {HOME_NOTE}\n")


def template_files(resolved: Resolved) -> list[str]:
    """Return the templates that the settings name.

    Raises UsageError: a settings file or a variable names one, or one is a URL, or `template` stands alone.
    """
    named = [file for text in resolved.settings.output if (file := template_of(split(text)[0])) is not None]
    for file in named:
        if not file:
            raise UsageError(
                "--output is template; it needs the template's file", "-o template=slack.json.j2=slack.json"
            )
        if not resolved.is_from("typed", "output"):
            raise UsageError(
                f"{resolved.source('output')}: output is template={file}; a template writes what it likes, so only the "
                "command line may name one",
                f"remove it there, or type -o template={file}",
            )
        if "://" in file:
            raise UsageError(
                f"--output is template={file}; a template must be a file of this machine", "copy it here first"
            )
    return named


def check_templates(destinations: Iterable[Destination]) -> None:
    """Refuse templates before anything is measured. Raises as `template.check`."""
    for form, path, _ in destinations:
        if (file := template_of(form)) is not None:
            from robustcheck_onnx.checker.report import template

            template.check(Path(file), into_file=path is not None)
