"""Match the ids in an index of vectors with the names of photos. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

WAYS = ("whole name", "end of the path", "name without suffix")
"""how an id may match, the surest first"""
Claim = tuple[int, int]
"""a photo, and the way in which an id matches it"""


class Matches(NamedTuple):
    """The photos whose id is in an index."""

    rows: Mapping[int, int]
    """photo by the number of its vector"""
    ways: Mapping[str, int]
    """number of photos by way"""
    counts: Mapping[str, Any]
    """n_ambiguous: photos that several ids match, or whose id matches another photo, too; n_repeated: of these, photos
    whose id several vectors have; n_ids"""


def match_ids(names: Sequence[str], ids: Iterable[str]) -> Matches:
    """Match each photo with the one vector whose id is its name, in the surest way in which any id matches it.

    The whole name comes first, then a path that ends with the other one (the photo `photos/a.jpg` with the id `a.jpg`
    or `x/photos/a.jpg`), then both without the suffix of the photo's name. An ambiguous photo is not matched.

    Args:
        names: of the photos.
        ids: of the vectors, in their order.
    """
    photos_of = defaultdict[str, dict[int, int]](dict)
    """way by photo; of an id, and of the end of an id, which begins with a slash"""
    depth = 1
    for photo, name in enumerate(map(_plain, names)):
        photos_of[name][photo] = 0
        depth = max(depth, 1 + name.count("/"))
        for way, form in ((1, name), (2, _without_suffix(name))):
            for end in (f"/{form}", *_ends(form, depth)):
                photos_of[end].setdefault(photo, way)
    n_ids = 0
    claims = defaultdict[Claim, list[int]](list)
    """rows; a row once for each photo that it matches"""
    ids_of = defaultdict[Claim, set[str]](set)
    for row, name in enumerate(map(_plain, ids)):
        n_ids += 1
        if name.rpartition("/")[2] not in photos_of:
            continue  # as most: an index holds more than the photos
        ends = [name]
        ends += [f"/{end}" for end in _ends(name, depth)]
        way_by_photo = next((photos_of[end] for end in ends if end in photos_of), {})
        surest = min(way_by_photo.values(), default=0)
        photos = [photo for photo, way in way_by_photo.items() if way == surest]
        for photo in photos:
            claim = (photo, surest)
            claims[claim] += [row] * len(photos)
            ids_of[claim].add(name)
    photo_by_row = {}
    ways = Counter[str]()
    n_repeated = 0
    best = dict(sorted(claims, reverse=True))  # of a photo's ways the surest is the last
    for claim in best.items():
        photo, way = claim
        rows = claims[claim]
        if len(rows) == 1:
            photo_by_row[rows[0]] = photo
            ways[WAYS[way]] += 1
        elif len(set(rows)) > 1 == len(ids_of[claim]):
            n_repeated += 1
    n_ambiguous = len(best) - len(photo_by_row)
    return Matches(photo_by_row, ways, {"n_ambiguous": n_ambiguous, "n_repeated": n_repeated, "n_ids": n_ids})


def _ends(name: str, depth: int) -> list[str]:
    """Return a path without its first folders, the longest first. depth: parts of the longest one at most."""
    parts = name.rsplit("/", depth)
    return ["/".join(parts[first:]) for first in range(len(parts))]


def _plain(name: str) -> str:
    """Return a name with slashes, and one in an archive without the archive's."""
    return name.replace("\\", "/").removeprefix("./").rpartition(".tar/")[2]


def _without_suffix(name: str) -> str:
    folder, slash, last = name.rpartition("/")
    return folder + slash + (last.rpartition(".")[0] or last)
