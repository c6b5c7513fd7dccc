"""The profile: derived from the table byte for byte, sealed, and refused when anything is wrong with it."""

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from pydantic import TypeAdapter, ValidationError

from robustcheck_onnx.checker.statistics import definitions
from robustcheck_onnx.thresholds import calibrate, profile, tables
from robustcheck_onnx.thresholds.profile import DECIDING, EARLIER, End
from support import ROOT, but, raised, read_json
from support.repository import load

TABLE = tables.references()
DEFAULT = profile.load()
CLAIMS = load("benchmarks/claims")
PASSING = CLAIMS.passing_left_out(TABLE)
"""which sets pass when their checkpoint is left out of the fit, by plain loops over the checkpoints"""


def test_the_profile_is_for_the_statistics_of_this_version_and_names_its_table() -> None:
    """Whoever measures the table again sets date and digest."""
    assert DEFAULT.statistic_version == definitions.STATISTIC_VERSION
    digest = tables.table_digest(tables.table_text())
    assert DEFAULT.calibration.table_digest == digest
    assert (tables.MEASURED_ON, digest[:19]) == ("2026-11-28", "sha256:2fc89eeb1f73")


def test_earlier_profiles_stay_as_they_were_sealed_and_say_why_they_were_left() -> None:
    first, second = profile.load("default-1"), profile.load("default-2")
    assert first.digest == "sha256:3df6122f414cb331e21b5fd5059153dd6dfbff33c1d63886f8a06a4950f24c02"
    assert second.digest == "sha256:995f61d687036d297dfe8b56a5c349c884d95f3a51d4e006f2964920fcd1cf5d"
    for old, bounds in ((first, "together"), (second, "each")):
        assert (set(old.deciding), old.bounds, old.is_earlier) == ({*EARLIER, "top3_share"}, bounds, True)
    assert (DEFAULT.id, DEFAULT.deciding, DEFAULT.bounds, DEFAULT.is_earlier) == ("default-3", DECIDING, "looks", False)
    assert profile.load("default-3") == profile.load("default") == profile.load(Path("default")) == DEFAULT
    assert profile.packaged() == (DEFAULT, second, first)


def test_the_labels_are_those_of_the_six_statistics_and_of_the_definition() -> None:
    """Those that stood before the three were chosen: round numbers in the gaps of the six."""
    for row in (*TABLE, *tables.traps()):
        signs = (row.negative_energy, row.negative_z_energy)
        strong = row.kurtosis >= 7.5 and row.persistence_ratio >= 1.5 and row.top3_share >= 1 / 3
        persistent = row.outlier_frequency >= 0.5
        shows = row.strength >= 4 and row.outlier_frequency >= 0.5 and row.two_sidedness >= 1 / 3  # fit.DEFINITION
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
    strong = {
        r.set for r in TABLE if r.expected == "present" and ("OpenAI" in r.checkpoint or "SigLIP" in r.checkpoint)
    }
    table = tuple(r._replace(expected="present" if r.set in strong else "absent") for r in TABLE)
    raised(ValueError, r" overlap: no threshold parts them", tables.fit, tables.Sets.of(table))


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
    assert [str(DEFAULT.limits_of(name)) for name in DECIDING] == ["> 4.762", "> 0.641", "> 0.37"]


def test_every_reference_set_falls_on_its_side_by_its_point_estimates() -> None:
    """By each packaged profile; the first asks for 77 % of the images, and one set has 76 %."""
    for name, missed in {
        "default-3": set(),
        "default-2": set(),
        "default-1": {"fairouz_openclip_b32_laion2b"},
    }.items():
        limits = {s: profile.load(name).limits_of(s) for s in profile.load(name).deciding}
        passing = {r.set for r in TABLE if all(at.minimum < getattr(r, s) < at.maximum for s, at in limits.items())}
        assert passing == {r.set for r in TABLE if r.expected == "present"} - missed


def test_no_trap_passes_by_its_point_estimates() -> None:
    assert {(row.expected, row.trap) for row in tables.traps()} == {("absent", True)}
    sets = calibrate.with_traps(TABLE)
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
    assert "\n".join(rates) in (ROOT / "benchmarks" / "results" / "claims.md").read_text(encoding="utf-8")
    lines, n_sets, _ = CLAIMS.retests(used, lambda row: not CLAIMS.fails(row, DEFAULT))
    assert (len(lines), n_sets, "PASS and WARN" in str(lines)) == (10, 24, False)
    assert made.false_pass_upper == made.rates[0].upper == 0.074
    assert made.false_warn_upper == pytest.approx(scipy.stats.beta.ppf(0.95, 1, 13), abs=1e-3)
    trained = {one.training: (one.n, one.n_passing) for one in made.by_training}
    assert trained == {"image_text": (26, 23), "supervised": (27, 0), "self_supervised": (5, 0), "identity": (11, 0)}


def test_bounds_of_rates_are_scipys_and_never_rounded_down() -> None:
    for k, n in ((0, 1), (0, 13), (1, 13), (5, 40), (39, 40)):
        exact = scipy.stats.beta.ppf(0.95, k + 1, n - k)
        assert exact <= calibrate.upper_bound(k, n) <= exact + 1e-3
    assert calibrate.upper_bound(3, 3) == calibrate.upper_bound(0, 0) == 1


def test_a_table_that_cannot_part_the_groups_is_an_error() -> None:
    raised(ValueError, "with and without", tables.fit, tables.Sets.of([r for r in TABLE if r.expected == "present"]))


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
    raised(profile.ProfileError, r"p\.json: id is default-3, but the content is not that of the", profile.load, path)


def test_an_end_is_written_as_it_was_read() -> None:
    adapter = TypeAdapter(End)
    for text in ("linear_of:Relu", "of a later version", ""):
        end = adapter.validate_python(text)
        assert end == End.parse(text) == adapter.validate_python(end)
        assert str(end) == adapter.dump_python(end) == text
    assert adapter.json_schema() == {"type": "string"}
    raised(ValidationError, "Input should be a valid string", adapter.validate_python, 3)


def test_what_a_looser_profile_lets_through_is_told() -> None:
    default = profile.load()
    assert profile.looser_than(default, default) == ()
    loose = but(
        default,
        thresholds=default.thresholds | {"strength": but(default.thresholds["strength"], minimum=3.0)},
        min_images=2,
        alpha=0.5,
        ends=(*default.ends, End("pool")),
        max_features=4096,
    )
    assert profile.looser_than(loose, default) == (
        "strength 3 below 4.762",
        "2 images instead of 50",
        "error rate of the bounds 0.5 instead of 0.05",
        "ends also pool",
        "384 to 4096 features instead of 384 to 2048",
    )
    assert profile.looser_than(default, loose) == ()
    wider = but(default, bounds="each")
    assert profile.looser_than(default, wider) == ("bounds 'looks' instead of 'each'",)
    assert profile.looser_than(wider, default) == ()


def test_bad_profiles_are_refused(tmp_path: Path) -> None:
    three = DEFAULT.model_dump(mode="json")["thresholds"]
    for changes, message in (
        ({"schema_version": 2}, "schema_version is 2; this robustcheck reads 1"),
        ({"schema_version": True}, "schema_version is True; this robustcheck reads 1"),
        ({"schema_version": 1.0}, "schema_version is 1.0; this robustcheck reads 1"),
        ({"alpha": 1.5}, "alpha: Input should be less than 1"),
        ({"alpha": 0.1}, "alpha is 0.1; bounds 'looks' are made for 0.05"),
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
    facts, _, predict = map(load, ("benchmarks/predict_facts", "benchmarks/predict_text", "benchmarks/predict"))
    assert predict.PAGE.read_text(encoding="utf-8") == predict.page(), "python benchmarks/predict.py"
    known = [one for one in facts.measured() if one.mean_pp is not None]
    for name in profile.STATISTICS:
        values = [np.array([getattr(row, name) for row in one.sets]) for one in known]
        values = [0.5 - abs(each - 0.5) for each in values] if name.startswith("negative") else values
        truth = scipy.stats.spearmanr([*map(np.median, values)], [one.mean_pp for one in known])
        assert predict.correlations(known)[predict.WORDS[name]][0] == pytest.approx(truth.statistic, abs=5e-4)
