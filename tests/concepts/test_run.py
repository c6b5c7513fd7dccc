"""robustcheck concepts from a model's file to its forms: planted colours, real vectors, heads, bad input, the wall."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto
from PIL import Image

import robustcheck_onnx as rc
from robustcheck_onnx.checker.concepts.directions import CLAIM, ConceptsReport
from robustcheck_onnx.checker.concepts.run import open_concepts
from robustcheck_onnx.checker.errors import CannotAssessError, UsageError
from support import Capture, Fields, Patch, but, lookup, onnx_models, raised, robustcheck
from support.onnx_models import written
from support.screens import parse, shown, words

EDGE_PX = 8
# rows: red against blue, green against both, all alike: right singular vectors of HEAD, singular values 6, 4, 2
ROWS = np.array([[1, 0, -1], [-1, 2, -1], [1, 1, 1]]) / np.sqrt([[2], [6], [3]])
HEAD = (np.linalg.qr(onnx_models.weight(3, 3).astype(float))[0] @ np.diag([6.0, 4, 2]) @ ROWS).astype(np.float32)
N = 60


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Plain pictures of random colours: warm where red is well above blue, cold the other way, odd by chance."""
    folder = tmp_path_factory.mktemp("colours")
    rng = np.random.default_rng(0)
    rows = ["path,concept\n"]
    for i in range(N):
        red, green, blue = rng.integers(0, 256, 3).tolist()
        Image.new("RGB", (EDGE_PX, EDGE_PX), (red, green, blue)).save(folder / f"{i}.png")
        named = {
            "warm": red - blue > 40, "cold": blue - red > 40, "odd": rng.random() < 0.4, "rare": i < 3, "any": True,
        }  # fmt: skip
        rows += [f"{i}.png,{name}\n" for name, here in named.items() if here]
    (folder / "concepts.csv").write_text("".join(rows))
    (folder / "preprocessing.json").write_text(json.dumps(lookup.lookup_preprocessing(EDGE_PX)))
    np.save(folder / "head.npy", HEAD)
    return folder


TAILS: dict[str, tuple[str, Fields]] = {
    "classifier": ("logits = Gemm(colour, w, b, transB=1)", {"w": HEAD, "b": np.ones(3, np.float32)}),
    "cosine": ("unit = LpNormalization(colour, axis=1); logits = MatMul(unit, w)", {"w": HEAD.T.copy()}),
    "zero_shot": (
        "representation = Identity(colour); unit = LpNormalization(representation, axis=1); logits = MatMul(unit, w)",
        {"w": HEAD.T.copy()},
    ),
    "encoder": ("embedding = Identity(colour)", {}),
    "exponential": ("linear = Gemm(colour, w, transB=1); logits = Exp(linear)", {"w": HEAD}),
    "infinite": ("embedding = Mul(colour, w)", {"w": np.full(3, np.inf, np.float32)}),
    "constant": ("embedding = Mul(colour, w)", {"w": np.zeros(3, np.float32)}),
}


def model(folder: Path, name: str) -> Path:
    """A model that sees mean colours; of `zero_shot` the contract names the output before its length becomes 1."""
    text, weights = TAILS[name]
    outputs, props = [text.rpartition("; ")[2].partition(" = ")[0]], {}
    if name == "zero_shot":
        contract = lookup.lookup_contract(size_px=EDGE_PX)
        contract["tensors"]["logits"] = {"meaning": "cosines", "rule": "logits"}
        outputs, props = ["representation", "logits"], {lookup.CONTRACT_KEY: json.dumps(contract)}
    values = [(output, TensorProto.FLOAT, ("batch", 3)) for output in outputs]
    before = "pool = GlobalAveragePool(image); colour = Flatten(pool)"
    proto = written(text, *values, before=before, props=props, **weights)
    return onnx_models.save(proto, folder / f"{name}.onnx")


def measured(path: Path, colours: Path, concept_set: str = "concepts.csv", **given: Any) -> ConceptsReport:
    always: Fields = {"preprocess": colours / "preprocessing.json", "device": "cpu", "isolate": False}
    return rc.concepts(path, colours / concept_set, **always | given)


@pytest.fixture(scope="module")
def classified(colours: Path) -> ConceptsReport:
    return measured(model(colours, "classifier"), colours)


def test_planted_colours_are_told_along_the_heads_own_vector(classified: ConceptsReport) -> None:
    report = classified
    found = {each.name: each for each in report.concepts}
    assert {name: each.established for name, each in found.items()} == {"warm": True, "cold": True, "odd": False}
    assert found["warm"].ap == found["cold"].ap == 1.0
    assert found["warm"].best[0].sign == -found["cold"].best[0].sign
    (told,) = report.directions.telling
    assert (told.direction, set(told.concepts)) == (0, {"warm", "cold"})  # opposite ends of one direction
    assert told.strength == pytest.approx(6, rel=1e-5)
    assert (report.directions.of, report.directions.n, report.directions.n_polysemantic) == ("head", 3, 1)
    assert (report.n_established, report.n_encoded, report.concept_set.n_without) == (2, 2, 0)
    assert {each.name: each.n_images for each in report.not_judged} == {"rare": 3, "any": N}
    assert "established=2" in repr(report)
    for verbose in (False, True):
        lines = shown(report, 120, verbose=verbose).splitlines()
        assert lines[1].startswith("The number of concepts is not an indicator of robustness")
        (row,) = [line.split() for line in lines if line.strip().startswith("warm")]
        assert (row[2], row[-1]) == ("1.000", "established")


def test_heads_from_files_features_and_axes(colours: Path, tmp_path: Path, classified: ConceptsReport) -> None:
    path = model(tmp_path, "encoder")
    by_file = measured(path, colours, head=colours / "head.npy")
    assert by_file.directions == but(classified.directions, source="right singular vectors of the weight of head.npy")
    features = measured(path, colours, of="features", min_positives=3)
    assert (features.directions.n, features.n_established) == (3, 0)  # no channel alone is red against blue
    assert {each.name for each in features.not_judged} == {"any"}
    assert any("other directions" in note for note in features.notes)
    axes = measured(path, colours)
    assert axes.directions.of == "axes"
    assert any(note.startswith("No head was read (") for note in axes.notes)


def test_a_head_on_unit_vectors_is_read_where_it_acts(colours: Path, tmp_path: Path) -> None:
    """A zero-shot head reads the vector of length 1: that is what is projected, also where a check reads another."""
    pixels = np.array([np.array(Image.open(colours / f"{i}.png"), float)[0, 0] for i in range(N)])
    has = (pixels[:, 0] - pixels[:, 2] > 40)[np.argsort(-(pixels @ ROWS[0] / np.linalg.norm(pixels, axis=1)))]
    along = float((has.cumsum() / np.arange(1, N + 1))[has].mean())
    for name in ("cosine", "zero_shot"):
        report = measured(model(tmp_path, name), colours)
        assert (report.model.tensor, report.directions.of) == ("unit", "head")
        (warm,) = (each for each in report.concepts if each.name == "warm")
        assert {each.direction: each.ap for each in warm.best}[0] == pytest.approx(along)
    given = tmp_path / "cosine.onnx", colours
    raised(UsageError, "the head of the model acts on another one", measured, *given, tensor="colour", of="head")
    report = measured(*given, tensor="colour")
    assert (report.directions.of, report.model.tensor) == ("axes", "colour")


def test_the_command_and_its_forms(colours: Path, tmp_path: Path, capsys: Capture) -> None:
    path = model(tmp_path, "classifier")
    call = ["concepts", path, "--concepts", colours / "concepts.csv", "--preprocess", colours / "preprocessing.json",
            "--device", "cpu", "--no-time"]  # fmt: skip
    assert robustcheck(*call, "-o", "json", "-o", f"html={tmp_path / 'c.html'}") == 0
    text = capsys.readouterr().out
    assert text.startswith(f'{{\n  "claim": "{CLAIM}",\n')
    report = ConceptsReport.model_validate_json(text)
    assert report.to_json() == text
    assert robustcheck(*call, "-q") == 0
    assert capsys.readouterr().out == (
        f"{path}: 2 of 3 concepts established, 2 with AP ≥ 0.9; not an indicator of robustness\n"
    )
    page = words(parse((tmp_path / "c.html").read_text()))
    assert page.index(CLAIM) < page.index(report.summary) < page.index("Not judged")
    assert robustcheck("concepts", model(tmp_path, "encoder"), *call[2:], "--of", "head") == 3
    assert robustcheck("concepts", path) == 2
    shown = capsys.readouterr()
    assert ("--concepts" in shown.err, shown.out) == (True, "")


@pytest.mark.long
def test_a_data_frame_has_a_row_per_concept(classified: ConceptsReport) -> None:
    pytest.importorskip("pandas")
    told = {each.name: each.established for each in classified.concepts}
    assert classified.to_frame()["established"].to_dict() == told
    assert "not an indicator of robustness" in classified._repr_html_()


def test_the_same_seed_gives_the_same_document(colours: Path, classified: ConceptsReport) -> None:
    path = Path(classified.model.file)
    again, other = measured(path, colours, batch_size=7), measured(path, colours, seed=1)
    assert but(again, time=None) == but(classified, time=None) != but(other, time=None)


def test_notes_on_concepts_that_are_no_discovery(colours: Path, tmp_path: Path) -> None:
    """`hot` is `warm`: one question; any order gives all but 3 of 60 images AP 0.9."""
    rows = (colours / "concepts.csv").read_text().splitlines()
    rows += [row.replace(",warm", ",hot") for row in rows if ",warm" in row]
    rows += [f"{i}.png,most" for i in range(N - 3)]
    (colours / "more.csv").write_text("\n".join(rows))
    report = measured(model(tmp_path, "classifier"), colours, "more.csv", min_positives=3)
    notes = " ".join(report.notes)
    assert "1 concept with the same images as another one, or with exactly the others" in notes
    assert f"1 concept of {len(report.concepts)} had AP 0.9 or more in half of the shuffles" in notes


def test_images_that_change_during_the_run(colours: Path, classified: ConceptsReport, monkeypatch: Patch) -> None:
    found = open_concepts(colours / "concepts.csv")
    found.concepts.popitem()
    monkeypatch.setattr("robustcheck_onnx.checker.concepts.run.open_concepts", lambda *_, **__: found)
    said = "other bytes than when its concepts were read"
    raised(CannotAssessError, said, measured, Path(classified.model.file), colours)


@pytest.mark.process
def test_behind_the_wall(colours: Path, classified: ConceptsReport, wall: None) -> None:
    told: list[rc.Progress] = []
    inside = measured(Path(classified.model.file), colours, isolate=True, progress=told.append)
    assert but(inside, time=None) == but(classified, time=None)
    ranking = "ranking the images along each direction"
    assert {each.stage for each in told} >= {"loading the model", ranking, f"{ranking}, 3 of 3 done"}


def test_bad_input(colours: Path, tmp_path: Path) -> None:
    np.save(colours / "wide.npy", np.ones((4, 7)))
    (colours / "all.csv").write_text("path,concept\n" + "".join(f"{i}.png,everything\n" for i in range(N)))
    bad: list[tuple[str, Fields, type[Exception], str]] = [
        ("encoder", {"of": "heads"}, UsageError, "of is 'heads'; it must be one of head, features, axes"),
        ("encoder", {"of": "axes", "head": "head.npy"}, UsageError, "of is 'axes', and a head is given"),
        ("encoder", {"head": colours / "wide.npy"}, UsageError, "the representation has 3 features"),
        ("encoder", {"min_positives": 1}, UsageError, "min_positives is 1; it must be at least 2"),
        ("encoder", {"shuffles": 18}, UsageError, "shuffles is 18; at least 19 are needed"),
        ("encoder", {"max_images": 15}, CannotAssessError, "none of 5 concepts has at least 10 of the 15 images"),
        ("encoder", {"concept_set": "all.csv"}, CannotAssessError, "none of 1 concepts has at least 10 of"),
        ("exponential", {"of": "head"}, CannotAssessError, "class output differs from W·h [+] b by"),
        ("infinite", {}, CannotAssessError, "values that are not finite"),
        ("constant", {}, CannotAssessError, "no directions found [(]principal axes"),
    ]
    for name, given, fault, said in bad:
        raised(fault, said, measured, model(tmp_path, name), colours, **given)
