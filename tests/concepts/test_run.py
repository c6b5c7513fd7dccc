"""robustcheck concepts from a model's file to its forms: planted colours, real vectors, heads, bad input, the wall."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import numpy as np
import onnx
import pytest
from onnx import TensorProto
from PIL import Image

import robustcheck_onnx as rc
from robustcheck_onnx.checker.cli import app as cli
from robustcheck_onnx.checker.concepts import ConceptsReport, forms, terminal
from robustcheck_onnx.checker.concepts.records import CLAIM
from robustcheck_onnx.checker.concepts.sets import open_concepts
from robustcheck_onnx.checker.errors import CannotAssessError, UsageError
from support import lookup, onnx_models
from support.benchmark_scripts import load
from support.pages import assert_it_is_accessible, assert_it_loads_nothing, parse, words

EDGE_PX = 8
# rows: red against blue, green against both, all alike: right singular vectors of HEAD, singular values 6, 4, 2
ROWS = np.array([[1, 0, -1], [-1, 2, -1], [1, 1, 1]]) / np.sqrt([[2], [6], [3]])
HEAD = (np.linalg.qr(onnx_models.weight(3, 3).astype(float))[0] @ np.diag([6.0, 4, 2]) @ ROWS).astype(np.float32)
MEAN: list[onnx_models.Node] = [("GlobalAveragePool", ["image"], ["pool"]), ("Flatten", ["pool"], ["colour"])]
N = 60


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Plain pictures of random colours: warm where red is well above blue, cold the other way, odd by chance."""
    folder = tmp_path_factory.mktemp("colours")
    rng = np.random.default_rng(0)
    rows = ["path,concept"]
    for i in range(N):
        value = rng.integers(0, 256, 3)
        Image.fromarray(np.full((EDGE_PX, EDGE_PX, 3), value, np.uint8)).save(folder / f"{i}.png")
        named = {
            "warm": value[0] - value[2] > 40,
            "cold": value[2] - value[0] > 40,
            "odd": rng.random() < 0.4,
            "rare": i < 3,
            "any": True,
        }
        rows += [f"{i}.png,{name}" for name, here in named.items() if here]
    (folder / "concepts.csv").write_text("\n".join(rows) + "\n")
    preprocessing = lookup.lookup_preprocessing(EDGE_PX)
    (folder / "preprocessing.json").write_text(json.dumps(preprocessing))
    np.save(folder / "head.npy", HEAD)
    return folder


def model(path: Path, nodes: list[onnx_models.Node], weights: dict[str, Any], output: str, width: int) -> Path:
    built = onnx_models.build([*MEAN, *nodes], [(output, TensorProto.FLOAT, ("batch", width))], weights)
    return onnx_models.save(built, path)


def classifier(folder: Path, weight: Any = HEAD) -> Path:
    nodes: list[onnx_models.Node] = [("Gemm", ["colour", "w", "b"], ["logits"], {"transB": 1})]
    return model(folder / "classifier.onnx", nodes, {"w": weight, "b": np.ones(3, np.float32)}, "logits", 3)


def cosine_classifier(folder: Path) -> Path:
    nodes: list[onnx_models.Node] = [
        ("LpNormalization", ["colour"], ["unit"], {"axis": 1}),
        ("MatMul", ["unit", "w"], ["logits"]),
    ]
    return model(folder / "cosine.onnx", nodes, {"w": HEAD.T.copy()}, "logits", 3)


def zero_shot(folder: Path) -> Path:
    """An encoder whose contract names its output before it is divided by its norm, and scores of cosines beside it."""
    nodes: list[onnx_models.Node] = [
        ("Identity", ["colour"], ["representation"]),
        ("LpNormalization", ["representation"], ["unit"], {"axis": 1}),
        ("MatMul", ["unit", "w"], ["logits"]),
    ]
    outputs: list[str | onnx_models.Value] = [
        ("representation", TensorProto.FLOAT, ("batch", 3)),
        ("logits", TensorProto.FLOAT, ("batch", 3)),
    ]
    contract = lookup.lookup_contract(size_px=EDGE_PX)
    contract["tensors"]["logits"] = {"meaning": "cosines", "rule": "logits"}
    props = {lookup.CONTRACT_KEY: json.dumps(contract)}
    built = onnx_models.build([*MEAN, *nodes], outputs, {"w": HEAD.T.copy()}, props=props)
    return onnx_models.save(built, folder / "zero_shot.onnx")


def encoder(folder: Path) -> Path:
    nodes: list[onnx_models.Node] = [("Identity", ["colour"], ["embedding"])]
    return model(folder / "encoder.onnx", nodes, {}, "embedding", 3)


def measured(path: Path, colours: Path, **given: Any) -> ConceptsReport:
    always: dict[str, Any] = {"preprocess": colours / "preprocessing.json", "device": "cpu", "isolate": False}
    given = always | given
    return rc.concepts(path, given.pop("concept_set", colours / "concepts.csv"), **given)


def command(*words: object) -> int:
    return cli.main([str(word) for word in words])


def test_planted_colours_are_told_along_the_heads_own_vector(colours: Path, tmp_path: Path) -> None:
    report = measured(classifier(tmp_path), colours)
    found = {each.name: each for each in report.concepts}
    assert set(found) == {"warm", "cold", "odd"}
    assert found["warm"].ap == found["cold"].ap == 1.0
    assert (found["warm"].established, found["cold"].established, found["odd"].established) == (True, True, False)
    (told,) = report.directions.telling
    assert (told.direction, set(told.concepts)) == (0, {"warm", "cold"})  # opposite ends of one direction
    assert told.strength == pytest.approx(6, rel=1e-5)
    assert (report.directions.of, report.directions.n, report.directions.n_polysemantic) == ("head", 3, 1)
    assert {found[name].best[0].sign for name in ("warm", "cold")} == {1, -1}
    assert (report.n_established, report.n_encoded) == (2, 2)
    assert {each.name: each.n_images for each in report.not_judged} == {"rare": 3, "any": N}
    assert report.concept_set.n_without == 0
    assert report.model.tensor in {"colour", "pool"}
    assert report.claim == CLAIM
    assert "2 of 3 judged concepts are established" in report.summary


def test_heads_from_files_features_and_axes(colours: Path, tmp_path: Path) -> None:
    path = encoder(tmp_path)
    by_file = measured(path, colours, head=colours / "head.npy")
    assert by_file.directions == measured(classifier(tmp_path), colours).directions.model_copy(
        update={"source": "right singular vectors of the weight of head.npy"}
    )
    features = measured(path, colours, of="features", min_positives=3)
    assert features.directions.n == 3
    assert not features.n_established  # no channel alone is red against blue
    assert {each.name for each in features.not_judged} == {"any"}
    assert any("other directions" in note for note in features.notes)
    axes = measured(path, colours)
    assert axes.directions.of == "axes"
    assert any(note.startswith("No head was read (") for note in axes.notes)
    pixels = np.array([np.asarray(Image.open(colours / f"{i}.png"))[0, 0] / 255 for i in range(N)])
    _, _, vectors = np.linalg.svd(pixels - pixels.mean(axis=0), full_matrices=False)
    warm = next(each for each in axes.concepts if each.name == "warm")
    scores = pixels @ vectors[warm.best[0].direction]
    has = (pixels[:, 0] - pixels[:, 2]) * 255 > 40

    def precision(order: Any) -> float:
        hits = has[order]
        return float((hits.cumsum() / np.arange(1, N + 1))[hits].mean())

    assert warm.ap == pytest.approx(max(precision(np.argsort(-scores)), precision(np.argsort(scores))))


@pytest.mark.parametrize("make", [cosine_classifier, zero_shot])
def test_a_head_on_unit_vectors_is_read_where_it_acts(
    colours: Path, tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    """A zero-shot head reads the vector of length 1: that is what is projected, also where a check reads another."""
    report = measured(make(tmp_path), colours)
    assert (report.model.tensor, report.directions.of) == ("unit", "head")
    pixels = np.array([np.asarray(Image.open(colours / f"{i}.png"))[0, 0] / 255 for i in range(N)])
    warm = next(each for each in report.concepts if each.name == "warm")
    has = ((pixels[:, 0] - pixels[:, 2]) * 255 > 40)[np.argsort(-(pixels @ ROWS[0] / np.linalg.norm(pixels, axis=1)))]
    along = float((has.cumsum() / np.arange(1, N + 1))[has].mean())
    assert next(each.ap for each in warm.best if each.direction == 0) == pytest.approx(along)


def test_measured_vectors_with_a_planted_feature(tmp_path: Path) -> None:
    """A look-up model: the concept is where it was planted, and dealt to other images it is nowhere."""
    rng = np.random.default_rng(6)
    images = lookup.write_lookup_images(tmp_path / "photos", 50)
    has = rng.permutation(50)[:15]
    h = rng.normal(size=(50, 24))
    h[has, 9] += 10
    path = lookup.write_lookup_model(tmp_path / "model.onnx", h)
    (tmp_path / "true.csv").write_text("path,concept\n" + "".join(f"photos/{image.name},\n" for image in images)
                                       + "".join(f"photos/{images[i].name},planted\n" for i in has))  # fmt: skip
    (tmp_path / "dealt.csv").write_text((tmp_path / "true.csv").read_text().split("planted")[0].rsplit("\n", 1)[0]
        + "\n" + "".join(f"photos/{images[i].name},planted\n" for i in rng.permutation(50)[:15]))  # fmt: skip
    true = rc.concepts(path, tmp_path / "true.csv", of="features", device="cpu", isolate=False)
    (planted,) = true.concepts
    assert planted.established
    assert (planted.best[0].direction, planted.best[0].sign, planted.n_directions) == (9, 1, 1)
    assert any("looked up" in note or "synthetic" in note for note in true.notes)
    (dealt,) = rc.concepts(path, tmp_path / "dealt.csv", of="features", device="cpu", isolate=False).concepts
    assert not dealt.established
    assert dealt.p > 0.05


def test_the_command_and_its_forms(colours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = classifier(tmp_path)
    call = ["concepts", path, "--concepts", colours / "concepts.csv", "--preprocess", colours / "preprocessing.json",
            "--device", "cpu", "--no-time"]  # fmt: skip
    assert command(*call, "-o", "json", "-o", f"html={tmp_path / 'c.html'}") == 0
    text = capsys.readouterr().out
    document = json.loads(text)
    assert next(iter(document)) == "claim"
    assert document["claim"] == CLAIM
    assert (document["schema_version"], document["kind"]) == (1, "concepts")
    jsonschema.validate(document, ConceptsReport.model_json_schema(mode="serialization"))
    report = ConceptsReport.model_validate(document)
    assert forms.render("json", report) == text
    assert command(*call, "-q") == 0
    assert capsys.readouterr().out == (
        f"{path}: 2 of 3 concepts established, 2 with AP ≥ 0.9; not an indicator of robustness\n"
    )
    assert command(*call) == 0
    first, *_, last = [line for line in capsys.readouterr().out.splitlines() if line]
    assert first.startswith("The number of concepts is not an indicator of robustness")
    assert "2 reach 0.9." in last
    page = (tmp_path / "c.html").read_text()
    assert_it_loads_nothing(page)
    assert_it_is_accessible(page)
    root = parse(page)
    shown = words(root)
    assert shown.index(CLAIM) < shown.index(report.summary) < shown.index("Not judged")
    rows = list(next(root.all("table")).all("tr"))[1:]
    assert [next(row.all("th")).text for row in rows] == [each.name for each in report.concepts]


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("ascii_only", [False, True])
def test_the_terminal_report_fits(colours: Path, tmp_path: Path, width: int, ascii_only: bool) -> None:
    from io import StringIO

    from rich.console import Console

    report = measured(classifier(tmp_path), colours)
    for verbose in (False, True):
        out = StringIO()
        Console(file=out, width=width, no_color=True).print(
            terminal.render(report, ascii_only=ascii_only, verbose=verbose)
        )
        lines = out.getvalue().splitlines()
        assert max(map(len, lines)) <= width
        assert lines[0].startswith("The number of concepts is not an indicator of robustness")
        assert not ascii_only or out.getvalue().replace("é", "e").isascii()
        assert ("Not judged" in out.getvalue()) == verbose
        row = next(line for line in lines if line.strip().startswith("warm"))
        assert row.split()[2] == "1.000"
        assert row.endswith("established")


def test_hostile_names_stay_text(colours: Path, tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>\"'&{{ 7 * 7 }}\x1b[31m"
    report = measured(classifier(tmp_path), colours)
    concepts = tuple(each.model_copy(update={"name": hostile}) for each in report.concepts)
    page = forms.render("html", report.model_copy(update={"concepts": concepts}))
    assert_it_loads_nothing(page)
    assert "<script>" not in page
    assert "49" not in words(parse(page)).split()
    assert "\x1b" not in page
    assert "<script>" not in report.model_copy(update={"concepts": concepts})._repr_html_()


def test_a_notebook_shows_the_claim_and_a_row_a_concept(colours: Path, tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    report = measured(classifier(tmp_path), colours)
    html = report._repr_html_()
    assert "not an indicator of robustness" in html
    assert html.count("<tr>") == 1 + len(report.concepts)
    assert "established=2" in repr(report)
    frame = report.to_frame()
    assert frame.loc["warm", "established"]
    assert list(frame.index) == [each.name for each in report.concepts]


def test_the_same_seed_gives_the_same_document(colours: Path, tmp_path: Path) -> None:
    path = classifier(tmp_path)
    once, again, other = (
        forms.render("json", measured(path, colours, seed=seed, batch_size=size).model_copy(update={"time": None}))
        for seed, size in ((0, 32), (0, 7), (1, 32))
    )
    assert once == again
    assert once != other


def test_notes_on_concepts_that_are_no_discovery(colours: Path, tmp_path: Path) -> None:
    """`warm` and the images without it are one question; any order gives all but 3 of 60 images AP 0.9."""
    rows = (colours / "concepts.csv").read_text().splitlines()
    warm = {row.split(",")[0] for row in rows if row.endswith(",warm")}
    rows += [f"{i}.png,not warm" for i in range(N) if f"{i}.png" not in warm]
    rows += [f"{i}.png,most" for i in range(N - 3)]
    (tmp_path / "concepts.csv").write_text("\n".join([rows[0], *(f"{colours}/{row}" for row in rows[1:])]) + "\n")
    report = measured(classifier(tmp_path), colours, concept_set=tmp_path / "concepts.csv", min_positives=3)
    notes = " ".join(report.notes)
    assert "1 of the concepts have the same images as another one, or just the others" in notes
    assert f"1 concept of {len(report.concepts)} had AP 0.9 or more in half of the shuffles" in notes


def test_images_that_change_during_the_run(colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def changed(*args: Any, **options: Any) -> Any:
        found = open_concepts(*args, **options)
        return replace(found, concepts=dict(list(found.concepts.items())[1:]))

    monkeypatch.setattr("robustcheck_onnx.checker.concepts.run.open_concepts", changed)
    with pytest.raises(CannotAssessError, match="other bytes than when its concepts were read"):
        measured(classifier(tmp_path), colours)


@pytest.mark.process
def test_behind_the_wall(colours: Path, tmp_path: Path, wall: None) -> None:
    path = classifier(tmp_path)
    told: list[rc.Progress] = []
    inside = measured(path, colours, isolate=True, progress=told.append)
    assert inside.model_copy(update={"time": None}) == measured(path, colours).model_copy(update={"time": None})
    ranking = "ranking the images along each direction"
    assert {each.stage for each in told} >= {"loading the model", ranking, f"{ranking}, 3 of 3 done"}


def not_finite(folder: Path) -> Path:
    weight = np.array([[np.inf, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
    nodes: list[onnx_models.Node] = [("Mul", ["colour", "huge"], ["embedding"])]
    return model(
        folder / "inf.onnx", nodes, {"huge": weight[0].max(initial=0) * np.ones(3, np.float32)}, "embedding", 3
    )


def exponential(folder: Path) -> Path:
    """The class scores are another function than W·h + b."""
    nodes: list[onnx_models.Node] = [
        ("Gemm", ["colour", "w"], ["linear"], {"transB": 1}),
        ("Exp", ["linear"], ["logits"]),
    ]
    return model(folder / "exponential.onnx", nodes, {"w": HEAD}, "logits", 3)


def constant(folder: Path) -> Path:
    nodes: list[onnx_models.Node] = [("Mul", ["colour", "zero"], ["embedding"])]
    return model(folder / "constant.onnx", nodes, {"zero": np.zeros(3, np.float32)}, "embedding", 3)


@pytest.mark.parametrize(
    ("make", "given", "fault", "said"),
    [
        (encoder, {"of": "head"}, CannotAssessError, ""),
        (encoder, {"of": "heads"}, UsageError, "of is 'heads'; it must be one of head, features, axes"),
        (encoder, {"of": "axes", "head": "head.npy"}, UsageError, "of is 'axes', and a head is given"),
        (encoder, {"head": "nowhere.npy"}, UsageError, "head is missing; no such file"),
        (encoder, {"head": "wide.npy"}, UsageError, "the representation has 3 features"),
        (encoder, {"concept_set": "nowhere"}, UsageError, "concept set is missing"),
        (encoder, {"min_positives": 1}, UsageError, "min_positives is 1; it must be at least 2"),
        (encoder, {"shuffles": 18}, UsageError, "shuffles is 18; at least 19 are needed"),
        (encoder, {"min_coverage": 0.5}, UsageError, "--min-coverage is for the masks"),
        (encoder, {"max_images": 15}, CannotAssessError, "is 0 of 5, over 15 images; one at least is needed"),
        (encoder, {"concept_set": "all.csv"}, CannotAssessError, "10 images with it, and as many without, is 0 of 1"),
        (exponential, {"of": "head"}, CannotAssessError, "class output differs from W·h + b by"),
        (not_finite, {}, CannotAssessError, "values that are not finite"),
        (constant, {}, CannotAssessError, "number of directions is 0 (principal axes"),
    ],
)  # fmt: skip
def test_bad_input(
    colours: Path,
    tmp_path: Path,
    make: Callable[[Path], Path],
    given: dict[str, Any],
    fault: type[Exception],
    said: str,
) -> None:
    np.save(colours / "wide.npy", np.ones((4, 7)))
    (colours / "all.csv").write_text("path,concept\n" + "".join(f"{i}.png,everything\n" for i in range(N)))
    for name in {"head", "concept_set"} & given.keys():
        given = given | {name: colours / given[name]}
    with pytest.raises(fault) as caught:
        measured(make(tmp_path), colours, **given)
    assert said in str(caught.value)


def test_errors_of_the_command(colours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = encoder(tmp_path)
    manifest = colours / "concepts.csv"
    given = ["--preprocess", colours / "preprocessing.json", "--device", "cpu"]
    for words_, code, said in (
        ([path, "--concepts", manifest, *given, "--of", "head"], 3, ""),
        ([path, "--concepts", manifest, *given, "--max-images", "15"], 3, "is 0 of 5, over 15 images"),
        ([path, "--concepts", colours, *given], 2, "number of concepts is 0"),
        ([path, *given], 2, "--concepts"),
        ([path, "--concepts", manifest, *given, "--shuffles", "3"], 2, "--shuffles"),
        ([path, "--concepts", manifest, *given, "-o", f"json={manifest}"], 2, "a report must not replace it"),
        ([path, "--concepts", manifest, *given, "-o", "xml"], 2, "--output is 'xml'"),
    ):
        assert command("concepts", *words_) == code, said
        shown = capsys.readouterr()
        assert said in shown.err
        assert shown.out == ""


def test_a_tensor_beside_the_head_is_said(colours: Path, tmp_path: Path) -> None:
    path = cosine_classifier(tmp_path)
    with pytest.raises(UsageError, match="the head of the model acts on another one"):
        measured(path, colours, tensor="colour", of="head")
    report = measured(path, colours, tensor="colour")
    assert (report.directions.of, report.model.tensor) == ("axes", "colour")


def test_the_drawn_set_is_a_concept_set(tmp_path: Path) -> None:
    """The script's drawings: the same for one seed, and their colours are told by a model that sees mean colours."""
    drawn = load("drawn_concepts")
    manifest = drawn.write(tmp_path / "drawn", 150, seed=2, size_px=EDGE_PX)
    again = drawn.write(tmp_path / "again", 150, seed=2, size_px=EDGE_PX)
    assert manifest.read_bytes() == again.read_bytes()
    for first in sorted((tmp_path / "drawn/images").iterdir()):
        assert first.read_bytes() == (tmp_path / "again/images" / first.name).read_bytes()
    (tmp_path / "preprocessing.json").write_text(json.dumps(lookup.lookup_preprocessing(EDGE_PX)))
    report = rc.concepts(
        encoder(tmp_path), manifest, of="axes", preprocess=tmp_path / "preprocessing.json", device="cpu", isolate=False
    )
    assert {each.name for each in report.concepts} | {each.name for each in report.not_judged} == set(drawn.CONCEPTS)
    best = {each.name: each.p for each in report.concepts}
    assert min(best[name] for name in drawn.COLOURS) == 1 / 201
    assert {"blue", "green"} <= {each.name for each in report.concepts if each.established}
    onnx.checker.check_model(str(tmp_path / "encoder.onnx"))
