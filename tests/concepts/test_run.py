"""robustcheck concepts from sets and models to its forms: planted colours, heads, bad input, the wall."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto
from PIL import Image

import robustcheck_onnx as rc
from robustcheck_onnx.checker.errors import CannotAssessError, UsageError
from robustcheck_onnx.checker.questions.concepts.document import CLAIM, ConceptsReport
from robustcheck_onnx.checker.questions.concepts.sets import ConceptSet, open_concepts
from robustcheck_onnx.checker.text import sha256_of
from support import Capture, Fields, Patch, but, levels, lookup, onnx_models, raised, refused, robustcheck, stores
from support.onnx_models import written
from support.screens import parse, shown, words

EDGE_PX, N, NAMES = 8, 60, ("warm", "cold", "odd", "rare", "any")
# rows: red against blue, green against both, all alike: right singular vectors of HEAD, singular values 6, 4, 2
ROWS = np.array([[1, 0, -1], [-1, 2, -1], [1, 1, 1]]) / np.sqrt([[2], [6], [3]])
HEAD = (np.linalg.qr(onnx_models.weight(3, 3).astype(float))[0] @ np.diag([6.0, 4, 2]) @ ROWS).astype(np.float32)


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Plain pictures of random colours: warm where red is well above blue, cold the other way, odd by chance."""
    folder = tmp_path_factory.mktemp("colours")
    rng = np.random.default_rng(0)
    rows = ["path,concept\n"]
    for i in range(N):
        red, green, blue = rng.integers(0, 256, 3).tolist()
        Image.new("RGB", (EDGE_PX, EDGE_PX), (red, green, blue)).save(folder / f"{i}.png")
        has = red - blue > 40, blue - red > 40, rng.random() < 0.4, i < 3, True
        rows += [f"{i}.png,{name}\n" for name, is_there in zip(NAMES, has, strict=True) if is_there]
    (folder / "concepts.csv").write_text("".join(rows))
    (folder / "preprocessing.json").write_text(json.dumps(lookup.lookup_preprocessing(EDGE_PX)))
    np.save(folder / "head.npy", HEAD)
    return folder


TURNED: Fields = {"w": HEAD.T.copy()}
UNIT = "unit = LpNormalization(colour, axis=1); logits = MatMul(unit, w)"
TAILS: dict[str, tuple[str, Fields]] = {
    "classifier": ("logits = Gemm(colour, w, b, transB=1)", {"w": HEAD, "b": np.ones(3, np.float32)}),
    "cosine": (UNIT, TURNED),
    "zero_shot": ("representation = Identity(colour); " + UNIT.replace("colour", "representation"), TURNED),
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
    report, found = classified, {each.name: each for each in classified.concepts}
    assert {name: each.established for name, each in found.items()} == {"warm": True, "cold": True, "odd": False}
    warm, cold, (told,) = found["warm"], found["cold"], report.directions.telling
    assert (warm.ap, cold.ap, warm.best[0].sign + cold.best[0].sign) == (1.0, 1.0, 0)  # opposite ends of one direction
    assert [told.direction, {*told.concepts}, told.strength] == [0, {"warm", "cold"}, pytest.approx(6, rel=1e-5)]
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
    line = f"{path}: 2 of 3 concepts established, 2 with AP ≥ 0.9; not an indicator of robustness\n"
    assert capsys.readouterr().out == line
    page = words(parse((tmp_path / "c.html").read_text()))
    assert page.index(CLAIM) < page.index(report.summary) < page.index("Not judged")
    assert robustcheck("concepts", model(tmp_path, "encoder"), *call[2:], "--of", "head") == 3
    assert robustcheck("concepts", path) == 2
    out, err = capsys.readouterr()
    assert ("--concepts" in err, out) == (True, "")


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
    rows += [row.replace(",warm", ",hot") for row in rows if ",warm" in row] + [f"{i}.png,most" for i in range(N - 3)]
    (colours / "more.csv").write_text("\n".join(rows))
    report = measured(model(tmp_path, "classifier"), colours, "more.csv", min_positives=3)
    notes = " ".join(report.notes)
    assert "1 concept with the same images as another one, or with exactly the others" in notes
    assert f"1 concept of {len(report.concepts)} had AP 0.9 or more in half of the shuffles" in notes


def test_images_that_change_during_the_run(colours: Path, classified: ConceptsReport, monkeypatch: Patch) -> None:
    found = open_concepts(colours / "concepts.csv")
    found.concepts.popitem()
    monkeypatch.setattr("robustcheck_onnx.checker.questions.concepts.run.open_concepts", lambda *_, **__: found)
    said = "other bytes than when its concepts were read"
    raised(CannotAssessError, said, measured, Path(classified.model.file), colours)


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


def picture(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(levels(8, 8, 3, seed=seed)).save(path)
    return path


def by_seed(found: ConceptSet, pictures: dict[int, Path]) -> dict[int, set[str]]:
    """The concepts of each picture of the source, found by its bytes."""
    seeds = {sha256_of(path.read_bytes()): seed for seed, path in pictures.items()}
    digests = [found.source.digest(place) or "" for place in range(len(found.source))]
    assert sorted(digests) == sorted(found.concepts)
    return {seeds[digest]: set(found.concepts[digest]) for digest in digests}


def test_folders_with_copies_links_and_negatives(tmp_path: Path) -> None:
    """A link that leads nowhere stays to be skipped."""
    folder = tmp_path / "set"
    names = ("dog/a.png", "dog/deep/b.png", "grass/c.png", "nothing.png")
    pictures = {seed: picture(folder / name, seed) for seed, name in enumerate(names)}
    shutil.copy(pictures[0], folder / "grass/copy.png")  # the same bytes by another name
    (folder / "grass/link.png").symlink_to(pictures[1])
    (folder / "animal").symlink_to(folder / "dog")  # a whole folder under another name
    picture(folder / ".hidden/d.png", 4)
    (folder / "read me.txt").write_text("no image")
    found = open_concepts(folder)
    assert (found.layout, found.names, found.source.n_available) == ("folders", ("animal", "dog", "grass"), 4)
    assert by_seed(found, pictures) == {0: {*found.names}, 1: {*found.names}, 2: {"grass"}, 3: set()}
    (folder / "grass/gone.png").symlink_to(tmp_path / "nowhere.png")
    found = open_concepts(folder)
    assert (len(found.source), len(found.concepts)) == (5, 4)


def test_fewer_images_keep_all_their_concepts(tmp_path: Path) -> None:
    """Copies are joined before the first images are taken: else a copy left out would be a missing concept."""
    pictures = {i: picture(tmp_path / f"one/{i}.png", i) for i in range(8)}
    for i in pictures:
        picture(tmp_path / f"two/{7 - i}.png", i)
    for seed in range(4):
        found = open_concepts(tmp_path, seed=seed, max_images=3)
        assert list(by_seed(found, pictures).values()) == [{"one", "two"}] * 3
        assert (len(found.source), found.source.n_available) == (3, 8)


def test_manifests_with_and_without_scores_and_several_rows(tmp_path: Path) -> None:
    pictures = {i: picture(tmp_path / f"{i}.png", i) for i in range(4)}
    rows = [(0, "sky", 0.5), (0, " sea", None), (1, "sky", 0.49), (1, "sea", 1), (1, "sea", 0), (2, "", None)]
    rows.append((3, "rare", 0.1))
    as_csv = ["path,concept,score", *(f"{n}.png,{c},{'' if s is None else s}" for n, c, s in rows)]
    as_json = [json.dumps({"path": f"{n}.png", "concept": c, "score": s}) for n, c, s in rows]
    for name, lines in (("concepts.csv", as_csv), ("concepts.jsonl", as_json)):
        (tmp_path / name).write_text("\n".join(lines) + "\n")
        found = open_concepts(tmp_path / name)
        assert (found.layout, found.names) == ("manifest", ("rare", "sea", "sky"))
        assert "0.5 or more" in found.rule
        assert by_seed(found, pictures) == {0: {"sky", "sea"}, 1: {"sea"}, 2: set(), 3: set()}
    (tmp_path / "plain.csv").write_text("image,concept\n0.png,7\n0.png,sky\n")
    assert list(open_concepts(tmp_path / "plain.csv").concepts.values()) == [{"7", "sky"}]


def test_broden_layout(tmp_path: Path) -> None:
    """1 % of each object mask is a door, 5 % of a part mask a knob; labels of whole images need no mask."""
    folder = tmp_path / "broden"
    truth = stores.write_broden(folder)
    found = open_concepts(folder, seed=3)
    assert found.layout == "broden"
    assert {item.name: found.concepts[getattr(item, "digest", "")] for item in found.source.items()} == truth
    few = open_concepts(folder, max_images=5)
    assert (len(few.source), len(few.concepts), few.source.n_available) == (5, 5, 12)
    for share, masks in ((0.01, ("door", "knob", "sky")), (0.011, ("knob", "sky")), (0.3, ("sky",)), (0.31, ())):
        found = open_concepts(folder, min_coverage=share)
        assert found.names == (*masks, "street", "woven (301)", "woven (302)")
    assert "at least 31.00% of the pixels" in found.rule


def test_broken_broden_folders(tmp_path: Path) -> None:
    """Of a table the text that is replaced (all of it; its end where the text is empty), by what, and what is said."""
    folder = tmp_path / "broden"
    stores.write_broden(folder)
    for name, old, new, said in (
        ("label.csv", None, "number\n1\n", "label.csv: column name is missing"),
        ("label.csv", None, "number,name\n", "label.csv: no rows found"),
        ("label.csv", "", "1,again,object(1),1,0,\n", "row 8 is number '1', name 'again'; each must have"),
        ("category.csv", "", "smell,1,2,3,4\n", "index.csv: column smell is missing"),
        ("index.csv", "", "set/photo_0.png,train,16,16,10,10,,,,\n", "row 14: image is 'set/photo_0.png'"),
        ("index.csv", "set/photo_0.png", "../photo_0.png", "another image below images/"),
        ("index.csv", "set/photo_1_object.png", "/photo_1.png", "a PNG below images/"),
        ("index.csv", ",300,301;302", ",300,301;77", "row 2: texture is 77; 77 is not a number of label.csv"),
    ):
        text = (folder / name).read_text()
        assert (old or "") in text
        (folder / name).write_text(new if old is None else text.replace(old, new, 1) if old else text + new)
        refused(said, open_concepts, folder)
        (folder / name).write_text(text)
    mask = folder / "images/set/photo_1_object.png"
    stores.write_mask(mask, {999: 4})
    refused("999 is not a number of label.csv", open_concepts, folder)
    Image.new("L", (10, 10), 1).save(mask)
    refused("a PNG with red, green and blue (greyscale)", open_concepts, folder)
    mask.unlink()
    refused("row 3: object is set/photo_1_object.png; the mask must be", open_concepts, folder)
    (folder / "index.csv").unlink()
    refused("index.csv: table is not readable (No such file", open_concepts, folder)


def test_broken_manifests_and_what_is_not_a_concept_set(tmp_path: Path, monkeypatch: Patch) -> None:
    picture(tmp_path / "a.png", 0)
    for name, rows, said in (
        ("m.csv", "path\na.png\n", "column concept is missing"),
        ("m.csv", "concept\nsky\n", "row 2 has the columns concept; one of path, image, file must name the image"),
        ("m.csv", "path,concept\na.png,\n", "no concepts found among 1 images"),
        ("m.csv", "path,concept\nb.png,sky\n", "row 2: path is b.png; there is no such file"),
        ("m.csv", "path,concept,score\na.png,sky,high\n", "row 2: score is 'high'; it must be a number, 0 to 1"),
        ("m.csv", "path,concept,score\na.png,sky,87\n", "row 2: score is '87'; it must be a number, 0 to 1"),
        ("m.csv", "path,concept\na.png,  \n", "row 2: concept is '  '; it must be a name"),
        ("m.jsonl", '{"path": "a.png", "concept": ["sky"]}', "row 1: concept is ['sky']; it must be a name"),
        ("m.jsonl", '{"path": "a.png", "concept": true}', "row 1: concept is True; it must be a name"),
    ):
        (tmp_path / name).write_text(rows)
        refused(said, open_concepts, tmp_path / name)
    picture(tmp_path / "flat/a.png", 0)
    (tmp_path / "with/empty").mkdir(parents=True)
    (tmp_path / "words.txt").write_text("a.png\n")
    monkeypatch.chdir(tmp_path)
    for spec, options, said in (
        ("nowhere", {}, "concept set is missing; it must be a folder of folders"),
        ("words.txt", {}, "concept set is of no known layout"),
        ("flat", {}, "no concepts found among 1 images"),
        ("with", {}, "empty: no images found; each folder"),
        ("s3://bucket/concepts/", {}, "concept set is a URL"),
        ("flat", {"min_coverage": 0.1}, "--min-coverage is for the masks"),
        ("flat", {"min_coverage": float("nan")}, "min_coverage is nan"),
        ("flat", {"max_images": 0}, "max_images is 0"),
    ):
        refused(said, open_concepts, spec, **options)
