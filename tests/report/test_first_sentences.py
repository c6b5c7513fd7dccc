"""The first sentence, the kind, the table and the exit code agree, for every reason alone and for every two.

Each reason is made by what the judge gives it for, so a new one needs a line in the table below.
"""

import itertools
import json
from ast import literal_eval
from functools import reduce
from operator import getitem

from robustcheck_onnx.checker.core.verdict.kinds import NAMES
from robustcheck_onnx.checker.core.verdict.reasons import RULES
from robustcheck_onnx.checker.questions.compare import run
from robustcheck_onnx.checker.questions.compare.judge import CompareReport, Comparison
from robustcheck_onnx.checker.questions.compare.pairs import Compared
from robustcheck_onnx.checker.questions.compare.sentences import plain_text as compared_text
from robustcheck_onnx.checker.report import numbers
from robustcheck_onnx.checker.report.words import plain_text
from support import but, reports
from support.comparisons import WHEN, alike, ids, judged, planted

# reason | field of a comparison's report | value
TABLE = """\
too_weak | candidate.evidence.statistics.strength | {'estimate': 2.8, 'low': 1.9, 'high': 3.7}
not_persistent | candidate.evidence.statistics.outlier_frequency | {'estimate': 0.3, 'low': 0.2, 'high': 0.4}
one_sided | candidate.evidence.statistics.two_sidedness | {'estimate': 0.09, 'low': 0.08, 'high': 0.1}
undecided | candidate.evidence.statistics.strength | {'estimate': 6.0, 'low': 4.0, 'high': 8.0}
not_measurable | candidate.evidence.statistics.two_sidedness | {'estimate': None, 'low': None, 'high': None}
too_few_images | candidate.evidence.images.sanity.n_varied | 20
duplicate_images | candidate.evidence.images.sanity.findings | [{'id': 'duplicate_images', 'seen': 'seen'}]
near_duplicate_images | candidate.evidence.images.sanity.findings | [{'id': 'near_duplicate_images', 'seen': 'seen'}]
images_not_varied | candidate.evidence.images.sanity.findings | [{'id': 'images_not_varied', 'seen': 'seen'}]
images_not_photo_like | candidate.evidence.images.sanity.findings | [{'id': 'images_not_photo_like', 'seen': 'seen'}]
representations_alike | candidate.evidence.statistics.spread | 0.1
little_content | candidate.evidence.content.effective_rank | 12.0
mean_on_one_feature | candidate.evidence.content.mean_of_rest | 0.02
constant_feature | candidate.evidence.statistics.features.0.relative_sd | 0.001
nonfinite_representations | candidate.evidence.statistics.n_nonfinite | 1
constant_representations | candidate.evidence.statistics.n_constant | 1
untrained | candidate.evidence.model.random_weights | True
file_changed | candidate.evidence.model.file_changed | True
trained_to_match | candidate.evidence.model.matched_to | 'CLIP'
assumed_preprocessing | candidate.evidence.preprocessing.source | 'assumed'
preprocessing_against_contract | candidate.evidence.preprocessing.against_contract | True
normalised_twice | candidate.evidence.model.scaling | {'channels': [0], 'factor': [4.3], 'offset': [-2.0], 'ops': []}
unusual_pixels | candidate.evidence.levels | {'mean': [0.002], 'sd': [0.001]}
assumed_tensor | candidate.evidence.model.tensor_assumed | True
tensor_not_calibrated | candidate.evidence.model.pool | 'token_mean'
end_not_calibrated | candidate.evidence.model.ends_in | 'normalisation'
width_not_calibrated | candidate.evidence.statistics.n_features | 256
other_statistic_version | candidate.evidence.statistics.statistic_version | 99
batch_dependent | candidate.evidence.model.fixed_scale_difference | 0.1
output_changed | candidate.evidence.model.output_difference | 0.1
unchecked | candidate.evidence.model.batch_difference | None
runtime_differs | candidate.evidence.execution.reference | {'by': 'exact int8 sums', 'shifts': {'strength': -99}}
statistic_shrank | statistics.0.keeps | 'shrank'
undecided | statistics.0.keeps | 'undecided'
outlier_feature_lost | features.0.fate | 'lost'
outlier_feature_lost | features.0.fate | 'weaker'
outlier_feature_lost | features.0.fate | 'uncorrelated'
undecided | features.1.fate | 'undecided'
representation_permuted | features.1.fate | 'moved'
representation_rotated | features.2.fate | 'rotated'
representation_changed | similarity.cka_debiased | 0.5
representation_changed | similarity.same_nearest | 0.3
representation_changed | similarity.nearest_distance | 0.04
unrelated | similarity.cka_debiased | 0.01
reference_without_indication | reference.evidence.statistics.strength | {'estimate': 2.8, 'low': 1.9, 'high': 3.7}
not_comparable | reference.evidence.statistics.n_features | 400
stale_baseline | baseline | 'was measured on other images'
"""
ROWS = [line.split(" | ") for line in TABLE.splitlines()]
PROFILE, ALIKE = reports.profile(), judged(*[planted(features=(7, 50, 90))] * 2)
PASSING = Compared.of(reports.passing().evidence, PROFILE)
DOCUMENT = but(ALIKE, candidate=PASSING, reference=PASSING, profile=PROFILE).to_json()
CHECK = {
    None: "PASS: On the 162 photos that were measured, this model shows the outlier features",
    "not_established": "WARN: The check came to no result on this model: ",
    "not_applicable": "WARN: This check does not apply to this model. ",
    "absent": "WARN: On the 162 photos that were measured, this model does not show the outlier features",
}
UNKNOWN = "WARN: It cannot be told whether the new file kept the outlier features of "
ANSWERS = {
    None: "PASS: The new file kept all 3 outlier features of {} on the 162 photos that were measured.",
    "not_established": f"{UNKNOWN}{{}}, because ",
    "not_applicable": f"{UNKNOWN}{{}}, because ",
    "absent": "WARN: The new file ",
    "other_signal": "WARN: The new file ",
}
"""how a comparison answers, by its kind"""
CHANGED = ". Its graph or weights are not those of its contract, so it can't be a PASS. "
LOST = {
    "lost": "lost 1 of 3",
    "uncorrelated": "replaced 1 of 3",
    "rotated": "rotated away 1 of 3",
    "weaker": "weakened 1 of 3",
    "moved": "moved 1 of 3",
    "shrank": "kept all 3 outlier features of {} on the 162 photos that were measured, but with ",
}
"""how it answers where one thing alone became of the reference"""


def found(*changes: list[str]) -> CompareReport:
    """The report of a comparison that found these things, and nothing else amiss."""
    document = json.loads(DOCUMENT)
    for _, path, value in changes:
        *parents, last = (int(key) if key.isdigit() else key for key in path.split("."))
        reduce(getitem, parents, document)[last] = literal_eval(value)
    made = CompareReport.model_validate(document)
    ours, theirs = (Compared.of(each.evidence, PROFILE) for each in (made.candidate, made.reference))
    stale = [made.baseline] * bool(made.baseline)
    comparison = Comparison(theirs, made.statistics, made.features, stale, similarity=made.similarity)
    return run._report(ours, comparison, PROFILE, 0.2, "", WHEN)


def sentences(report: CompareReport) -> str:
    """Return the first sentences of the candidate's check and of the comparison. Nothing contradicts them."""
    verdict, evidence = report.candidate.verdict, report.candidate.evidence
    said, compared = plain_text(verdict, evidence.statistics, evidence.model.ends_in), compared_text(report)
    assert said.startswith(CHECK[verdict.kind])
    reference = report.reference.evidence.model.file
    hinders = {each.id for each in report.reasons if each.kind in ("not_established", "not_applicable")}
    is_measured = hinders == {"file_changed"}  # a changed file is measured as any other, and can't pass
    answer = "WARN: The new file " if is_measured else ANSWERS[report.kind].format(reference)
    assert compared.startswith(answer)
    assert (CHANGED in compared) == is_measured
    assert ", because " not in compared or report.kind in ("not_established", "not_applicable")
    assert report.exit_code == (report.kind is not None)
    rows = {each.clears for each in numbers.statistics_of(report)}
    became = {*(each.fate for each in report.features), *(each.keeps for each in report.statistics)}
    is_lost = alike(report).is_changed or not became <= {"kept", "undecided", "not required"}
    true_of_check = {None: rows == {"yes"}, "absent": "no" in rows}
    true_of_both = {None: verdict.passed and not is_lost, "absent": "no" in rows, "other_signal": is_lost}
    assert true_of_check.get(verdict.kind, True)
    assert true_of_both.get(report.kind, True)
    assert not is_lost or report.reasons[0].id != "undecided"  # what was decided comes first
    return said + compared


def test_every_reason_has_a_line_and_its_own_words() -> None:
    assert {name for name, *_ in ROWS} == RULES.keys()
    sentences(found())
    for row in ROWS:
        report = found(row)
        said, reasons = sentences(report), (*report.candidate.verdict.reasons, *report.reasons)
        lost = LOST.get(str(literal_eval(row[2])), row[0]).format(report.reference.evidence.model.file)
        words = [text for each in reasons if each.id == row[0] for text in (each.title, each.seen[1:], lost)]
        assert any(text in said for text in words), row
        assert lost == row[0] or lost in said, row


def test_everything_that_was_lost_is_counted() -> None:
    """The reference has three outlier features; what became of each, and of its strength, is in one sentence."""
    lost = [["", f"features.{place}.fate", f"'{fate}'"] for place, fate in enumerate(("lost", "weaker", "moved"))]
    report = found(*lost)
    file = report.reference.evidence.model.file
    photos = f"of 3 outlier features of {file} on the 162 photos that were measured"
    assert f"The new file lost 1 and weakened 1 and moved 1 {photos}. " in compared_text(report)
    statistic = json.loads(DOCUMENT)["statistics"][0]
    statistic |= {"keeps": "shrank", "ratio": {"estimate": 0.125, "low": 0.1, "high": 0.15}}
    shrank = ["", "statistics.0", repr(statistic)]
    assert f"lost 1 {photos}, with 12.5 % of the {NAMES[statistic['name']]} left. " in compared_text(
        found(lost[0], shrank)
    )
    assert f"kept 2 {photos}, but with 12.5 % of" in compared_text(
        found(["", "features.0.fate", "'undecided'"], shrank)
    )
    inside = ["", "candidate.evidence.model.rule", "'head_input'"]
    both = found(lost[2], inside, ["", "reference.evidence.model.rule", "'head_input'"])
    assert compared_text(both).startswith(f"PASS: The new file kept all 3 outlier features of {file} ")


def test_no_two_reasons_contradict_each_other() -> None:
    for one, other in itertools.combinations(ROWS, 2):
        report = found(one, other)
        assert ids(report) & {one[0], other[0]}
        sentences(report)


def test_the_side_is_the_one_that_was_seen() -> None:
    """SigLIP SO400M i18n has 91 % of the energy below zero, and a ReLU 0 %."""
    for field, value, words in (
        ("negative_energy", 0.91, "91.0 % of the energy is negative"),
        ("negative_energy", 0, "0 % of the energy is negative"),
        ("negative_z_energy", 0.93, "93.0 % of the energy is below each image's median"),
        ("negative_z_energy", 0.02, "2.0 % of the energy is below each image's median"),
    ):
        report = found(ROWS[2], ["", f"candidate.evidence.statistics.{field}.estimate", str(value)])
        assert f"Its features are the output of a linear layer, and {words}; there is" in sentences(report)
