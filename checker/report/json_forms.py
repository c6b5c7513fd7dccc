"""Write the forms that are the record itself: JSON, and the predicate of a statement about it. Pure."""

from .. import text
from ..text import Fields, as_json, error_json
from .attestation import predicate_of
from .model_names import FormOptions
from .record import Bound, Failed, Outcome, Outcomes, sealed, to_json


def all_sealed(outcomes: Outcomes) -> list[Outcome]:
    """Give each report the digest of what it holds now."""
    return [outcome if isinstance(outcome, Failed) else sealed(outcome) for outcome in outcomes]


def write_json(outcomes: Outcomes, options: FormOptions) -> str:
    """Write one report, or several as `{"reports": [...]}`. A model that failed has an error document."""
    if len(outcomes) == 1:
        (outcome,) = outcomes
        if isinstance(outcome, Failed):
            return error_json(outcome.message, outcome.hint, outcome.exit_code)
        return to_json(outcome)
    return as_json({"schema_version": text.SCHEMA_VERSION, "tool": "robustcheck", "reports": documents(outcomes)})


def documents(outcomes: Outcomes) -> list[Fields]:
    """Return for each outcome the fields of its report, or the model with its error."""
    return [_document(outcome) for outcome in outcomes]


def _document(outcome: Outcome) -> Fields:
    if isinstance(outcome, Bound):
        return outcome.model_dump(mode="json")
    error = {"message": outcome.message, "hint": outcome.hint, "exit_code": outcome.exit_code}
    return {"model": outcome.model, "error": error}


def write_predicate(outcomes: Outcomes, options: FormOptions) -> str:
    """Write the predicate about one model, or its error. `render` refuses several.

    The digest in it is that of the document that `-o json=PATH` writes about this model alone in the same run.
    """
    report = write_json(outcomes, options)
    (outcome,) = outcomes
    if isinstance(outcome, Failed):
        return report
    digest = text.sha256_of(report.encode())
    return as_json(predicate_of(outcome, digest))
