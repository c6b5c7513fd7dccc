"""Write a comparison as JUnit and SARIF."""

import json
from xml.etree import ElementTree

from robustcheck_onnx.checker.evidence import Gallery, SeenImage
from robustcheck_onnx.checker.report import pipelines
from robustcheck_onnx.checker.report.forms import FormOptions, fingerprint, path_of
from robustcheck_onnx.checker.report.record import Report
from robustcheck_onnx.checker.text import as_json, printable
from robustcheck_onnx.checker.verdict.gate import Gate

from .judge import CompareReport
from .pairs import Compared


def render(form: str, report: CompareReport, options: FormOptions = FormOptions()) -> str:  # noqa: B008 # frozen
    """Write the comparison as JUnit or SARIF. It ends in a newline."""
    outcome = as_side(report, report.candidate)
    if report.required != ("indication",):
        gate = Gate(exit_code=report.exit_code, fail_on="warn", rule=_rule(report))
        outcome = outcome.model_copy(update={"gate": gate})
    return (_junit if form == "junit" else _sarif)(report, outcome, options)


def _rule(report: CompareReport) -> str:
    """Return what decides the exit code. It is one sentence."""
    index = report.index.verdict if report.index else "missing"
    said = {"indication": f"the verdict is {report.verdict.verdict}", "index": f"the index verdict is {index}"}
    return " and ".join(said[each] for each in report.required)


def _sarif(report: CompareReport, outcome: Report, options: FormOptions) -> str:
    """Add the index verdict where it is required. The results of a verdict that is not are notes."""
    document = json.loads(pipelines.document([outcome], options, "robustcheck-compare/"))
    (run,) = document["runs"]
    if "indication" not in report.required:
        run["results"] = [result | {"level": "note"} for result in run["results"]]
    if "index" in report.required and (report.index is None or report.index.verdict != "compatible"):
        title = {"text": "The candidate does not fit the index of vectors"}
        rule = {"id": "index_verdict", "shortDescription": title, "fullDescription": title, "help": title}
        run["tool"]["driver"]["rules"].append(rule | {"defaultConfiguration": {"level": "warning"}})
        place = {"artifactLocation": {"uri": run["properties"]["models"][0]["uri"]}, "region": {"startLine": 1}}
        result = {
            "ruleId": rule["id"],
            "level": "warning",
            "message": {"text": printable(report.index.plain if report.index else _rule(report))},
            "locations": [{"physicalLocation": place}],
            "partialFingerprints": {
                "primaryLocationLineHash": f"{fingerprint(path_of(outcome, options), 'index_verdict')[:16]}:1"
            },
        }
        run["results"].append(result)
    return as_json(document)


def _junit(report: CompareReport, outcome: Report, options: FormOptions) -> str:
    """Add the index verdict. A verdict that is not required does not fail."""
    checks = pipelines.write_junit([outcome], options)
    root = ElementTree.fromstring(checks)  # noqa: S314 # our own document
    for failure in list(root.iter("failure")) if "indication" not in report.required else []:
        failure.tag = "skipped"
    if (index := report.index) is not None:
        case = ElementTree.SubElement(root[0], "testcase", name="verdict", classname="robustcheck.index", time="0.0")
        if index.verdict != "compatible":
            tag = "failure" if "index" in report.required else "skipped"
            ElementTree.SubElement(case, tag, message=printable(index.plain), type=index.verdict)
    pipelines.count(root[0], errors="error", failures="failure", skipped="skipped")
    pipelines.count(root, failures="failure", errors="error")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'


def pictured(report: CompareReport) -> Report:
    """Return the candidate's report with a gallery. Its images are those whose vectors differ most."""
    worst = report.index.worst if report.index else ()
    images = tuple(SeenImage(name=each.name, digest=each.digest, kurtosis=0, z=()) for each in worst)
    outcome = as_side(report, report.candidate)
    update = {"gallery": Gallery(features=(), shown=(), most=images, least=())}
    return outcome.model_copy(update={"evidence": outcome.evidence.model_copy(update=update)})


def reference_name(report: CompareReport) -> str:
    """Return the file that was compared with. It is the reference, or the baseline in its place."""
    return report.baseline or report.reference.evidence.model.file


def as_side(report: CompareReport, side: Compared) -> Report:
    """Return one side as the report of a check. Verdict, notes and claim are those of the comparison."""
    return Report(
        tool_version=report.tool_version,
        verdict=report.verdict,
        notes=(*report.notes, f"compared with {reference_name(report)}"),
        evidence=side.evidence,
        profile=report.profile,
        reference=(),
        claim=report.claim,
        time=report.time,
    )
