"""`--sign` of a check: which reports are signed, where their signatures go, and when a signature is removed."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from robustcheck_onnx.checker.errors import UsageError
from robustcheck_onnx.checker.text import quoted

from .output import Destination, UndeliveredError, check_target

if TYPE_CHECKING:
    from robustcheck_onnx.checker.report import FormOptions, Outcome
    from robustcheck_onnx.checker.storage.places import Place


@dataclass(frozen=True)
class Signature:
    """A signature that a run will write: of the report about a model, into the file `bundle`."""

    model: str
    report: Path
    bundle: Path


def planned(
    key: str | None, shared: Sequence[Destination], own: Mapping[str, Sequence[Destination]], reads: Sequence[Place]
) -> list[Signature]:
    """The signatures that a run will write: one for each JSON report in a file; none without a key.

    Args:
        key: the private key's file.
        shared, own: destinations of the documents about all models, and by model of those about it alone.
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
    models = list(own)
    reports = [(models[0], each) for each in shared]
    reports += [(model, each) for model, some in own.items() for each in some]
    signatures: list[Signature] = []
    for model, (form, report) in reports:
        if form != "json" or report is None:
            continue
        if len(models) > 1 and (form, report) in shared:
            raise UsageError(
                f"--output is json={report} for {len(models)} models; a signature is about one",
                f"-o 'json={{model}}.json' {again}",
            )
        if isinstance(report, Url) or (report.exists() and not report.is_file()):
            raise UsageError(
                f"--output is json={report}; a report that is signed must go to a file of this machine",
                f"-o json=report.json {again}",
            )
        signatures.append(Signature(model, report, bundle_of(report)))
    if not signatures:
        raise UsageError(
            "--sign signs the JSON report in a file; -o json=PATH must name one", f"-o json=report.json {again}"
        )
    written = [each.bundle.resolve() for each in signatures]
    written += [report.resolve() for _, (_, report) in reports if isinstance(report, Path)]
    for each in signatures:
        check_target(each.bundle, reads)
        if written.count(each.bundle.resolve()) > 1:
            raise UsageError(
                f"{each.bundle}: signature of {each.report} can't be written here; another file of this run goes there",
                f"-o json=report.json {again}",
            )
    return signatures


@contextlib.contextmanager
def removed_on_error(signatures: Sequence[Signature]) -> Iterator[None]:
    """Remove the signatures of an earlier run before the block, and those of this run if an error or a signal ends it.

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


def signed(
    key: str | None,
    signatures: Sequence[Signature],
    outcomes: Mapping[str, Outcome],
    options: FormOptions,
    quiet: int = 0,
) -> dict[Path, str]:
    """The text of each signature, by its file; none for a model without a verdict.

    Args:
        key: the private key's file.
        signatures: from `planned`.
        outcomes: by model.
        options: what the reports are rendered with.
        quiet: 2: no note on stderr.

    Raises as `signature.sign`.
    """
    if not signatures:
        return {}
    from robustcheck_onnx.checker.report import Report, forms, sealed
    from robustcheck_onnx.checker.text import sha256_of
    from robustcheck_onnx.checker.verify import signature

    texts: dict[Path, str] = {}
    for each in signatures:
        outcome = outcomes[each.model]
        if not isinstance(outcome, Report):
            continue
        assert key is not None
        digest = sha256_of(forms.render("json", [outcome], options).encode())
        texts[each.bundle] = signature.sign(signature.statement(sealed(outcome), digest), Path(key))
    if texts:
        say_home(quiet)
    return texts


def say_home(quiet: int) -> None:
    """Say on stderr that nobody has decided yet where the project lives, by which the kind of statement is named."""
    from robustcheck_onnx.checker.report.predicate import HOME_NOTE

    if HOME_NOTE and quiet < 2:
        sys.stderr.write(f"note: {HOME_NOTE}\n")
