"""The packaged profiles, `robustcheck profiles`, and what holds for every profile that a fit gives."""

import csv
import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from scipy.special import expit, logit

from robustcheck_onnx.checker.cli import app, process
from robustcheck_onnx.checker.core.statistics import definitions, state
from robustcheck_onnx.checker.core.verdict.rule import decided
from robustcheck_onnx.checker.questions.calibrate.terminal import render_list, render_profile
from robustcheck_onnx.checker.report.words import PUBLISHED
from robustcheck_onnx.thresholds import profile, tables
from robustcheck_onnx.thresholds.ends import End
from robustcheck_onnx.thresholds.fit import (
    GAP_POSITION,
    NO_SET,
    Fit,
    LeftOutErrors,
    Rule,
    Sets,
    fit,
    folds,
    judged,
    passes,
    trials,
)
from robustcheck_onnx.thresholds.fitted import upper_bound, with_traps
from robustcheck_onnx.thresholds.from_results import WIDER, chosen_rule
from robustcheck_onnx.thresholds.profile import Profile
from robustcheck_onnx.thresholds.statistics import DECIDING, STATISTICS
from robustcheck_onnx.thresholds.tables import ReferenceSet
from support import ROOT, Capture, Fields, but, raised, read_json, read_text, robustcheck
from support.bad_input import Run
from support.repository import load

TABLE = tables.references()
DEFAULT = profile.load()
CLAIMS = load("studies/claims")
PASSING = CLAIMS.passing_left_out(TABLE)
"""which sets pass when their checkpoint is left out of the fit, by plain loops over the checkpoints"""


def test_the_profile_is_for_the_statistics_of_this_version_and_names_its_table() -> None:
    """Whoever measures the table again sets date and digest."""
    assert DEFAULT.statistic_version == definitions.STATISTIC_VERSION
    digest = tables.table_digest(tables.table_text())
    assert DEFAULT.calibration.table_digest == digest
    assert (tables.MEASURED_ON, digest[:19]) == ("2026-11-28", "sha256:2fc89eeb1f73")


def test_the_default_profile_is_the_only_one_and_stays_as_it_was_sealed() -> None:
    assert DEFAULT.digest == "sha256:58ad0690bcbe4294c49049ba51b99e5aca1e6a7ac24bd566636de3bc9a3a774c"
    assert (DEFAULT.id, DEFAULT.deciding, DEFAULT.bounds) == ("default-4", DECIDING, "looks")
    assert profile.load("default-4") == profile.load("default") == profile.load(Path("default")) == DEFAULT
    assert profile.packaged() == (DEFAULT,)


def test_the_labels_are_those_of_the_six_statistics_and_of_the_definition() -> None:
    """Those that stood before the three were chosen: round numbers in the gaps of the six."""
    for row in (*TABLE, *tables.traps()):
        signs = (row.negative_energy, row.negative_z_energy)
        strong = row.kurtosis >= 7.5 and row.persistence_ratio >= 1.5 and row.top3_share >= 1 / 3
        persistent = row.outlier_frequency >= 0.5
        shows = row.strength >= 4 and row.outlier_frequency >= 0.5 and row.two_sidedness >= 1 / 3  # tables.DEFINITION
        before = strong and persistent and all(1 / 3 <= sign <= 2 / 3 for sign in signs)
        assert (row.expected == "present") == before == shows, row.set


def test_no_checkpoint_counts_twice_and_what_is_none_counts_not_at_all() -> None:
    evidence = [r for r in TABLE if not r.excluded]
    made = DEFAULT.calibration
    assert (len(TABLE), len(evidence), len({r.model for r in evidence})) == (84, 69, 55)
    assert (made.n_sets, made.n_checkpoints) == (69, 55)
    assert made.n_with_checkpoints == len({r.model for r in evidence if r.expected == "present"}) == 13
    assert len([r for r in TABLE if r.excluded and not r.trap]) == 2


def test_the_table_does_not_support_a_strict_profile() -> None:
    """OpenAI's and SigLIP's encoders do not lie apart from LAION's: that is why none is shipped."""
    some = {r.set for r in TABLE if r.expected == "present" and ("OpenAI" in r.checkpoint or "SigLIP" in r.checkpoint)}
    table = tuple(r._replace(expected="present" if r.set in some else "absent") for r in TABLE)
    raised(ValueError, r" overlap: no threshold parts them", fit, Sets.of(table))


def test_thresholds_lie_two_thirds_up_the_gap() -> None:
    """Each gap by hand: the trap or set that the statistic turns away best, and the weakest set with the label."""
    got = DEFAULT.thresholds
    rows = {r.set: r for r in (*TABLE, *tables.traps())}
    trained, laion = rows["aavc_resnet18_trainmode"], rows["fairouz_openclip_b32_laion2b"]
    want = trained.strength ** (1 / 3) * laion.strength ** (2 / 3)  # as a trap its two-sidedness is that of z: × 1.49
    assert got["strength"].minimum == pytest.approx(want, abs=6e-4)
    low = max(r.outlier_frequency for r in rows.values() if r.set.startswith("20 SD feature in two fifths"))
    high = laion.outlier_frequency
    assert got["outlier_frequency"].minimum == pytest.approx(low + (high - low) * 2 / 3, abs=6e-4)
    low, high = rows["run_lite0_logits"].two_sidedness, rows["shopthelook_marqo_fashionsiglip"].two_sidedness
    assert got["two_sidedness"].minimum == pytest.approx(low + (high - low) * 2 / 3, abs=6e-4)
    assert [DEFAULT.minimum_of(name) for name in DECIDING] == [4.762, 0.641, 0.37]


def test_every_reference_set_falls_on_its_side_by_its_point_estimates() -> None:
    passing = {r.set for r in TABLE if all(getattr(r, s) > t.minimum for s, t in DEFAULT.thresholds.items())}
    assert passing == {r.set for r in TABLE if r.expected == "present"}


def test_no_trap_passes_by_its_point_estimates() -> None:
    assert {(row.expected, row.trap) for row in tables.traps()} == {("absent", True)}
    sets = with_traps(TABLE)
    trap = sets.which(lambda row: row.trap)
    assert DEFAULT.calibration.n_traps == trap.sum() == len(tables.traps()) + 81
    assert not sets.passing({name: t.minimum for name, t in DEFAULT.thresholds.items()})[trap].any()


def test_no_reference_set_is_judged_falsely_when_its_checkpoint_is_left_out() -> None:
    made = DEFAULT.calibration
    assert (made.left_out_false_pass, made.left_out_false_warn, made.not_left_out) == ((), (), ())
    assert {r.set: r.expected == "present" for r in TABLE if not r.excluded} == PASSING
    families = dict(made.family_out)
    missed = "ashirvad_openclip_b32_laion2b, fairouz_openclip_b32_laion2b, domas_biomedclip_melanoma"
    assert families.pop("zero_shot_clip") == f"20 sets; wrong: {missed}"
    assert families.pop("supervised") == "27 sets; wrong: run_lite0_logits, planted"  # class logits, no other
    assert all(said.endswith("wrong: none") for said in families.values())


def test_error_rates_are_by_labels_that_do_not_look_at_the_statistics() -> None:
    """Against the benchmark's loops and SciPy's bounds; the page has its tables."""
    made = DEFAULT.calibration
    used = [r for r in TABLE if not r.excluded]
    rates = CLAIMS.rates(used, PASSING)
    assert rates == [f"| {r.of} | {r.n_wrong} of {r.n} | {100 * r.upper:.1f} % |" for r in made.rates]
    every, two_sided, linear, one_sided = rates
    page = read_text("studies/results/claims.md")
    assert "\n".join((every, two_sided, linear)) in page
    assert one_sided not in page  # both of its checkpoints are one-sided, which the page says instead
    minimums = {name: threshold.minimum for name, threshold in DEFAULT.thresholds.items()}
    lines, n_sets, _ = CLAIMS.retests(used, lambda row: CLAIMS.passing(row, minimums))
    assert (len(lines), n_sets, "PASS and WARN" in str(lines)) == (10, 24, False)
    assert made.false_pass_upper == made.rates[0].upper == 0.074
    assert made.false_warn_upper == pytest.approx(scipy.stats.beta.ppf(0.95, 1, 13), abs=1e-3)
    trained = {one.training: (one.n, one.n_passing) for one in made.by_training}
    assert trained == {"image_text": (26, 23), "supervised": (27, 0), "self_supervised": (5, 0), "identity": (11, 0)}


def test_bounds_of_rates_are_scipys_and_never_rounded_down() -> None:
    for k, n in ((0, 1), (0, 13), (1, 13), (5, 40), (39, 40)):
        exact = scipy.stats.beta.ppf(0.95, k + 1, n - k)
        assert exact <= upper_bound(k, n) <= exact + 1e-3
    assert upper_bound(3, 3) == upper_bound(0, 0) == 1


def test_a_table_that_cannot_part_the_groups_is_an_error() -> None:
    raised(ValueError, "with and without", fit, Sets.of([r for r in TABLE if r.expected == "present"]))


def _edited(tmp_path: Path, **changes: object) -> Path:
    raw = read_json(profile.DEFAULT) | changes
    path = tmp_path / "p.json"
    path.write_text(json.dumps(raw))
    return path


def test_an_edited_profile_fails_its_digest_until_it_is_sealed_again(tmp_path: Path) -> None:
    path = _edited(tmp_path, min_images=2)
    raised(profile.ProfileError, "digest does not match", profile.load, path)
    assert profile.digest_of(but(DEFAULT, digest="")) == DEFAULT.digest
    for each in (profile.seal(but(profile.load(), min_images=60, id="mine")), DEFAULT):
        path.write_text(profile.to_json(each), encoding="utf-8")
        assert profile.load(path) == each
    # no other profile goes by the id of a packaged one
    path.write_text(profile.to_json(profile.seal(but(DEFAULT, min_images=2))), encoding="utf-8")
    raised(profile.ProfileError, r"p\.json: id is default-4, but the content is not that of the", profile.load, path)


def test_an_end_is_written_as_it_was_read() -> None:
    adapter = TypeAdapter(End)
    for text in ("linear_of:Relu", "of a later version", ""):
        end = adapter.validate_python(text)
        assert end == End.parse(text) == adapter.validate_python(end)
        assert str(end) == adapter.dump_python(end) == text
    assert adapter.json_schema() == {"type": "string"}
    raised(ValidationError, "Input should be a valid string", adapter.validate_python, 3)


def test_what_a_looser_profile_lets_through_is_told() -> None:
    weaker = DEFAULT.thresholds | {"strength": but(DEFAULT.thresholds["strength"], minimum=3.0)}
    ends, wider = (*DEFAULT.ends, End("pool")), but(DEFAULT, bounds="each")
    loose = but(DEFAULT, thresholds=weaker, min_images=2, alpha=0.5, ends=ends, max_features=4096)
    assert "; ".join(profile.looser_than(loose, DEFAULT)) == (
        "strength 3 below 4.762; 2 images instead of 50; error rate of the bounds 0.5 instead of 0.05; ends also pool; "
        "384 to 4096 features instead of 384 to 2048"
    )
    assert profile.looser_than(DEFAULT, wider) == ("bounds 'looks' instead of 'each'",)
    for one, other in ((DEFAULT, DEFAULT), (DEFAULT, loose), (wider, DEFAULT)):
        assert profile.looser_than(one, other) == ()


def test_bad_profiles_are_refused(tmp_path: Path) -> None:
    three = DEFAULT.model_dump(mode="json")["thresholds"]
    for changes, message in (
        ({"schema_version": 2}, "schema_version is 2; this robustcheck reads 1"),
        ({"schema_version": True}, "schema_version is True; this robustcheck reads 1"),
        ({"schema_version": 1.0}, "schema_version is 1.0; this robustcheck reads 1"),
        ({"alpha": 1.5}, "alpha: Input should be less than 1"),
        ({"alpha": 0.1}, "alpha is 0.1; bounds 'looks' are made for 0.05"),
        ({"bounds": "together"}, "bounds: Input should be 'each' or 'looks'"),
        ({"edited": "strength 4.762 to 1"}, "edited: Input should be ''"),
        ({"surprise": 1}, "surprise: Extra inputs are not permitted"),
        ({"thresholds": {}}, "thresholds are of nothing; a profile decides by strength, outlier_frequency, two_sid"),
        ({"thresholds": dict(list(three.items())[:2])}, "thresholds are of strength, outlier_frequency; a profile"),
        ({"thresholds": three | {"kurtosis": three["strength"]}}, "thresholds are of strength, kurtosis, outlier_f"),
        ({"thresholds": three | {"entropy": three["strength"]}}, r"thresholds\.entropy\.\[key\]: Input should be"),
    ):
        raised(profile.ProfileError, message, profile.load, _edited(tmp_path, **changes))
    path = tmp_path / "p.json"
    for content, message in {b"{": "not JSON", b"[]": "schema_version is None", b"\xff\xfe": "cannot be read"}.items():
        path.write_bytes(content)
        raised(profile.ProfileError, message, profile.load, path)
    raised(profile.ProfileError, r"e\.json: threshold profile cannot be read", profile.load, tmp_path / "nowhere.json")


def test_the_page_on_robustness_is_what_its_script_writes_and_has_scipys_correlations() -> None:
    facts, _, predict = map(load, ("studies/predict_facts", "studies/predict_text", "studies/predict"))
    assert read_text(predict.PAGE) == predict.page(), "python studies/predict.py"
    known = [one for one in facts.measured() if one.mean_pp is not None]
    for name in STATISTICS:
        values = [np.array([getattr(row, name) for row in one.sets]) for one in known]
        values = [0.5 - abs(each - 0.5) for each in values] if name.startswith("negative") else values
        truth = scipy.stats.spearmanr([*map(np.median, values)], [one.mean_pp for one in known])
        assert predict.correlations(known)[predict.WORDS[name]][0] == pytest.approx(truth.statistic, abs=5e-4)


def test_the_published_models_that_are_robust_are_those_by_the_lines_of_the_page_on_data() -> None:
    """The formula and the lines of docs/data.md, over the tables as they were published."""
    line = r"^\| (?:V2|Sketch|R|A) \| timm, in1k_only \| \d+ \| ([-\d.]+) \| ([-\d.]+) \|"
    lines = re.findall(line, read_text("docs/data.md"), re.MULTILINE)
    least = 1.0
    robust: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for library in ("open_clip", "timm"):
        with (ROOT / "thresholds" / "data" / f"published_{library}.csv").open(encoding="utf-8") as table:
            for row in csv.DictReader(table):
                shifts = [row[name] for name in ("imagenetv2", "sketch", "imagenet_r", "imagenet_a")]
                if not all(shifts) or float(row["imagenet1k"]) < 0.55:
                    continue
                x = logit(float(row["imagenet1k"]))
                points = [float(y) - expit(float(a) * x + float(b)) for y, (a, b) in zip(shifts, lines, strict=True)]
                kind = "finetuned" if row["group"] == "imagenet_finetuned_clip" else library
                total[kind] += 1
                least = min(least, float(np.mean(points))) if kind == "open_clip" else least
                robust[kind] += float(np.mean(points)) >= 0.2
    assert robust == {"open_clip": 94, "finetuned": 0, "timm": 2}
    assert total == {"open_clip": 94, "finetuned": 37, "timm": 1506}
    page = read_text("studies/results/does-pass-predict-robustness.md")
    assert [f"| {robust[kind]} of {total[kind]:,} |" in page for kind in total] == [True] * 3
    assert f"All {robust['open_clip']} published zero-shot CLIP encoders with 55 % or more on ImageNet" in PUBLISHED
    assert f"by {int(100 * least)} points or more" in PUBLISHED


def test_the_page_says_what_each_threshold_hangs_on() -> None:
    """The sets next to a threshold are the profile's; the nearest real set of each is looked for in the table."""
    page = read_text("docs/calibration.md")
    real = [row for row in TABLE if row.expected == "absent" and not row.excluded]
    minimums = {name: threshold.minimum for name, threshold in DEFAULT.thresholds.items()}
    words = {"strength": "strength", "outlier_frequency": "persistence", "two_sidedness": "two-sidedness"}
    for name, threshold in DEFAULT.thresholds.items():
        alone = [
            getattr(row, name)
            for row in real
            if [other for other, least in minimums.items() if not getattr(row, other) > least] == [name]
        ]
        (line,) = re.findall(rf"^\| {words[name]} {threshold.minimum} \| (.*) \|$", page, re.MULTILINE)
        below, above, nearest = line.split(" | ")
        assert float(below.split(",")[0]) == pytest.approx(threshold.highest_without, abs=5e-3)
        assert float(above.split(",")[0]) == pytest.approx(threshold.lowest_with, abs=5e-3)
        assert nearest == "none" if not alone else float(nearest.split(",")[0]) == pytest.approx(max(alone), abs=5e-3)
    named = {row.set for row in real} & {threshold.highest_without_set for threshold in DEFAULT.thresholds.values()}
    assert named == set()


# --------------------------------------------------------------------------------------------------- the command


def test_the_default_is_written_by_its_command_byte_for_byte(ends: Run, tmp_path: Path) -> None:
    out = ends(0, f"calibrate --from-reference --out {tmp_path}/default.json").stdout
    assert (tmp_path / "default.json").read_bytes() == profile.DEFAULT.read_bytes()
    assert f"profile default-4 {DEFAULT.digest}" in out


def test_the_page_of_the_default(ends: Run) -> None:
    out = ends(0, "profiles show", COLUMNS="80").stdout
    assert max(map(len, out.splitlines())) <= 80
    text = " ".join(out.split())
    for said in (
        "55 checkpoints: 13 with, 42 without (69 sets)",
        "13 checkpoints with and 42 without it: too few for narrow bounds",
        "not trained on images with texts: 0 of 39, at most 7.4 %", "of these two-sided: 0 of 14, at most 19.3 %",
        "false WARN 0 sets of 13 checkpoints; at most 20.6 %", "strength > 4.762 ≤ 3.60 ≥ 5.48",
        "two-sidedness: how evenly the other features spread over positive and negative values",
        "image-text 23 of 26 sets pass; otherwise ik_openclip_bigG_laion2b, kruchji_mcip_so400m, medclip_roco_b32",
        "× 1.74 michaengeser_dinov2_b14_drawings, by strength", "WARN means absent or not established",
        "384 to 2048 features",
    ):  # fmt: skip
        assert said in text
    assert Profile.model_validate_json(ends(0, "profiles show default -o json").stdout) == DEFAULT


def test_pages_are_ascii_where_they_must_be(capsys: Capture) -> None:
    lower = profile.seal(but(DEFAULT, min_images=20, id="mine", limits=("fewer photos: café",)))
    for page in (render_profile(lower, ascii_only=True), render_list([("m", lower)], ascii_only=True)):
        Console(width=80).print(page)
        assert capsys.readouterr().out.isascii()


def test_list_names_the_packaged_ones_and_files(capsys: Capture, tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_text(profile.to_json(profile.seal(but(DEFAULT, id="mine"))), encoding="utf-8")
    assert process.run(app.app, ["profiles", "list", str(path), "-o", "json"]) == 0  # the schema does not name it
    listed = json.loads(capsys.readouterr().out)["profiles"]
    assert [(row["profile"], row["id"], row["with"], row["without"]) for row in listed] == [
        ("default", "default-4", 13, 42),
        (str(path), "mine", 13, 42),
    ]
    assert robustcheck("profiles", "list") == 0
    assert "≤ 7.4 %" in capsys.readouterr().out


def test_a_name_that_is_none_has_its_nearest(ends: Run) -> None:
    ends(2, "profiles show defualt", "hint: robustcheck profiles show default")


# --------------------------------------------------------------------------------------------------- fitting


def made_set(name: str, expected: str, scale: float) -> ReferenceSet:
    """A set whose strength and persistence grow with `scale`; two-sided."""
    values: Fields = {
        "strength": 0.5 * scale, "kurtosis": 3 * scale, "persistence_ratio": scale, "top3_share": 1 - 0.95 / scale,
        "outlier_frequency": 1 - 0.9 / scale, "negative_energy": 0.5, "negative_z_energy": 0.5, "two_sidedness": 0.5,
    }  # fmt: skip
    return ReferenceSet(
        set=name, group="g", checkpoint=name, model=name, n=100, d=512, **values, persistent_outlier_features="",
        expected=expected, excluded="", source="made",
    )  # fmt: skip


RECTIFIED = made_set("rectified", "absent", 1.2)._replace(negative_energy=0.0, two_sidedness=0.0)
LOOSE = Rule(all_must_pass=False)


def table_of(present: Iterable[float], absent: Iterable[float]) -> list[ReferenceSet]:
    """The rectified set, "with0" and on of these scales, "without0" and on of those."""
    sides = (("with", "present", present), ("without", "absent", absent))
    return [RECTIFIED, *(made_set(f"{n}{i}", label, s) for n, label, scales in sides for i, s in enumerate(scales))]


def fitted_to(table: Iterable[ReferenceSet], rule: Rule = LOOSE) -> Fit:
    return fit(Sets.of(list(table)), rule)


def left_out(sets: Sets, rule: Rule) -> LeftOutErrors:
    return judged(trials(sets, lambda others: fit(others, rule).minimums))


def is_passing(row: ReferenceSet, fitted: Fit) -> bool:
    return passes(row, fitted.thresholds)


APART = table_of(range(8, 12), (1, 1.1, 1.2, 1.3))


def test_a_set_that_shows_nothing_is_missed_not_averaged_in() -> None:
    """ViT-bigG's case: robust by its label, and below a set without it. The others keep their margin."""
    plain, some = fitted_to(APART), [*APART, made_set("weak", "present", 1.05)]
    with_weak = fitted_to(some)
    assert (with_weak.missed, with_weak.thresholds) == (("weak",), plain.thresholds)
    raised(ValueError, "overlap: no threshold parts them", fitted_to, some, Rule())


def test_a_set_without_is_given_to_the_statistic_that_turns_it_away_best() -> None:
    """A norm that scales up: strength above all, nothing else. Another one turns it away; no power is lost."""
    spiky = made_set("spiky", "absent", 1.1)._replace(strength=90.0)
    fitted = fitted_to([*APART, spiky])
    assert fitted.missed == ()
    assert not is_passing(spiky, fitted)
    given = {name: (by, factor) for name, by, factor in fitted.nearest}
    assert (given["spiky"][0], given["rectified"][0]) == ("outlier_frequency", "two_sidedness")
    # the factors, computed by hand: the least of the passing sets (scale 8) over each set's own
    frequency = (1 - 0.9 / 8) / (1 - 0.9 / 1.1)
    assert given["spiky"][1] == pytest.approx(frequency, abs=6e-4)
    assert given["without3"][0] == "strength"
    assert given["without3"][1] == pytest.approx(8 / 1.3, abs=6e-4)


def test_a_statistic_that_nobody_is_given_to_asks_for_what_nothing_has() -> None:
    fitted = fitted_to([made_set("with", "present", 8), made_set("without", "absent", 1.2)], Rule()).thresholds
    assert (fitted["two_sidedness"].highest_without_set, fitted["two_sidedness"].highest_without) == (NO_SET, 0)
    assert fitted["two_sidedness"].minimum == pytest.approx(0.5 * 2 / 3, abs=6e-4)
    assert fitted["strength"].minimum == pytest.approx(0.6 ** (1 / 3) * 4 ** (2 / 3), abs=6e-4)


def test_a_trap_takes_part_and_counts_in_no_rate() -> None:
    trap = made_set("trap", "absent", 5)._replace(excluded="simulated", trap=True)
    assert not is_passing(trap, fitted_to([*APART, trap]))
    assert is_passing(trap, fitted_to(APART))
    assert "trap" not in {name for name, _, _ in folds(Sets.of([*APART, trap]), "model")}


def test_few_checkpoints_widen_the_margin() -> None:
    many = [*APART, *(made_set(f"more{i}", "absent", 1 + i / 20) for i in range(8))]
    rules = [chosen_rule(Sets.of(table)) for table in (APART, many)]
    assert [rule.position for rule in rules] == [WIDER[0], GAP_POSITION]
    wide, narrow = (fitted_to(table, rule).minimums for table, rule in zip((APART, many), rules, strict=True))
    assert wide["strength"] > narrow["strength"]


def test_the_margin_widens_until_no_checkpoint_passes_when_left_out() -> None:
    """The highest without stands alone: left out, the usual margin lets it pass."""
    sets = Sets.of([*table_of([10] * 4, np.linspace(1, 1.09, 10)), made_set("high", "absent", 5.2)])
    assert left_out(sets, LOOSE).false_pass == ("high",)
    chosen = chosen_rule(sets)
    assert chosen.position > GAP_POSITION
    assert left_out(sets, chosen).false_pass == ()


def test_checkpoints_without_which_there_is_no_fit_are_no_trial() -> None:
    assert left_out(Sets.of(table_of([8], [1, 1.1])), LOOSE) == ((), (), ("with0",))


def test_no_fit_names_the_set_that_stands_in_the_way() -> None:
    said = "no set with the indication lies above all sets without it; the last was w"
    raised(ValueError, said, fitted_to, table_of([8], [9]))


SCALES = st.floats(1.0, 30.0)


@given(st.lists(SCALES, min_size=1, max_size=8), st.lists(SCALES, min_size=1, max_size=8), st.data())
def test_any_fit_passes_no_set_without_a_label(with_: list[float], without: list[float], data: st.DataObject) -> None:
    table = table_of(with_, without)
    try:
        fitted = fitted_to(table)
    except ValueError:
        # only where no set with the label is above all without
        assert max(with_) <= max(without) * (1 + 1e-9)
        return
    passing = {r.set for r in table if is_passing(r, fitted)}
    assert passing == {r.set for r in table if r.expected == "present"} - set(fitted.missed)
    assert fitted_to(data.draw(st.permutations(table))).minimums == fitted.minimums


@given(
    st.lists(st.floats(4.0, 30.0), min_size=1, max_size=5),
    st.lists(st.floats(1.0, 3.0), min_size=1, max_size=5),
    st.integers(0, 2**32 - 1),
    st.lists(st.sampled_from([-1, 1]), min_size=1, max_size=3),
)
def test_stronger_outliers_stay_a_pass(with_: list[float], without: list[float], seed: int, signs: list[int]) -> None:
    """A law over fits and strengths: the statistics of planted representations, judged by thresholds fitted to any
    sets. Once all bounds clear, they clear for every stronger outlier."""
    fitted = fitted_to(table_of(with_, without)).thresholds
    judge_by = but(DEFAULT, thresholds=fitted)
    rng = np.random.default_rng(seed)
    h = rng.normal(size=(64, 384)) + rng.normal(0, 0.3, 384)
    passed = []
    for strength in (0, 3, 6, 10, 15, 25, 60):
        total = state.State(384)
        state.update(total, h + strength * np.pad(signs, (0, 384 - len(signs))), list(range(64)))
        measured = state.statistics(total, 0.05)
        passed.append(all((getattr(measured, name).low or 0) > fitted[name].minimum for name in DECIDING))
        assert decided(measured, judge_by) or not passed[-1]
    assert passed == sorted(passed), passed
