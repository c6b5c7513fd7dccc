"""Match the ids in an index of vectors with the names of photos. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

WAYS: Final = ("whole name", "end of the path", "name without suffix")
"""how an id may match, the surest first"""


class Matches(NamedTuple):
    """The photos whose id is in an index."""

    rows: Mapping[int, int]
    """photo by the number of its vector"""
    ways: Mapping[str, int]
    """number of photos by way"""
    n_ambiguous: int
    """photos that several ids match, or whose id matches another photo, too"""
    n_ids: int


class _Names:
    """The names of photos. An id may be the end of one, or end with one."""

    def __init__(self, names: Sequence[str]) -> None:
        self.whole = defaultdict[str, set[int]](set)
        self.ends = defaultdict[str, set[int]](set)
        for photo, name in enumerate(names):
            self.whole[name].add(photo)
            for first in range(name.count("/")):
                self.ends[name.split("/", first + 1)[-1]].add(photo)
        self._depth = max(name.count("/") for name in names) + 1

    def named(self, name: str) -> set[int]:
        """Return the photos with this name."""
        return self.whole.get(name, set())

    def ended_by(self, name: str) -> set[int]:
        """Return the photos whose path ends with an id, or is the end of the id's path."""
        parts = name.rsplit("/", self._depth)
        tails = ["/".join(parts[first:]) for first in range(1, len(parts))]
        longest = next((tail for tail in tails if tail in self.whole), "")
        return self.ends.get(name, set()) | self.named(longest)


def match_ids(names: Sequence[str], ids: Iterable[str]) -> Matches:
    """Match each photo with the one vector whose id is its name, in the surest way in which any id matches it.

    The whole name comes first, then a path that ends with the other one (the photo `photos/a.jpg` with the id `a.jpg`
    or `x/photos/a.jpg`), then both without the suffix of the photo's name. An ambiguous photo is not matched.

    Args:
        names: of the photos.
        ids: of the vectors, in their order.
    """
    plain = [_plain(name) for name in names]
    full, short = _Names(plain), _Names([_without_suffix(name) for name in plain])
    best = dict[int, tuple[int, int]]()
    ambiguous = set[int]()
    n_ids = 0
    for row, name in enumerate(map(_plain, ids)):
        n_ids += 1
        ways = (full.named(name), full.ended_by(name), short.named(name) | short.ended_by(name))
        way, photos = next(((way, photos) for way, photos in enumerate(ways) if photos), (len(WAYS), set[int]()))
        for photo in photos:
            known, _ = best.get(photo, (len(WAYS), 0))
            if way < known:
                best[photo] = (way, row)
                ambiguous.discard(photo)
            if way == known or (way < known and len(photos) > 1):
                ambiguous.add(photo)
    clear = {photo: found for photo, found in best.items() if photo not in ambiguous}
    counts = {name: sum(way == place for way, _ in clear.values()) for place, name in enumerate(WAYS)}
    return Matches(
        rows={row: photo for photo, (_, row) in clear.items()},
        ways={name: n for name, n in counts.items() if n},
        n_ambiguous=len(ambiguous),
        n_ids=n_ids,
    )


def _plain(name: str) -> str:
    return name.replace("\\", "/").removeprefix("./")


def _without_suffix(name: str) -> str:
    folder, slash, last = name.rpartition("/")
    return folder + slash + (last.rpartition(".")[0] or last)
