"""`robustcheck profiles`, and what holds for every profile that a fit gives."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from robustcheck_onnx.checker.calibrate.terminal import render_list, render_profile
from robustcheck_onnx.checker.cli import app, process
from robustcheck_onnx.checker.pipeline import check
from robustcheck_onnx.checker.statistics import state
from robustcheck_onnx.checker.verdict.rule import decided
from robustcheck_onnx.thresholds import calibrate, profile, tables
from robustcheck_onnx.thresholds.profile import DECIDING, Profile
from robustcheck_onnx.thresholds.tables import Reference, Rule, Sets
from support import Capture, Fields, Place, but, raised, read_json, robustcheck
from support.bad_input import Run

DEFAULT = profile.load()


# --------------------------------------------------------------------------------------------------- the command


def test_the_default_is_written_by_its_command_byte_for_byte(ends: Run, tmp_path: Path) -> None:
    out = ends(0, f"calibrate --from-reference --out {tmp_path}/default.json").stdout
    assert (tmp_path / "default.json").read_bytes() == profile.DEFAULT.read_bytes()
    assert f"profile default-3 {DEFAULT.digest}" in out


def test_the_page_of_the_default(ends: Run) -> None:
    out = ends(0, "profiles show", COLUMNS="80").stdout
    assert max(map(len, out.splitlines())) <= 80
    text = " ".join(out.split())
    for said in (
        "55 checkpoints: 13 with, 42 without (69 sets)",
        "13 checkpoints with and 42 without it: too few for narrow bounds",
        "not trained on images with texts: 0 of 39, at most 7.4 %",
        "of these two-sided: 0 of 14, at most 19.3 %",
        "false WARN 0 sets of 13 checkpoints; at most 20.6 %",
        "strength > 4.762 ≤ 3.60 ≥ 5.48",
        "two-sidedness: how evenly the other features spread over positive and negative values",
        "image-text 23 of 26 sets pass; otherwise ik_openclip_bigG_laion2b, kruchji_mcip_so400m, medclip_roco_b32",
        "× 1.74 michaengeser_dinov2_b14_drawings, by strength",
        "WARN means absent or not established",
        "384 to 2048 features",
    ):
        assert said in text
    document = ends(0, "profiles show default -o json").stdout
    assert Profile.model_validate_json(document) == DEFAULT
    for name in ("default-1", "default-2"):
        out = ends(0, f"profiles show {name}").stdout
        assert f"! no longer the default: {profile.WHY_LEFT[name]}" in " ".join(out.split())
        assert "negative energy of z" in out


def test_pages_are_ascii_where_they_must_be(capsys: Capture) -> None:
    lower = profile.seal(but(DEFAULT, min_images=20, id="mine", edited="fewer photos: café"))
    for page in (render_profile(lower, ascii_only=True), render_list([("m", lower)], ascii_only=True)):
        Console(width=80).print(page)
        assert capsys.readouterr().out.isascii()


def test_list_names_the_packaged_ones_and_files(capsys: Capture, tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_text(profile.to_json(profile.seal(but(DEFAULT, id="mine"))), encoding="utf-8")
    assert process.run(app.app, ["profiles", "list", str(path), "-o", "json"]) == 0  # the schema does not name it
    listed = json.loads(capsys.readouterr().out)["profiles"]
    assert [(row["profile"], row["id"], row["with"], row["without"]) for row in listed] == [
        ("default", "default-3", 13, 42),
        ("default-2", "default-2", 13, 42),
        ("default-1", "default-1", 8, 13),
        (str(path), "mine", 13, 42),
    ]
    assert robustcheck("profiles", "list") == 0
    assert "≤ 7.4 %" in capsys.readouterr().out


def test_a_name_that_is_none_has_its_nearest(ends: Run) -> None:
    ends(2, "profiles show defualt", "hint: robustcheck profiles show default")


def test_one_that_an_earlier_version_sealed_again_shows_it_in_every_report(
    capsys: Capture, tmp_path: Path, lookup_pass: Place
) -> None:
    """Its digest is the one that `profiles seal` wrote, before that was removed; it judges by its six statistics."""
    raw = read_json(profile.PACKAGED["default-2"])
    raw["thresholds"]["kurtosis"]["minimum"] = 5.0
    said = "It was changed by hand after the calibration: the error rates in it are those of what it was made from."
    raw |= {
        "id": "mine-1",
        "edited": "made from default-2 (sha256:995f61d68703); kurtosis 7.858 to 5; wanted more",
        "limits": [said, *raw["limits"]],
        "digest": "sha256:79e8836858890ec20f0ba883f7e0274b2b0357c1cbdc56d904cd3f613d79c80e",
    }
    edited = tmp_path / "edited.json"
    edited.write_text(json.dumps(raw))
    model, photos = lookup_pass
    report = check(model, images=photos, thresholds=edited)
    assert (report.verdict.profile_id, report.verdict.profile_digest) == ("mine-1", raw["digest"])
    for said in (
        "The profile was changed by hand: made from default-2",
        "looser than the default in places: no strength, no two_sidedness.",
    ):
        assert said in " ".join(report.notes)
    assert robustcheck("profiles", "show", edited) == 0
    assert "! changed by hand" in capsys.readouterr().out
    assert process.run(app.app, ["profiles", "list", str(edited), "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["profiles"][-1]["edited"] == raw["edited"]


# --------------------------------------------------------------------------------------------------- fitting


def made_set(name: str, expected: str, scale: float) -> Reference:
    """A set whose strength and persistence grow with `scale`; two-sided."""
    values: Fields = {
        "strength": 0.5 * scale, "kurtosis": 3 * scale, "persistence_ratio": scale, "top3_share": 1 - 0.95 / scale,
        "outlier_frequency": 1 - 0.9 / scale, "negative_energy": 0.5, "negative_z_energy": 0.5, "two_sidedness": 0.5,
    }  # fmt: skip
    return Reference(
        set=name, group="g", checkpoint=name, model=name, n=100, d=512, **values, persistent_outlier_features="",
        expected=expected, excluded="", source="made",
    )  # fmt: skip


RECTIFIED = made_set("rectified", "absent", 1.2)._replace(negative_energy=0.0, two_sidedness=0.0)
LOOSE = Rule(all_must_pass=False)


def table_of(present: Iterable[float], absent: Iterable[float]) -> list[Reference]:
    """The rectified set, "with0" and on of these scales, "without0" and on of those."""
    sides = (("with", "present", present), ("without", "absent", absent))
    return [RECTIFIED, *(made_set(f"{n}{i}", label, s) for n, label, scales in sides for i, s in enumerate(scales))]


def fitted_to(table: Iterable[Reference], rule: Rule = LOOSE) -> tables.Fit:
    return tables.fit(Sets.of(list(table)), rule)


def passes(row: Reference, fitted: tables.Fit) -> bool:
    return tables.passes(row, fitted.placed)


APART = table_of(range(8, 12), (1, 1.1, 1.2, 1.3))


def test_a_set_that_shows_nothing_is_missed_not_averaged_in() -> None:
    """ViT-bigG's case: robust by its label, and below a set without it. The others keep their margin."""
    plain, some = fitted_to(APART), [*APART, made_set("weak", "present", 1.05)]
    with_weak = fitted_to(some)
    assert with_weak.missed == ("weak",)
    assert with_weak.placed == plain.placed
    raised(ValueError, "overlap: no threshold parts them", fitted_to, some, Rule())


def test_a_set_without_is_given_to_the_statistic_that_turns_it_away_best() -> None:
    """A norm that scales up: strength above all, nothing else. Another one turns it away; no power is lost."""
    spiky = made_set("spiky", "absent", 1.1)._replace(strength=90.0)
    fitted = fitted_to([*APART, spiky])
    assert fitted.missed == ()
    assert not passes(spiky, fitted)
    given = {name: (by, factor) for name, by, factor in fitted.nearest}
    assert (given["spiky"][0], given["rectified"][0]) == ("outlier_frequency", "two_sidedness")
    # the factors, computed by hand: the least of the passing sets (scale 8) over each set's own
    frequency = (1 - 0.9 / 8) / (1 - 0.9 / 1.1)
    assert given["spiky"][1] == pytest.approx(frequency, abs=6e-4)
    assert given["without3"][0] == "strength"
    assert given["without3"][1] == pytest.approx(8 / 1.3, abs=6e-4)


def test_a_statistic_that_nobody_is_given_to_asks_for_what_nothing_has() -> None:
    placed = fitted_to([made_set("with", "present", 8), made_set("without", "absent", 1.2)], Rule()).placed
    assert (placed["two_sidedness"].highest_without_set, placed["two_sidedness"].highest_without) == (tables.NO_SET, 0)
    assert placed["two_sidedness"].minimum == pytest.approx(0.5 * 2 / 3, abs=6e-4)
    assert placed["strength"].minimum == pytest.approx(0.6 ** (1 / 3) * 4 ** (2 / 3), abs=6e-4)


def test_a_trap_takes_part_and_counts_in_no_rate() -> None:
    trap = made_set("trap", "absent", 5)._replace(excluded="simulated", trap=True)
    assert not passes(trap, fitted_to([*APART, trap]))
    assert passes(trap, fitted_to(APART))
    assert "trap" not in {name for name, _, _ in tables.folds(Sets.of([*APART, trap]), "model")}


def test_few_checkpoints_widen_the_margin() -> None:
    many = [*APART, *(made_set(f"more{i}", "absent", 1 + i / 20) for i in range(8))]
    rules = [calibrate.chosen_rule(Sets.of(table)) for table in (APART, many)]
    assert [rule.position for rule in rules] == [calibrate.WIDER[0], tables.GAP_POSITION]
    wide, narrow = (fitted_to(table, rule).minimums for table, rule in zip((APART, many), rules, strict=True))
    assert wide["strength"] > narrow["strength"]


def test_the_margin_widens_until_no_checkpoint_passes_when_left_out() -> None:
    """The highest without stands alone: left out, the usual margin lets it pass."""
    sets = Sets.of([*table_of([10] * 4, np.linspace(1, 1.09, 10)), made_set("high", "absent", 5.2)])

    def judged(rule: Rule) -> tables.Judged:
        return tables.judged(tables.trials(sets, lambda others: tables.fit(others, rule).minimums))

    assert judged(LOOSE).false_pass == ("high",)
    chosen = calibrate.chosen_rule(sets)
    assert chosen.position > tables.GAP_POSITION
    assert judged(chosen).false_pass == ()


def test_checkpoints_without_which_there_is_no_fit_are_no_trial() -> None:
    judged = tables.judged(
        tables.trials(Sets.of(table_of([8], [1, 1.1])), lambda others: tables.fit(others, LOOSE).minimums)
    )
    assert judged == ((), (), ("with0",))


def test_no_fit_names_the_set_that_stands_in_the_way() -> None:
    said = "no set with the indication lies above all sets without it; the last was w"
    raised(ValueError, said, fitted_to, table_of([8], [9]))


SCALES = st.floats(1.0, 30.0)


@given(st.lists(SCALES, min_size=1, max_size=8), st.lists(SCALES, min_size=1, max_size=8), st.data())
def test_any_fit_passes_no_set_without_and_says_whom_it_misses(
    with_: list[float], without: list[float], data: st.DataObject
) -> None:
    table = table_of(with_, without)
    try:
        fitted = fitted_to(table)
    except ValueError:
        # only where no set with the label is above all without
        assert max(with_) <= max(without) * (1 + 1e-9)
        return
    passing = {r.set for r in table if passes(r, fitted)}
    assert passing == {r.set for r in table if r.expected == "present"} - set(fitted.missed)
    assert fitted_to(data.draw(st.permutations(table))).minimums == fitted.minimums


@given(
    st.lists(st.floats(4.0, 30.0), min_size=1, max_size=5),
    st.lists(st.floats(1.0, 3.0), min_size=1, max_size=5),
    st.integers(0, 2**32 - 1),
    st.lists(st.sampled_from([-1, 1]), min_size=1, max_size=3),
)
def test_a_stronger_outlier_never_turns_pass_into_warn_by_any_fitted_profile(
    with_: list[float], without: list[float], seed: int, signs: list[int]
) -> None:
    """A law over fits and strengths: the statistics of planted representations, judged by thresholds fitted to any
    sets. Once all bounds clear, they clear for every stronger outlier."""
    fitted = fitted_to(table_of(with_, without)).placed
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
