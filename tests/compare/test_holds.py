"""Whether the reference made an index: by ids, by its vectors, or not tested."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from numpy.random import default_rng

import robustcheck_onnx as rc
from robustcheck_onnx.checker.core.statistics.intervals import wilson_bounds
from robustcheck_onnx.checker.questions.compare import holds
from robustcheck_onnx.checker.questions.compare.ids import match_ids
from robustcheck_onnx.checker.questions.compare.index import compare_vectors
from robustcheck_onnx.checker.questions.compare.index_report import IndexOptions, IndexReport
from robustcheck_onnx.checker.questions.compare.similarity import lengths
from support import Capture, Patch, normal, raised, read_json, robustcheck
from support.comparisons import Array, Workshop, planted, rotation

H = planted(d=64, n=100) + 2
REST = normal(700, 64, seed=9) + H.mean(axis=0)  # what else the index holds
NAMES = [f"photos/{row}.jpg" for row in range(100)]


def judged(rows: Array, ids: list[str] | None = None, **options: object) -> IndexReport:
    """Compare the reference with itself: only the index decides."""
    images = [(name, f"digest {name}") for name in NAMES]
    blocks = [(part, lengths(part)) for part in np.array_split(rows, 3)]
    return compare_vectors(H, H, images, IndexOptions.model_validate(options), None, blocks, ids or ())


def answer(report: IndexReport) -> str:
    return report.reason.id if report.reason else report.verdict


def whole(photos: npt.NDArray[Any]) -> Array:
    return np.concatenate([photos, REST])


# names of photos | ids in an index | photo by the number of its id | the way in which they match | ambiguous photos,
# and how many of them have an id that occurs twice
IDS = r"""
a.jpg b.jpg | b.jpg x a.jpg | 0:1 2:0 | whole name | 0
photos/a.jpg | a.jpg | 0:0 | end of the path | 0
photos/a.jpg | x/photos/a.jpg | 0:0 | end of the path | 0
photos/a.jpg | x\photos\a.jpg | 0:0 | end of the path | 0
photos/a.jpg | ./photos/a.jpg | 0:0 | whole name | 0
photos/a.jpg | other/a.jpg | | | 0
aa.jpg | a.jpg | | | 0
photos/a.jpg 17.png | a 17 | 0:0 1:1 | name without suffix | 0
a/0.jpg b/0.jpg | b/0.jpg a/0.jpg | 0:1 1:0 | whole name | 0
a/0.jpg b/0.jpg | x/b/0.jpg x/a/0.jpg | 0:1 1:0 | end of the path | 0
a/0.jpg b/0.jpg | 0.jpg | | | 2
0.jpg | a/0.jpg b/0.jpg | | | 1
0.jpg | a/0.jpg 0.jpg b/0.jpg | 1:0 | whole name | 0
a.jpg | a.jpg a.jpg | | | 1 1
a/0.jpg b/0.jpg | 0.jpg 0.jpg | | | 2 2
a/0.jpg b/0.jpg | a/0.jpg a/0.jpg b/0.jpg | 2:1 | whole name | 1 1
a.jpg a.png | a | | | 2
a.jpg | | | | 0"""


@pytest.mark.parametrize("row", IDS.splitlines()[1:])
def test_an_id_matches_by_name_by_the_end_of_the_path_or_without_suffix(row: str) -> None:
    names, ids, rows, way, unclear = (cell.strip() for cell in row.split("|"))
    found = match_ids(names.split(), ids.split())
    assert " ".join(f"{row}:{photo}" for row, photo in sorted(found.rows.items())) == rows
    assert found.ways == ({way: len(found.rows)} if way else {})
    n_ambiguous, n_repeated = (int(n) for n in f"{unclear} 0".split()[:2])
    assert found.counts == {"n_ambiguous": n_ambiguous, "n_repeated": n_repeated, "n_ids": len(ids.split())}


# rows of an index | its ids | metric | answer | what is said, or how it was tested
INDEXES = """
the reference's | names | | compatible | by ids
the reference's | stems | | compatible | by ids
the reference's | numbers | | compatible | by vectors
the reference's | | | compatible | by vectors
float16 | | | compatible | by vectors
8 bits | names | | compatible | by ids
of one length | | | compatible | by vectors
1 replaced | names | | compatible | by ids
1 replaced | | | compatible | by vectors
40 photos alone | names | | compatible | by ids
doubled | | cosine | compatible | by vectors
doubled | | | index_lengths | are 2.00 times as long
doubled | | dot | index_lengths | are 2.00 times as long
doubled | names | euclidean | index_lengths | are 2.00 times as long
of one length | | euclidean | index_lengths | times as long
in another order | names | | other_ids | are under the id of another photo
noise | names | | other_index | 100 of 100 photos have another vector
noise alone | | | other_index | the mean of its vectors
rotated | names | | changed_index | the index is rotated
rotated | | | other_index | rotated, or made with another model
centred | names | | changed_index | the index is centred
centred | | | other_index | centred, or made with another model
centred and rotated | names | | changed_index | centred and rotated
20 dimensions | | | changed_index | reduced: the vectors of the index lie in 21
binary | | | changed_index | two values
4 values | | | changed_index | at most 256 values
near | names | | changed_index | near the reference's and not the same
8 replaced | names | | other_index | 8 of 100 photos have another
8 replaced | | | untested_index | 92 of 100 photos have their vector in it
34 photos | names | | untested_index | 34 have an id
others | | | untested_index | 0 of 100 photos have their vector in it
permuted | | | untested_index |"""


@pytest.fixture(scope="module")
def stored() -> dict[str, Array]:
    mean, step, noise = H.mean(axis=0), np.abs(H).max() / 127, normal(100, 64, seed=5)
    random, centred, turn = default_rng(0), whole(H) - H.mean(axis=0), rotation(64)
    axes = np.linalg.svd(centred, full_matrices=False)[2][:20]
    return {
        "the reference's": whole(H),
        "float16": whole(H.astype(np.float16)),
        "8 bits": whole(np.round(H / step) * step),
        "of one length": whole(H / np.linalg.norm(H, axis=1, keepdims=True)),
        "1 replaced": whole(np.concatenate([REST[:1], H[1:]])),
        "8 replaced": whole(np.concatenate([REST[:8], H[8:]])),
        "40 photos alone": whole(H[:40]),
        "34 photos": whole(H[:34]),
        "doubled": whole(2 * H),
        "in another order": whole(H[random.permutation(100)]),
        "noise": whole(noise),
        "noise alone": noise,
        "rotated": whole(H) @ turn,
        "centred": centred,
        "centred and rotated": centred @ turn,
        "20 dimensions": centred @ axes.T @ axes + mean,
        "binary": np.where(centred > 0, 1.0, -1.0),
        "4 values": random.choice([-1.0, 0.5, 3.0, 17.0], (800, 64)),
        "near": whole(H + 0.8 * normal(100, 64, seed=6)),
        "others": REST,
        "permuted": H[:, random.permutation(64)],
    }


@pytest.mark.parametrize("row", INDEXES.splitlines()[1:])
def test_an_index_is_the_references_or_what_it_holds_is_named(row: str, stored: dict[str, Array]) -> None:
    rows, names, metric, expected, said = (cell.strip() for cell in row.split("|"))
    others = [f"other {number}" for number in range(len(REST))]
    of_photos = {
        "names": NAMES,
        "stems": [Path(name).stem for name in NAMES],
        "numbers": list(map(str, range(1000, 1100))),
    }
    ids = names and [*of_photos[names][: len(stored[rows]) - len(REST)], *others]
    report = judged(stored[rows], ids or None, metric=metric or None)
    assert answer(report) == expected
    if expected == "compatible":
        assert report.tested == said
        return
    assert report.verdict == "undecided"
    assert report.reason is not None
    assert said in report.reason.seen
    accepted = judged(stored[rows], ids or None, metric=metric or None, accept_untested=True)
    assert (accepted.verdict == "compatible") == (expected == "untested_index")


def test_an_index_that_was_accepted_untested_says_so() -> None:
    assert judged(REST).plain.endswith("use `--accept-untested-index`.")
    plain = judged(REST, accept_untested=True).plain
    assert "compatible, but it was not tested whether the reference made the index (accepted by --accept" in plain


def test_what_all_vectors_have_in_common_does_not_make_them_the_same() -> None:
    """Behind one very large feature every vector has a cosine of 0.999 to every other one."""
    alike = H + 300 * np.eye(64)[3]
    assert (holds.spacing(alike) < 0.01).all()
    assert not holds.is_same(1 - holds.spacing(alike), holds.spacing(alike)).any()
    assert holds.is_same(np.ones(100), holds.spacing(alike)).all()
    cosines = alike @ alike.T / np.outer(*2 * [np.linalg.norm(alike, axis=1)])
    np.fill_diagonal(cosines, -1)
    assert holds.spacing(alike) == pytest.approx(1 - cosines.max(axis=1), abs=1e-12)


def test_the_fewest_photos_are_those_for_which_the_bound_of_a_full_share_holds() -> None:
    lows = [wilson_bounds(1.0, n)[0] for n in (34, 35)]
    assert lows[0] < holds.SAME_SHARE <= lows[1]


def test_another_index_outranks_what_the_candidate_changed() -> None:
    images = [(name, f"digest {name}") for name in NAMES]
    noise = normal(100, 64, seed=5)
    for rows, ids, expected in (
        (noise, NAMES, "other_index"),
        (np.roll(H, 1, axis=0), NAMES, "other_ids"),
        (H @ rotation(64), NAMES, "changed_index"),
        (2 * H, NAMES, "index_lengths"),
        (noise, [], "other_index"),
    ):
        blocks = [(rows, lengths(rows))]
        for candidate in (np.roll(H, 1, axis=0), H @ rotation(64), 2 * H):
            options = IndexOptions(metric="dot", accept_untested=True)
            report = compare_vectors(candidate, H, images, options, None, blocks, ids)
            assert {"re-embed", "undecided"} == {reason.verdict for reason in report.reasons}
            assert (report.verdict, answer(report)) == ("undecided", expected)
            assert ("Name the reference that" in report.plain) is (expected == "other_index")


CALLS = """\
--index right.npy | 0 | compatible
--index noise.npy | 1 | centred, or made with another model
--index others.npy | 1 | 0 of 80 photos have their vector in it
--index others.npy --accept-untested-index | 0 | (accepted by --accept-untested-index)
--index noise.npy --accept-untested-index | 1 | made with another model
--accept-untested-index | 2 | --accept-untested-index is given without --index
--index codes.npy | 2 | codes of a quantised or binary index
--index narrow.npy | 2 | as after a PCA"""


def test_the_command_tests_an_index_before_it_is_compatible(
    workshop: Workshop, capsys: Capture, monkeypatch: Patch
) -> None:
    h = planted()
    model = workshop.model("model", h)
    monkeypatch.chdir(workshop.folder)
    np.save("right.npy", h)
    np.save("noise.npy", normal(300, 384))
    np.save("others.npy", normal(300, 384, seed=2) + h.mean(axis=0))
    np.save("codes.npy", np.round(h).astype(np.int8))
    np.save("narrow.npy", h[:, :64])
    call = f"compare {model} {model} --images {workshop.photos} --device cpu --require index -q -o terminal"
    call += " -o json=report.json"
    for row in CALLS.splitlines():
        words, code, said = row.split(" | ")
        assert robustcheck(*f"{call} {words}".split()) == int(code), words
        assert said in " ".join("".join(capsys.readouterr()).split())
        if code != "2":
            report = read_json("report.json")["index"]
            assert report["options"]["accept_untested"] == ("accept" in words)
            assert report["tested"] == ("by vectors" if "right" in words else "no")
    both, others = (model, model, workshop.photos), IndexOptions(file=Path("others.npy"))
    raised(rc.IndexVerdictError, "not tested whether", rc.assert_same_index, *both, index=others, device="cpu")
    accepted = IndexOptions(file=Path("others.npy"), accept_untested=True)
    assert rc.assert_same_index(*both, index=accepted, device="cpu").index is not None
