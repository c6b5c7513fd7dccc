"""Concept sets: folders, manifests, Broden's layout; each image once; what can't be read is said."""

import json
import shutil
from pathlib import Path

from PIL import Image

from robustcheck_onnx.checker.concepts.run import ConceptSet, open_concepts
from robustcheck_onnx.checker.text import sha256_of
from support import levels, refused, stores


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
    assert (found.layout, found.names, found.source.n_found) == ("folders", ("animal", "dog", "grass"), 4)
    every = set(found.names)
    assert by_seed(found, pictures) == {0: every, 1: every, 2: {"grass"}, 3: set()}
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
        assert (len(found.source), found.source.n_found) == (3, 8)


def test_manifests_with_and_without_scores_and_several_rows(tmp_path: Path) -> None:
    pictures = {i: picture(tmp_path / f"{i}.png", i) for i in range(4)}
    rows = (
        (0, "sky", 0.5), (0, " sea", None), (1, "sky", 0.49), (1, "sea", 1), (1, "sea", 0), (2, "", None),
        (3, "rare", 0.1),
    )  # fmt: skip
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
    assert (len(few.source), len(few.concepts), few.source.n_found) == (5, 5, 12)
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


def test_broken_manifests_and_what_is_not_a_concept_set(tmp_path: Path) -> None:
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
    for spec, said in (
        (tmp_path / "nowhere", "concept set is missing; it must be a folder of folders"),
        (tmp_path / "words.txt", "concept set is of no known layout"),
        (tmp_path / "flat", "no concepts found among 1 images"),
        (tmp_path / "with", "empty: no images found; each folder"),
        ("s3://bucket/concepts/", "concept set is a URL"),
    ):
        refused(said, open_concepts, spec)
    for options, said in (
        ({"min_coverage": 0.1}, "--min-coverage is for the masks"),
        ({"min_coverage": float("nan")}, "min_coverage is nan"),
        ({"max_images": 0}, "max_images is 0"),
    ):
        refused(said, open_concepts, tmp_path / "flat", **options)
