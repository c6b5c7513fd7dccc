"""Published tables, effective robustness, and suite files whose labels follow from it."""

import csv
import re
from filecmp import cmpfiles
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.special
import scipy.stats
from numpy.testing import assert_allclose

from robustcheck_onnx.thresholds import DATA, published, suite
from robustcheck_onnx.thresholds.published import effective_robustness
from robustcheck_onnx.thresholds.suite import LabelRule, SuiteError, label_from, open_suite
from robustcheck_onnx.thresholds.tables import references
from support import SHARED, Patch, but, needs_embeddings, raised, read_text
from support.repository import load

DOCS = read_text("docs/data.md")


def rows(library: str) -> list[published.Published]:
    return [row for row in published.published() if row.library == library]


def means(group: str, library: str) -> list[float]:
    found = [r for r in rows(library) if r.group == group and r.accuracy.get("imagenet1k", 0) >= 0.55]
    return [r.mean_pp for r in found if r.mean_pp is not None]


# ------------------------------------------------------------------------------------------------ reproduced figures


def test_the_baselines_are_scipys_over_the_rows_as_they_ship() -> None:
    with (DATA / "published_timm.csv").open(encoding="utf-8", newline="") as file:
        usual = [row for row in csv.DictReader(file) if row["group"] == "in1k_only" and row["imagenet1k"]]
    for shift in published.MEAN_SHIFTS:
        pairs = np.array([(row["imagenet1k"], row[shift]) for row in usual if row[shift]], float)
        x, y = scipy.special.logit(pairs).T
        truth = scipy.stats.linregress(x, y)
        residual = pairs[:, 1] - scipy.special.expit(truth.slope * x + truth.intercept)
        line = published.baselines_of("timm")[shift]
        ours = [line.a, line.b, line.r2, line.residual_sd_pp, line.n, line.low, line.high]
        theirs = [truth.slope, truth.intercept, truth.rvalue**2, 100 * residual.std(), len(x)]
        assert_allclose(ours, [*theirs, *np.sort(pairs[:, 0])[[0, -1]]], rtol=1e-9)


def test_zero_shot_models_lie_above_every_other_group() -> None:
    zero_shot = means("zero_shot_clip", "open_clip")
    for group in ("imagenet_finetuned_clip", "more_data", "in1k_only"):
        others = means(group, "timm")
        u = scipy.stats.mannwhitneyu(zero_shot, others).statistic  # AUROC times the number of pairs
        assert u > 0.9995 * len(zero_shot) * len(others)
    (rn50,) = published.find("open_clip", "RN50", "openai")
    assert rn50.mean_pp == min(zero_shot)
    usual = published.usual_robustness("timm", published.MEAN_SHIFTS)
    assert_allclose([usual.low, usual.median, usual.high], np.percentile(others, [5, 50, 95]))
    with pytest.raises(ValueError, match=r"^shifts are sketch, objectnet; no model of timm has all of them"):
        published.usual_robustness("timm", ("sketch", "objectnet"))


def test_one_row_by_hand() -> None:
    (row,) = published.find("open_clip", "ViT-B-32", "openai")
    assert {"imagenet1k": 0.6332, "imagenetv2": 0.5592}.items() <= dict(row.accuracy).items()  # of the source
    line = scipy.special.expit(0.9059 * scipy.special.logit(0.6332) - 0.4737)
    assert row.effective_robustness_pp["imagenetv2"] == pytest.approx(100 * (0.5592 - line), abs=0.01)
    assert row.mean_pp == pytest.approx(np.mean([row.effective_robustness_pp[s] for s in published.MEAN_SHIFTS]))
    assert row.extrapolated == frozenset()


# ---------------------------------------------------------------------------------------------------------- the tables


def test_the_tables_are_whole() -> None:
    assert [len(rows(library)) for library in published.LIBRARIES] == [121, 1557, 338]
    for library, entry in published.sources().items():
        assert entry["rows"] == len(rows(library))
        assert {row.source for row in rows(library)} == {entry["source"]}


def test_what_was_not_published_stays_unknown() -> None:
    (dino,) = published.find("timm", "resmlp_24_224.fb_dino", "fb_dino")
    assert dino.accuracy.keys() == {"imagenet_a"}
    assert (dino.effective_robustness_pp, dino.mean_pp) == ({}, None)
    (resnet,) = published.find("timm", "resnet50.tv_in1k", "tv_in1k")
    assert resnet.effective_robustness_pp.keys() == {"imagenetv2", "sketch", "imagenet_r"}
    assert resnet.mean_pp is None
    assert not any("objectnet" in row.accuracy for row in rows("timm"))


@pytest.mark.long
@needs_embeddings
def test_the_shipped_tables_are_what_the_script_makes_of_the_sources(tmp_path: Path, monkeypatch: Patch) -> None:
    pytest.importorskip("open_clip", reason="needs the export extra")
    script = load("studies/build_published")
    monkeypatch.setattr(script, "OUTPUT", tmp_path)
    script.main([f"{SHARED}/{name}_shift_accuracy.csv" for name in ("openclip", "timm", "testbed")])
    names = [each.name for each in DATA.glob("published*")]
    assert (cmpfiles(tmp_path, DATA, names, shallow=False), len(names)) == ((names, [], []), 6)


# ------------------------------------------------------------------------------------------------- whose row is it?

HUB = "hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K"
COMMIT = "0123456789" * 4  # transformers contracts name the revision that was read; any will do


def test_a_known_checkpoint_is_found() -> None:
    for library, name, weights, found in (
        ("open_clip", "ViT-B-32", "openai", ["ViT-B-32/openai"]),
        ("open_clip", HUB, HUB, ["ViT-B-32/laion2b_s34b_b79k"]),
        ("timm", "resnet50.a1_in1k", "a1_in1k", ["resnet50.a1_in1k"] * 2),
        ("timm", "hf-hub:timm/resnet50.a1_in1k", "hf-hub:timm/resnet50.a1_in1k", ["resnet50.a1_in1k"] * 2),
        ("torchvision", "resnet50", "IMAGENET1K_V1", ["resnet50.tv_in1k"]),
        ("torchvision", "resnet50", "IMAGENET1K_V2", ["resnet50.tv2_in1k"] * 2),
        ("transformers", "openai/clip-vit-base-patch32", COMMIT, ["ViT-B-32/openai"]),
        ("transformers", HUB.removeprefix("hf-hub:"), COMMIT, ["ViT-B-32/laion2b_s34b_b79k"]),
    ):
        assert [row.name for row in published.find(library, name, weights)] == found


def test_what_is_not_certain_is_not_found() -> None:
    for library, name, weights in (
        ("open_clip", "ViT-B-32", ""),  # random weights
        ("open_clip", "ViT-B-32", "ViT-B-32.pt"),  # a checkpoint file
        ("open_clip", "vit-b-32", "openai"),
        ("open_clip", "local-dir:CLIP-ViT-B-32-laion2B-s34B-b79K", "local-dir:CLIP-ViT-B-32-laion2B-s34B-b79K"),
        ("open_clip", "hf-hub:someone/CLIP-ViT-B-32-laion2B-s34B-b79K", "hf-hub:someone/CLIP"),
        ("open_clip", "hf-hub:timm/resnet50_clip.yfcc15m", "hf-hub:timm/resnet50_clip.yfcc15m"),  # of two rows
        ("timm", "resnet50.a1_in1k", "model.safetensors"),
        ("timm", "hf-hub:someone/resnet50.a1_in1k", "a1_in1k"),
        ("timm", "vit_base_patch32_clip_224.openai", "openai"),  # timm's own image tower of CLIP: no row of timm's
        ("torchvision", "vgg16", "IMAGENET1K_V1"),  # timm has its own copy: not the same file
        ("transformers", "clip-vit-base-patch32", "local folder"),
        ("library", "name", "weights"),  # the heads of a table's columns
    ):
        assert published.find(library, name, weights) == ()
        assert published.context_for(library, name, weights) is None


def test_measured_checkpoints_have_their_row() -> None:
    checkpoints = {row.set: row.checkpoint for row in references()}
    assert published.MEASURED.keys() < checkpoints.keys()
    for name, (library, model, weights) in published.MEASURED.items():
        assert published.find(library, model, weights)
        if library == "open_clip" and weights != "webli":
            assert ("OpenAI" if weights == "openai" else weights.partition("_")[0]) in checkpoints[name]
            assert model.removeprefix("ViT-").replace("-", "/") in checkpoints[name]


# ----------------------------------------------------------------------------------------------------------- context


def test_the_context_of_a_known_checkpoint() -> None:
    found = published.context_for("open_clip", "ViT-B-32", "openai", image_size_px=224)
    (row,) = published.find("open_clip", "ViT-B-32", "openai")
    assert found is not None
    assert (found.mean_pp, found.extrapolated, found.sentence) == (
        round(row.mean_pp or 0, 2),
        False,
        f"published effective robustness of ViT-B-32/openai (open_clip): {row.mean_pp:+.1f} points on average over V2, "
        "Sketch, R, A; models trained on ImageNet-1k only have -2.4 to +4.1 on average (5–95 %). "
        "Source: mlfoundations/open_clip@89fb801f1e60:docs/openclip_results.csv",
    )


def test_the_context_takes_the_row_of_the_models_own_input_size() -> None:
    def at(size: int | None) -> int | None:
        found = published.context_for("timm", "resnet50.a1_in1k", "a1_in1k", image_size_px=size)
        assert found is not None
        assert f"(timm at {found.image_size_px} px)" in found.sentence
        return found.image_size_px

    sizes = {row.image_size_px: row.accuracy["imagenet1k"] for row in published.find("timm", "resnet50", "a1_in1k")}
    assert {size: at(size) for size in sizes} == {size: size for size in sizes}
    assert at(None) == at(999) == max(sizes, key=lambda size: sizes[size])


def test_the_context_says_what_is_missing_and_what_is_extrapolated() -> None:
    for checkpoint, extrapolated, said in (
        (("torchvision", "resnet50", "IMAGENET1K_V1"), False, "points; no average, since not all of V2, Sketch, R, A"),
        (("open_clip", "RN50", "yfcc15m"), True, "(extrapolated for V2, Sketch, R, A: no baseline at 32.4 % on Image"),
    ):
        found = published.context_for(*checkpoint)
        assert found is not None
        assert (found.extrapolated, said in found.sentence) == (extrapolated, True)


def test_random_and_synthetic_models_have_no_context() -> None:
    assert published.context_for("open_clip", "ViT-B-32", "openai", random_weights=True) is None
    assert published.context_for("open_clip", "ViT-B-32", "openai", synthetic="one feature planted") is None
    # no shift beside an ImageNet accuracy
    assert published.context_for("timm", "resmlp_24_224.fb_dino", "fb_dino") is None


# ------------------------------------------------------------------------------------------------------- the document


def test_the_document_states_the_fits_and_medians_of_the_code() -> None:
    for shift, line in published.baselines_of("timm").items():
        word = published.SHIFT_WORDS[shift]
        figures = f"| {line.n} | {line.a:.4f} | {line.b:.4f} | {line.r2:.3f} | {line.residual_sd_pp:.2f} |"
        assert any(row.startswith(f"| {word} |") and figures in row for row in DOCS.splitlines()), word
    kinds = {"zero_shot_clip": "open_clip", "imagenet_finetuned_clip": "timm", "more_data": "timm", "in1k_only": "timm"}
    for group, library in kinds.items():
        found = means(group, library)
        low, median, high = np.percentile(found, [5, 50, 95])
        assert f"| {group} | {library} | {len(found)} | {median:+.1f} | {low:+.1f} to {high:+.1f} |" in DOCS
    for entry in published.sources().values():
        assert str(entry["source"]) in DOCS
    for name in {row.group for row in published.published()}:
        assert f"`{name}`" in DOCS, name


fit_baseline = load("studies/build_published").fit_baseline
LINE = published.BaselineFit(a=1.0, b=0.0, n=10, r2=1.0, residual_sd_pp=0.0, low=0.4, high=0.9)


def test_logit_and_sigmoid_are_scipys() -> None:
    p = np.array([1e-9, 0.0048, 0.25, 0.5, 0.9, 1 - 1e-9])
    assert_allclose(published.logit(p), scipy.special.logit(p), rtol=1e-12)
    x = np.array([-1000.0, -30.0, -0.5, 0.0, 0.5, 30.0, 1000.0])
    assert_allclose(published.sigmoid(x), scipy.special.expit(x), rtol=1e-12)


def test_a_flat_shift_has_a_line_but_no_correlation() -> None:
    line = fit_baseline([0.5, 0.6, 0.7], [0.25, 0.25, 0.25])
    assert (line.a, line.r2) == (0, 0)
    assert_allclose(published.expected_accuracy(0.65, line), 0.25, rtol=1e-12)


def test_effective_robustness_is_what_lies_above_the_line() -> None:
    found = effective_robustness([0.6, 0.7], [0.75, 0.5], LINE)  # the line of accuracy = accuracy
    assert_allclose(found.points, [15, -20], rtol=1e-12)
    assert found.points.dtype == np.float64
    one = effective_robustness(0.6, 0.75, LINE)
    assert one.points.shape == ()
    assert float(one.points) == pytest.approx(15)
    # nothing and everything right have a value
    assert_allclose(effective_robustness([0.6, 0.6], [0.0, 1.0], LINE).points, [-60, 40], rtol=1e-12)


def test_extrapolation_is_flagged_outside_the_fit_and_below_55_percent() -> None:
    at = [0.3, 0.4, 0.5499, 0.55, 0.7, 0.9, 0.91]
    assert effective_robustness(at, at, LINE).extrapolated.tolist() == [True, True, True, False, False, False, True]
    assert effective_robustness([0.58, 0.6], [0.5, 0.5], but(LINE, low=0.6)).extrapolated.tolist() == [True, False]


def test_bad_input_is_named() -> None:
    fit: list[tuple[Any, Any, str]] = [
        ([0.5, 0.0, 0.7], [0.1, 0.2, 0.3], "ImageNet accuracy is 0; it must be a fraction between 0 and 1"),
        ([0.5, 0.6, 0.7], [0.1, 1.0, 0.3], "accuracy on the shift is 1; it must be a fraction between 0 and 1"),
        ([0.5, 0.6, 0.7], [0.1, np.nan, 0.3], "accuracy on the shift is nan; it must be a fraction between 0 and 1"),
        ([0.5, 0.6], [0.1, 0.2], "baseline has 2 models; a line with a residual needs 3 or more"),
        ([0.5] * 4, [0.1] * 4, "ImageNet accuracy is 0.5 for all 4 models; a line needs different ones"),
        ([0.5] * 3, [0.1] * 4, "accuracies have shapes (3,) and (4,); two lists of one length are needed"),
    ]
    beyond: list[tuple[Any, Any, str]] = [
        (1.0, 0.5, "ImageNet accuracy is 1; it must be a fraction between 0 and 1"),
        (0.7, -0.1, "accuracy on the shift is -0.1; it must be a fraction from 0 to 1"),
        (0.7, 43.0, "accuracy on the shift is 43; it must be a fraction from 0 to 1"),
        ([0.7, 0.8], 0.5, "accuracies have shapes (2,) and (); they must be the same"),
    ]
    for call, faults in ((fit_baseline, fit), (partial(effective_robustness, baseline=LINE), beyond)):
        for acc_in, acc_shift, message in faults:
            raised(ValueError, f"^{re.escape(message)}$", call, acc_in, acc_shift)


PAPER = open_suite("paper")

HEAD = 'schema_version = 1\nname = "mine"\n'
ONE = '[[models]]\nmodel = "a.onnx"\ngroup = "other"\nlabel = "present"\n'


def written(folder: Path, text: str) -> Path:
    path = folder / "suite.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.long
def test_the_packaged_suite_is_what_its_command_writes() -> None:
    """Every entry has weights in the installed open_clip or timm, and no tag of the paper's is left out."""
    pytest.importorskip("open_clip", reason="extra `export` is not installed")
    assert read_text(suite.PACKAGED["paper"]) == load("studies/build_paper_suite").text()


def test_the_packaged_suite_covers_the_papers_encoders_and_controls() -> None:
    wanted = {
        *("RN50/openai", "RN50/yfcc15m", "RN50/cc12m", "RN101/openai", "RN101/yfcc15m", "ViT-B-32/openai"),
        *("ViT-B-32/laion400m_e32", "ViT-B-32/laion2b_s34b_b79k", "ViT-B-32/datacomp_xl_s13b_b90k", "ViT-B-16/openai"),
        *("ViT-B-16/laion400m_e32", "ViT-B-16/laion2b_s34b_b88k", "ViT-B-16/datacomp_xl_s13b_b90k", "ViT-L-14/openai"),
        *("ViT-L-14/laion400m_e32", "ViT-L-14/laion2b_s32b_b82k", "ViT-L-14/datacomp_xl_s13b_b90k"),
        *("vit_base_patch16_clip_224.openai_ft_in1k", "vit_base_patch14_dinov2.lvd142m", "resnet50.a1_in1k"),
    }
    assert wanted <= {member.id.partition(":")[2] for member in PAPER.members}
    hard = {member.id for member in PAPER.members if member.entry.hard_case}
    assert {"open_clip:ViT-bigG-14/laion2b_s39b_b160k", "timm:deit3_base_patch16_224.fb_in1k"} <= hard


def test_every_published_row_is_the_checkpoints_own() -> None:
    """Named by hand in the file, found by the exporter's names in the tables."""
    for member in PAPER.members:
        entry, name = member.entry, str(member.entry.name)
        if entry.published is None:
            assert entry.label is not None
        else:
            found = published.find(str(entry.source), name, entry.weights or name.partition(".")[2])
            assert suite.published_row(member.id, entry.published).name in {row.name for row in found}, member.id


def test_labels_follow_from_mean_effective_robustness() -> None:
    """Every zero-shot CLIP encoder of 55 % or more is present, every ImageNet-1k-only model of timm's absent."""
    for member in PAPER.members:
        if member.entry.label is None and not member.extrapolated:
            assert member.label == label_from(member.effective_robustness_pp or 0.0, PAPER.suite.labels), member.id
    rule = LabelRule()
    labels = ["present", "unlabelled", "unlabelled", "absent"]
    assert [label_from(pp, rule) for pp in (20.0, 19.99, 10.0, 9.99)] == labels
    found = {
        (row.library, row.group, label_from(row.mean_pp, rule))
        for row in published.published()
        if row.mean_pp is not None and row.accuracy[published.IMAGENET] >= 0.55
    }
    assert {label for _, group, label in found if group == "zero_shot_clip"} == {"present"}
    assert {label for library, group, label in found if (library, group) == ("timm", "in1k_only")} == {"absent"}


def test_own_accuracies_give_the_label_of_the_row_they_are_copied_from(tmp_path: Path) -> None:
    for key, label in (("open_clip:ViT-B-32/openai", "present"), ("timm:resnet50.a1_in1k", "absent")):
        row = suite.published_row("x", key)
        pairs = ", ".join(f"{name} = {value}" for name, value in row.accuracy.items())
        text = f'{HEAD}[[models]]\nmodel = "a.onnx"\ngroup = "other"\naccuracies = {{ {pairs} }}\n'
        member = open_suite(written(tmp_path, text)).members[0]
        assert member.label == label
        assert member.effective_robustness_pp == pytest.approx(row.mean_pp)


def test_ids_and_paths(tmp_path: Path) -> None:
    text = HEAD + ONE + '[[models]]\nsource = "timm"\nname = "resnet18"\nrandom_weights = true\ngroup = "untrained"\n'
    opened = open_suite(written(tmp_path, text + 'label = "absent"\ncheckpoint = "r18"\n'))
    assert [(m.id, m.checkpoint) for m in opened.members] == [("a", "a"), ("timm:resnet18/random", "r18")]
    assert opened.folder == tmp_path


GOOD = 'group = "other"\nlabel = "present"\n'


BAD = (  # HEAD stands before each that has no schema of its own
    ("x = [", "suite is not TOML"),
    ('schema_version = 2\nname = "a"', "schema_version is 2; this robustcheck reads 1"),
    ("", "models: Field required"),
    (ONE + 'wieghts = "x"\n', "key models.0.wieghts is unknown; the closest is weights"),
    (ONE + ONE, "id a occurs 2 times; ids must differ"),
    (f'[[models]]\nsource = "timm"\n{GOOD}', "it takes either an ONNX file, or source and name"),
    (f'[[models]]\nsource = "tim"\nname = "x"\n{GOOD}', "source is 'tim'; it must be one of open_clip"),
    (ONE.replace('"other"', '"zeroshot_clip"'), "group is 'zeroshot_clip'; it must be one of"),
    (ONE.replace('label = "present"', ""), "label is missing, and no mean effective robustness is known"),
    (ONE.replace('"present"', '"robust"'), "label: Input should be 'present', 'absent' or 'unlabelled'"),
    (ONE + 'id = "a (b)"\n', "it must be printable and have no parenthesis"),
    (ONE + "accuracies = { imagenet1k = 76.1 }\n", "accuracy on imagenet1k is 76.1; it must be a fraction"),
    (ONE + "accuracies = { sketch = 0.3 }\n", "accuracies lack imagenet1k"),
    (
        ONE + 'published = "open_clip:ViT-B-32/opanai"\n',
        "no row of the published accuracies has that name, closest: open_clip:ViT-B-32/openai",
    ),
    (
        ONE + 'published = "timm:resnet50.a1_in1k"\n',
        "label is present, but mean effective robustness is -2.9 percentage points; present is from +20",
    ),
    (
        ONE.replace("present", "absent") + 'published = "open_clip:ViT-B-32/openai"\n',
        "label is absent, but mean effective robustness is +27.2 percentage points; absent is below +10",
    ),
)


def test_bad_suites_are_refused(tmp_path: Path) -> None:
    for text, message in BAD:
        path = written(tmp_path, text if "schema_version" in text else HEAD + text)
        caught = raised(SuiteError, re.escape(message), open_suite, path)
        assert str(caught).startswith(f"{path}: ")
        assert "\n" not in str(caught)


def test_unreadable_suites_are_refused(tmp_path: Path) -> None:
    assert raised(SuiteError, "papper: suite cannot be read", open_suite, "papper").hint == "--suite paper"
    path = tmp_path / "suite.toml"
    path.write_bytes(b"\xff\xfe")
    raised(SuiteError, "not UTF-8 text", open_suite, path)
