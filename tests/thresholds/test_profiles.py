"""`robustcheck profiles`, and what holds for every profile that a fit gives."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from robustcheck_onnx.checker.calibrate.profiles import render_list, render_profile
from robustcheck_onnx.checker.pipeline import check
from robustcheck_onnx.checker.verdict.rule import decided
from robustcheck_onnx.thresholds import choice, error_rates, fit, make_profile, profile, reference
from robustcheck_onnx.thresholds.fit import Rule
from robustcheck_onnx.thresholds.profile import ENERGIES, STATISTICS, Profile
from robustcheck_onnx.thresholds.reference import Reference
from support.calibrations import Call

TABLE = reference.references()
DEFAULT = profile.load()


@pytest.fixture
def edited(tmp_path: Path) -> Path:
    """The default profile with a lower threshold, as a text editor leaves it."""
    raw = json.loads(profile.to_json(DEFAULT))
    raw["thresholds"]["kurtosis"]["minimum"] = 5.0
    path = tmp_path / "edited.json"
    path.write_text(json.dumps(raw), encoding="utf-8")
    return path


# --------------------------------------------------------------------------------------------------- the command


def test_the_default_is_written_by_its_command_byte_for_byte(call: Call, tmp_path: Path) -> None:
    out, _ = call("calibrate", "--from-reference", "--out", tmp_path / "default.json")
    assert (tmp_path / "default.json").read_bytes() == profile.DEFAULT.read_bytes()
    assert f"profile default-2 {DEFAULT.digest}" in out


def test_the_page_of_the_default(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out, _ = call("profiles", "show")
    assert max(map(len, out.splitlines())) <= 80
    text = " ".join(out.split())
    for said in (
        "55 checkpoints: 13 with, 42 without (69 sets)",
        "13 checkpoints with and 42 without it: too few for narrow bounds",
        "false PASS 0 sets of 42 checkpoints; at most 6.9 % with 95 % confidence",
        "(ashirvad_openclip_b32_laion2b, fairouz_openclip_b32_laion2b); at most 31.7 %",
        "the published statistic by itself, its threshold 28.8 chosen with hindsight: 5 false PASS",
        "negative energy 0.323 to 0.677",
        "top-3 share > 0.522",
        "if the rule had been fixed beforehand",
        "signed, ends in linear 0 of 8 checkpoints; at most 31.3 %",
        "image-text 23 of 26 sets pass; otherwise ik_openclip_bigG_laion2b, kruchji_mcip_so400m, medclip_roco_b32",
        "× 1.13 michaengeser_dinov2_b14_drawings, by activation kurtosis",
        "BiomedCLIP activation kurtosis 8.077; changes no verdict",
        "WARN means absent or not established",
        "384 to 2048 features",
    ):
        assert said in text
    document, _ = call("profiles", "show", "default", "-o", "json")
    assert Profile.model_validate_json(document) == DEFAULT


def test_pages_are_ascii_where_they_must_be(capsys: pytest.CaptureFixture[str]) -> None:
    lower = profile.seal(DEFAULT.model_copy(update={"min_images": 20, "id": "mine", "edited": "fewer photos: café"}))
    for page in (render_profile(lower, ascii_only=True), render_list([("m", lower)], ascii_only=True)):
        Console(width=80).print(page)
        assert capsys.readouterr().out.isascii()


def test_list_names_the_packaged_ones_and_files(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_text(profile.to_json(profile.seal(DEFAULT.model_copy(update={"id": "mine"}))), encoding="utf-8")
    out, _ = call("profiles", "list", path, "-o", "json")
    rows = json.loads(out)["profiles"]
    assert [(row["profile"], row["id"], row["with"], row["without"]) for row in rows] == [
        ("default", "default-2", 13, 42),
        ("default-1", "default-1", 8, 13),
        (str(path), "mine", 13, 42),
    ]
    assert "≤ 6.9 %" in call("profiles", "list")[0]


def test_a_profile_that_was_changed_is_refused(call: Call, edited: Path) -> None:
    _, err = call("profiles", "show", edited, code=2)
    assert "digest does not match the content; the profile was changed after it was sealed" in err
    _, err = call("profiles", "show", "defualt", code=2)
    assert "hint: robustcheck profiles show default" in err


def test_one_that_an_earlier_version_sealed_again_shows_it_in_every_report(
    call: Call, edited: Path, lookup_pass: tuple[Path, Path]
) -> None:
    """Its digest is the one that `profiles seal` wrote, before that was removed."""
    raw = json.loads(edited.read_text(encoding="utf-8"))
    said = "It was changed by hand after the calibration: the error rates in it are those of what it was made from."
    raw |= {
        "id": "mine-1",
        "edited": "made from default-2 (sha256:995f61d68703); kurtosis 7.858 to 5; wanted more",
        "limits": [said, *raw["limits"]],
        "digest": "sha256:79e8836858890ec20f0ba883f7e0274b2b0357c1cbdc56d904cd3f613d79c80e",
    }
    edited.write_text(json.dumps(raw), encoding="utf-8")
    model, photos = lookup_pass
    report = check(model, images=photos, thresholds=edited)
    assert (report.verdict.profile_id, report.verdict.profile_digest) == ("mine-1", raw["digest"])
    notes = " ".join(report.notes)
    assert "The profile was changed by hand: made from default-2" in notes
    assert "looser than the default in places: kurtosis 5 below 7.858." in notes
    page, _ = call("profiles", "show", edited)
    assert "! changed by hand" in page
    assert "! looser than the default profile: kurtosis 5 below 7.858" in page
    assert json.loads(call("profiles", "list", edited, "-o", "json")[0])["profiles"][-1]["edited"] == raw["edited"]


# --------------------------------------------------------------------------------------------------- fitting


def made_set(name: str, expected: str, scale: float, spread: float = 1.1, group: str = "g") -> Reference:
    """A set whose four strengths all grow with `scale`; signed."""
    values: dict[str, Any] = {
        "kurtosis": 3 * scale, "persistence_ratio": scale, "top3_share": 1 - 0.95 / scale,
        "outlier_frequency": 1 - 0.9 / scale, "negative_energy": 0.5, "negative_z_energy": 0.5,
    }  # fmt: skip
    low = {key: value / spread for key, value in values.items()} | dict.fromkeys(ENERGIES, 0.48)
    high = {key: value * spread for key, value in values.items()} | dict.fromkeys(ENERGIES, 0.52)
    return Reference(
        set=name, group=group, checkpoint=name, model=name, n=100, d=512, **values, persistent_outlier_features="",
        expected=expected, excluded="", low=low, high=high, source="made",
    )  # fmt: skip


SIGNED = made_set("rectified", "absent", 1.2)
RECTIFIED = SIGNED._replace(
    negative_energy=0.0,
    negative_z_energy=0.1,
    low=SIGNED.low | {"negative_energy": 0.0, "negative_z_energy": 0.09},
    high=SIGNED.high | {"negative_energy": 0.01, "negative_z_energy": 0.11},
)
LOOSE = Rule(all_must_pass=False)


def table_of(present: Iterable[float], absent: Iterable[float]) -> list[Reference]:
    """The rectified set, "with0" and on of these scales, "without0" and on of those."""
    sides = (("with", "present", present), ("without", "absent", absent))
    return [RECTIFIED, *(made_set(f"{n}{i}", label, s) for n, label, scales in sides for i, s in enumerate(scales))]


APART = table_of(range(8, 12), (1, 1.1, 1.2, 1.3))
STRENGTHS = ("kurtosis", "persistence_ratio", "top3_share", "outlier_frequency")


def test_a_set_that_shows_nothing_is_missed_not_averaged_in() -> None:
    """ViT-bigG's case: robust by its label, and below a set without it. The others keep their margin."""
    plain = fit.fit(APART, LOOSE)
    with_weak = fit.fit([*APART, made_set("weak", "present", 1.05)], LOOSE)
    assert with_weak.missed == ("weak",)
    assert with_weak.thresholds == plain.thresholds
    with pytest.raises(ValueError, match="overlap: no threshold parts them"):
        fit.fit([*APART, made_set("weak", "present", 1.05)], Rule())


def test_a_set_without_is_given_to_the_statistic_that_turns_it_away_best() -> None:
    """A norm that scales up: kurtosis above all, nothing else. Another one turns it away; no power is lost."""
    spiky = made_set("spiky", "absent", 1.1)
    spiky = spiky._replace(kurtosis=90.0, low=spiky.low | {"kurtosis": 80.0}, high=spiky.high | {"kurtosis": 100.0})
    fitted = fit.fit([*APART, spiky], LOOSE)
    assert fitted.missed == ()
    assert not fit.passes(spiky, fitted.thresholds)
    given = {name: by for name, by, _ in fitted.nearest}
    assert given["spiky"] != "kurtosis"
    assert given["rectified"] in ("negative_energy", "negative_z_energy")
    # the nearest is the one with the smallest of the widest factors, computed by hand
    floor = {name: min(row.low[name] for row in APART if row.expected == "present") for name in STRENGTHS}
    widest = max(floor[name] / max(APART[-1].high[name], 0.01) for name in STRENGTHS)
    assert {name: factor for name, _, factor in fitted.nearest}["without3"] == pytest.approx(widest, abs=6e-4)


def test_a_statistic_that_nobody_is_given_to_asks_for_what_nothing_has() -> None:
    table = [made_set("with", "present", 8), made_set("without", "absent", 1.2)]
    fitted = fit.fit(table, Rule())
    assert fitted.thresholds["negative_energy"].highest_without_set == fit.NO_SET
    assert fitted.thresholds["negative_energy"].minimum == pytest.approx(0.5 * 2 / 3, abs=6e-4)


def test_a_trap_takes_part_and_counts_in_no_rate() -> None:
    trap = made_set("trap", "absent", 5)._replace(excluded="simulated", trap=True)
    sets = fit.Sets([*APART, trap])
    assert not fit.passes(trap, fit.fit(sets, LOOSE).thresholds)
    assert fit.passes(trap, fit.fit(APART, LOOSE).thresholds)
    assert "trap" not in {name for name, _, _ in choice.folds(sets, "model")}


def test_few_checkpoints_widen_the_margin() -> None:
    many = [*APART, *(made_set(f"more{i}", "absent", 1 + i / 20) for i in range(8))]
    positions = [make_profile.chosen_rule(fit.Sets(sets), LOOSE) for sets in (APART, many)]
    assert [rule.position for rule in positions] == [make_profile.WIDER[0], fit.GAP_POSITION]
    wide, narrow = (fit.fit(sets, rule).thresholds for sets, rule in zip((APART, many), positions, strict=True))
    assert wide["persistence_ratio"].minimum > narrow["persistence_ratio"].minimum


def test_the_margin_widens_until_no_checkpoint_passes_when_left_out() -> None:
    """The highest without stands alone: left out, the usual margin lets it pass."""
    table = table_of([10] * 4, np.linspace(1, 1.09, 10))
    sets = fit.Sets([*table, made_set("high", "absent", 5.2)])
    usual = LOOSE._replace(position=fit.GAP_POSITION)
    assert choice.judged(sets, usual, "model").false_pass == ("high",)
    chosen = make_profile.chosen_rule(sets, LOOSE)
    assert chosen.position > fit.GAP_POSITION
    assert choice.judged(sets, chosen, "model").false_pass == ()


def test_checkpoints_without_which_there_is_no_fit_are_no_trial() -> None:
    sets = fit.Sets(table_of([8], [1, 1.1]))
    left_out = choice.judged(sets, LOOSE, "model")
    assert left_out.no_fit == ("with0",)
    thresholds = fit.fit(sets, LOOSE).thresholds
    rates = error_rates.populations(sets, left_out, thresholds)
    assert [(one.of, one.n, one.n_wrong) for one in rates] == [("all", 3, 0), ("signed", 2, 0)]
    assert error_rates.upper_bound(0, 0) == 1.0


def test_no_fit_names_the_set_that_stands_in_the_way() -> None:
    with pytest.raises(ValueError, match="no set with the indication lies above all sets without it; the last was w"):
        fit.fit(table_of([8], [9]), LOOSE)


SCALES = st.floats(1.0, 30.0)


@given(st.lists(SCALES, min_size=1, max_size=8), st.lists(SCALES, min_size=1, max_size=8), st.data())
def test_any_fit_passes_no_set_without_and_says_whom_it_misses(
    with_: list[float], without: list[float], data: st.DataObject
) -> None:
    table = table_of(with_, without)
    try:
        fitted = fit.fit(table, LOOSE)
    except ValueError:
        # only where no set with the label is clearly above all without
        assert max(with_) / 1.1 <= max(without) * 1.1 * (1 + 1e-9)
        return
    passing = {r.set for r in table if fit.passes(r, fitted.thresholds)}
    assert passing == {r.set for r in table if r.expected == "present"} - set(fitted.missed)
    shuffled = fit.fit(data.draw(st.permutations(table)), LOOSE)
    assert {n: t.minimum for n, t in shuffled.thresholds.items()} == {
        n: t.minimum for n, t in fitted.thresholds.items()
    }


@given(
    st.lists(st.floats(4.0, 30.0), min_size=1, max_size=5),
    st.lists(st.floats(1.0, 3.0), min_size=1, max_size=5),
    st.integers(0, 2**32 - 1),
    st.integers(1, 3),
)
def test_a_stronger_outlier_never_turns_pass_into_warn_by_any_fitted_profile(
    with_: list[float], without: list[float], seed: int, n_features: int
) -> None:
    """A law over fits and strengths: the statistics of planted representations, judged by thresholds fitted to any
    sets. Once all bounds clear, they clear for every stronger outlier."""
    from robustcheck_onnx.checker.statistics import state

    fitted = fit.fit(table_of(with_, without), LOOSE).thresholds
    judge_by = DEFAULT.model_copy(update={"thresholds": fitted})
    rng = np.random.default_rng(seed)
    h = rng.normal(size=(64, 384)) + rng.normal(0, 0.3, 384)
    passed = []
    for strength in (3, 6, 10, 15, 25, 60):
        planted = h.copy()
        planted[:, :n_features] += strength
        total = state.State(384)
        state.update(total, planted, list(range(64)))
        measured = state.statistics(total, 0.05)
        passed.append(all((getattr(measured, name).low or 0) > fitted[name].minimum for name in STATISTICS))
        if passed[-1]:
            assert decided(measured, judge_by)
    assert passed == sorted(passed), passed
