"""Whether the reference made an index: by ids, by its vectors, or not tested."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from numpy.random import default_rng

import robustcheck_onnx as rc
from robustcheck_onnx.checker.compare import holds
from robustcheck_onnx.checker.compare import index as vectors
from robustcheck_onnx.checker.compare.ids import match_ids
from robustcheck_onnx.checker.compare.index import IndexOptions, IndexReport
from robustcheck_onnx.checker.statistics.definitions import wilson_bounds
from support import Capture, Patch, normal, raised, read_json, robustcheck
from support.comparisons import Array, Workshop, planted, rotation

H = planted(d=64, n=100) + 2
REST = normal(700, 64, seed=9) + H.mean(axis=0)  # what else the index holds
NAMES = [f"photos/{row}.jpg" for row in range(100)]


def judged(rows: Array, ids: list[str] | None = None, **options: object) -> IndexReport:
    """Compare the reference with itself: only the index decides."""
    images = [(name, f"digest {name}") for name in NAMES]
    blocks = [(part, vectors.lengths(part)) for part in np.array_split(rows, 3)]
    return vectors.compare_vectors(H, H, images, IndexOptions.model_validate(options), None, blocks, ids or ())


def answer(report: IndexReport) -> str:
    return report.reason.id if report.reason else report.verdict


def whole(photos: npt.NDArray[Any]) -> Array:
    return np.concatenate([photos, REST])


def ids_of(*names: str) -> list[str]:
    return [*names, *(f"other {row}" for row in range(len(REST)))]


@pytest.mark.parametrize(
    ("names", "ids", "rows", "ways", "n_ambiguous"),
    [
        (["a.jpg", "b.jpg"], ["b.jpg", "x", "a.jpg"], {0: 1, 2: 0}, {"whole name": 2}, 0),
        (["photos/a.jpg"], ["a.jpg"], {0: 0}, {"end of the path": 1}, 0),
        (["photos/a.jpg"], ["x/photos/a.jpg"], {0: 0}, {"end of the path": 1}, 0),
        (["photos/a.jpg"], ["x\\photos\\a.jpg"], {0: 0}, {"end of the path": 1}, 0),
        (["photos/a.jpg"], ["./photos/a.jpg"], {0: 0}, {"whole name": 1}, 0),
        (["photos/a.jpg"], ["other/a.jpg"], {}, {}, 0),
        (["aa.jpg"], ["a.jpg"], {}, {}, 0),
        (["photos/a.jpg", "17.png"], ["a", "17"], {0: 0, 1: 1}, {"name without suffix": 2}, 0),
        (["a/0.jpg", "b/0.jpg"], ["b/0.jpg", "a/0.jpg"], {0: 1, 1: 0}, {"whole name": 2}, 0),
        (["a/0.jpg", "b/0.jpg"], ["x/b/0.jpg", "x/a/0.jpg"], {0: 1, 1: 0}, {"end of the path": 2}, 0),
        (["a/0.jpg", "b/0.jpg"], ["0.jpg"], {}, {}, 2),  # one id, two photos
        (["0.jpg"], ["a/0.jpg", "b/0.jpg"], {}, {}, 1),  # two ids, one photo
        (["0.jpg"], ["a/0.jpg", "0.jpg", "b/0.jpg"], {1: 0}, {"whole name": 1}, 0),  # the surest way counts
        (["a.jpg"], ["a.jpg", "a.jpg"], {}, {}, 1),
        (["a.jpg", "a.png"], ["a"], {}, {}, 2),
        (["a.jpg"], [], {}, {}, 0),
    ],
)
def test_an_id_matches_by_name_by_the_end_of_the_path_or_without_suffix(
    names: list[str], ids: list[str], rows: dict[int, int], ways: dict[str, int], n_ambiguous: int
) -> None:
    assert match_ids(names, ids) == (rows, ways, n_ambiguous, len(ids))


def test_the_reference_made_an_index_in_which_its_vectors_are() -> None:
    short, step = [Path(name).stem for name in NAMES], np.abs(H).max() / 127
    for photos, ids, tested in (
        (H, ids_of(*NAMES), "by ids"),
        (H, ids_of(*short), "by ids"),
        (H, ids_of(*map(str, range(1000, 1100))), "by vectors"),
        (H, None, "by vectors"),
        (H.astype(np.float16), None, "by vectors"),
        (np.round(H / step) * step, ids_of(*NAMES), "by ids"),
        (H / np.linalg.norm(H, axis=1, keepdims=True), None, "by vectors"),
        (np.concatenate([REST[:1], H[1:]]), ids_of(*NAMES), "by ids"),  # one replaced vector does not decide
        (np.concatenate([REST[:1], H[1:]]), None, "by vectors"),
        (H[:40], ids_of(*NAMES[:40]), "by ids"),
    ):
        report = judged(whole(photos), ids)
        assert (answer(report), report.tested) == ("compatible", tested)
    assert judged(whole(3 * H), None, metric="cosine").verdict == "compatible"


def test_an_index_that_does_not_hold_the_references_vectors_is_named() -> None:
    order, mean = default_rng(0).permutation(100), H.mean(axis=0)
    turned, noise = H @ rotation(64), normal(100, 64, seed=5)
    axes = np.linalg.svd(whole(H) - mean, full_matrices=False)[2][:20]
    words = default_rng(1).choice([-1.0, 0.5, 3.0, 17.0], (800, 64))

    def moved(rows: Array, change: Array) -> Array:
        return np.concatenate([rows, REST @ change])

    for rows, ids, expected, seen in (
        (whole(H[order]), ids_of(*NAMES), "other_ids", "are under the id of another photo"),
        (whole(noise), ids_of(*NAMES), "other_index", "100 of 100 photos have another vector"),
        (noise, None, "other_index", "its mean|the mean of its vectors"),
        (moved(turned, rotation(64)), ids_of(*NAMES), "changed_index", "the index is rotated"),
        (moved(turned, rotation(64)), None, "other_index", "rotated, or made with another model"),
        (whole(H) - mean, ids_of(*NAMES), "changed_index", "the index is centred"),
        (whole(H) - mean, None, "other_index", "centred, or made with another model"),
        ((whole(H) - mean) @ rotation(64), ids_of(*NAMES), "changed_index", "centred and rotated"),
        (
            (whole(H) - mean) @ axes.T @ axes + mean,
            None,
            "changed_index",
            "reduced: the vectors of the index lie in 21",
        ),
        (np.where(whole(H) > mean, 1.0, -1.0), None, "changed_index", "two values"),
        (words, None, "changed_index", "at most 256 values"),
        (
            whole(H + 0.8 * normal(100, 64, seed=6)),
            ids_of(*NAMES),
            "changed_index",
            "near the reference's and not the same",
        ),
        (whole(np.concatenate([REST[:8], H[8:]])), ids_of(*NAMES), "other_index", "8 of 100 photos have another"),
        (whole(np.concatenate([REST[:8], H[8:]])), None, "untested_index", "92 of 100 photos have their vector in it"),
        (whole(H[:34]), ids_of(*NAMES[:34]), "untested_index", "34 have an id"),
        (REST, None, "untested_index", "0 of 100 photos have their vector in it"),
        (H[:, default_rng(0).permutation(64)], None, "untested_index", ""),
    ):
        report = judged(rows, ids)
        assert (answer(report), report.verdict) == (expected, "undecided"), report.reasons
        assert report.reason is not None
        assert any(part in report.reason.seen for part in seen.split("|")), report.reason.seen
        accepted = judged(rows, ids, accept_untested=True)
        assert (accepted.verdict == "compatible") == (expected == "untested_index"), expected
    assert judged(REST).plain.endswith("use `--accept-untested-index`.")
    plain = judged(REST, accept_untested=True).plain
    assert "compatible, but it was not tested whether the reference made the index (accepted by --accept" in plain


def test_vectors_of_other_lengths_are_not_the_references_where_a_search_sees_them() -> None:
    for metric, ids in ((None, None), ("dot", None), ("euclidean", NAMES)):
        report = judged(whole(2 * H), ids and ids_of(*ids), metric=metric)
        assert answer(report) == "index_lengths"
        assert report.reason is not None
        assert "are 2.00 times as long" in report.reason.seen
    assert judged(whole(2 * H), metric="cosine").verdict == "compatible"
    normalised = H / np.linalg.norm(H, axis=1, keepdims=True)
    assert answer(judged(whole(normalised), metric="euclidean")) == "index_lengths"


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
        blocks = [(rows, vectors.lengths(rows))]
        for candidate in (np.roll(H, 1, axis=0), H @ rotation(64), 2 * H):
            options = IndexOptions(metric="dot", accept_untested=True)
            report = vectors.compare_vectors(candidate, H, images, options, None, blocks, ids)
            assert {"re-embed", "undecided"} == {reason.verdict for reason in report.reasons}
            assert (report.verdict, answer(report)) == ("undecided", expected)


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
    for words, code, said in (
        ("--index right.npy", 0, "compatible"),
        ("--index noise.npy", 1, "centred, or made with another model"),
        ("--index others.npy", 1, "0 of 80 photos have their vector in it"),
        ("--index others.npy --accept-untested-index", 0, "(accepted by --accept-untested-index)"),
        ("--index noise.npy --accept-untested-index", 1, "made with another model"),
        ("--accept-untested-index", 2, "--accept-untested-index is given without --index"),
        ("--index codes.npy", 2, "codes of a quantised or binary index"),
        ("--index narrow.npy", 2, "as after a PCA"),
    ):
        assert robustcheck(*f"{call} {words}".split()) == code, words
        assert said in " ".join("".join(capsys.readouterr()).split())
        if code < 2:
            report = read_json("report.json")["index"]
            assert report["options"]["accept_untested"] == ("accept" in words)
            assert report["tested"] == ("by vectors" if "right" in words else "no")
    both, others = (model, model, workshop.photos), IndexOptions(file=Path("others.npy"))
    raised(rc.IndexVerdictError, "not tested whether", rc.assert_same_index, *both, index=others, device="cpu")
    accepted = IndexOptions(file=Path("others.npy"), accept_untested=True)
    assert rc.assert_same_index(*both, index=accepted, device="cpu").index is not None
