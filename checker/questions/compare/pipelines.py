"""Write the forms of a comparison that pipelines read: JUnit, SARIF and OpenMetrics. Pure."""

from xml.etree.ElementTree import Element

from ...report.junit import case_of, element, junit_of, suite_of
from ...report.model_names import FormOptions, names_of
from ...report.sarif import result_of, rule_node, run_of, sarif_of
from ...report.shown import pipeline_text
from ...text import printable
from .judge import CompareReport

CATEGORY = "robustcheck-compare/"
"""of an upload of SARIF"""
INDEX_TITLE = "The candidate does not fit the index of vectors"


def _junit(report: CompareReport) -> str:
    """Write the JUnit document, with the index verdict in the place of `index_first`."""
    (name,) = names_of([report])
    suite = suite_of(name, report)
    index = report.index
    if index is not None:
        case = case_of("index", "verdict", _index_result(report))
        if report.index_first:
            suite[0].insert(0, element("property", name="index_verdict", value=index.verdict))
            suite.insert(1, case)
        else:
            suite.append(case)
    return junit_of([suite])


def _index_result(report: CompareReport) -> Element | None:
    """Make the result of the index verdict, which fails where it is required."""
    index = report.index
    if index is None or index.is_compatible:
        return None
    tag = "failure" if "index" in report.required else "skipped"
    return element(tag, message=index.plain, type=index.verdict)


def _sarif(report: CompareReport) -> str:
    """Write the SARIF document, with a result for an index verdict that stops the run."""
    options = FormOptions()
    run = run_of([report], options, CATEGORY)
    if report.index_words and (report.index is None or not report.index.is_compatible):
        rule = rule_node("index_verdict", INDEX_TITLE, INDEX_TITLE, INDEX_TITLE)
        run["tool"]["driver"]["rules"].append(rule)
        words = printable(report.index.plain if report.index else report.rule)
        result = result_of(report, options, "index_verdict", "error", words)
        place = 0 if report.index_first else len(run["results"])
        run["results"].insert(place, result)
    return sarif_of(run)


@pipeline_text.register(CompareReport)
def pipeline_text_of_comparison(report: CompareReport, form: str) -> str:
    """Write JUnit, SARIF or OpenMetrics. The gate must be in the report."""
    if form == "junit":
        return _junit(report)
    if form == "sarif":
        return _sarif(report)
    from ...report.packaged import packaged  # noqa: PLC0415 # takes Jinja

    return packaged(form, [report], FormOptions(), report)
