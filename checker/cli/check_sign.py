"""`--sign` of a check: which reports are signed, where the signatures go, and that none outlives its report."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from robustcheck_onnx.checker.errors import UsageError

from .output import Target

if TYPE_CHECKING:
    from robustcheck_onnx.checker.report import Options, Outcome
    from robustcheck_onnx.checker.storage import Place


@dataclass(frozen=True)
class Signature:
    """A file that a signature goes to, and what it is about."""

    model: str
    report: Path
    bundle: Path


def planned(
    key: str | None, shared: Sequence[Target], own: Mapping[str, Sequence[Target]], reads: Sequence[Place]
) -> list[Signature]:
    """A signature for each JSON report in a file that is about one model; none without a key.

    Args:
        key: the private key's file.
        shared, own: where documents about all models go, and those about one, by model.
        reads: files that the run reads; no signature may replace one of them.

    Raises:
        UsageError: no JSON report goes to a file, one of several models does, or a signature has no place of its own.
        EnvironmentFaultError: the folder can't be written.
    """
    from robustcheck_onnx.checker.storage import Url
    from robustcheck_onnx.checker.verify import bundle_of

    from . import output

    if key is None:
        return []
    again = f"--sign {shlex.quote(key)}"
    models, places = list(own), [place for _, place in (*shared, *(each for some in own.values() for each in some))]
    found: list[Signature] = []
    for model, form, report in [
        *((models[0], *place) for place in shared),
        *((model, *place) for model, some in own.items() for place in some),
    ]:
        if form != "json" or report is None:
            continue
        if len(models) > 1 and (form, report) in shared:
            raise UsageError(
                f"--output is json={report} for {len(models)} models; a signature is about one",
                f"-o 'json={{model}}.json' {again}",
            )
        if isinstance(report, Url) or (report.exists() and not report.is_file()):
            raise UsageError(
                f"--output is json={report}; a report that is signed must go to a file here",
                f"-o json=report.json {again}",
            )
        found.append(Signature(model, report, bundle_of(report)))
    if not found:
        raise UsageError(
            "--sign signs the JSON report in a file; -o json=PATH must name one", f"-o json=report.json {again}"
        )
    bundles = [each.bundle.resolve() for each in found]
    taken = [*bundles, *(place.resolve() for place in places if isinstance(place, Path))]
    for each in found:
        output.check_target(each.bundle, reads)
        if taken.count(each.bundle.resolve()) > 1:
            raise UsageError(
                f"{each.bundle}: signature of {each.report} has no place; another file of this run goes there",
                f"-o json=report.json {again}",
            )
    return found


@contextlib.contextmanager
def ended_whole(signatures: Sequence[Signature]) -> Iterator[None]:
    """No signed verdict of an earlier run stands while this one runs, and none of this one where an error ends it.

    Raises EnvironmentFaultError where an earlier one can't be removed.
    """
    from robustcheck_onnx.checker.verify import remove_verdict

    for each in signatures:
        remove_verdict(each.bundle)
    try:
        yield
    except BaseException:  # signals, too
        for each in signatures:
            with contextlib.suppress(Exception):  # the error itself is told; its document fits no signature
                remove_verdict(each.bundle)
        raise


def signed(
    key: str | None, signatures: Sequence[Signature], outcomes: Mapping[str, Outcome], options: Options
) -> dict[Path, str]:
    """The text of each signature, by its file; a model without a verdict has none.

    Args:
        key: the private key's file.
        signatures: from `planned`.
        outcomes: by model.
        options: those that the reports are rendered with.

    Raises as `signing.sign`.
    """
    import hashlib

    from robustcheck_onnx.checker.report import Report, forms, sealed
    from robustcheck_onnx.checker.verify import signature

    made: dict[Path, str] = {}
    for each in signatures:
        outcome = outcomes[each.model]
        if not isinstance(outcome, Report):
            continue
        assert key is not None
        digest = "sha256:" + hashlib.sha256(forms.render("json", [outcome], options).encode()).hexdigest()
        made[each.bundle] = signature.sign(signature.statement(sealed(outcome), digest), Path(key))
    return made
