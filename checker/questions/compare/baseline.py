"""The evidence of the last release in a file.

`robustcheck compare --baseline` takes it for the reference, so that no model is needed.

A JSON file holds numbers only: the evidence, each statistic with each group of images left out in turn (so that a
comparison on the same images is paired), how often each outlier feature is far out and its values on the first images,
the cosines between the first images, and the digests of the images. An .npz file holds the same document and the
vectors of the first images, which an index of vectors is judged by.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self

import numpy as np
from pydantic import Field, PrivateAttr, ValidationError, model_validator

from ....thresholds import read_bytes
from ....thresholds.records import Frozen, ReprArgs, earlier_version, is_version
from ....thresholds.statistics import STATISTICS, Statistic
from ...arrays import NOT_READABLE, Array, Float32s, float64
from ...core.evidence import Evidence
from ...core.images.source import digest_of_set
from ...core.statistics.state import GROUPS
from ...errors import UsageError
from ...outside.storage.documents import write_atomically
from ...text import VERSION, Texts, as_json, digest_of, quoted, sha256_of
from .changes import ModelJackknife, jackknife_of
from .pairs import MAX_ROWS, Side, decisive_features
from .similarity import cosines

SCHEMA_VERSION = 1
LARGEST_BYTES = 1 << 28  # of a file: 1,024 vectors of 4,096 features have 16 MiB
# Images of which the cosines are kept. 67 sets of real representations, each paired 20 times with another image's: the
# debiased CKA has an SD of 0.023 over 64 images and reaches 0.10 (`judge.UNRELATED_CKA`); over 80, 0.018 and 0.07.
COSINE_IMAGES = 80
COSINE_DECIMALS = 7  # rounding, SD 3e-8, stays below what `similarity.similarity_of` takes for no variation (1e-7)
Cosine = Annotated[float, Field(ge=-1, le=1)]
AGAIN = "robustcheck compare MODEL.onnx --images PATH --write-baseline FILE"


class StoredJackknife(Frozen):
    """A statistic as `ModelJackknife` has it, with None for a value that could not be measured."""

    whole: float | None
    without: tuple[float | None, ...]


class Vectors(NamedTuple):  # noqa: PLW1641 # an array has no hash either
    """The vectors of some images."""

    rows: Float32s
    """(image, feature)"""
    digests: Texts
    """of the images"""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vectors) and self.digest == other.digest

    @property
    def digest(self) -> str:
        """sha256:… over vectors and digests."""
        rows = np.ascontiguousarray(self.rows, "<f4")
        return digest_of({"vectors": sha256_of(rows.tobytes()), "shape": list(rows.shape), "images": self.digests})


class Baseline(Frozen):
    """One model's numbers over one image set."""

    schema_version: Literal[1] = 1
    tool: str = "robustcheck"
    document: Literal["baseline"] = "baseline"
    tool_version: str
    evidence: Evidence
    images: Texts
    """digests of the images, in the order of the run"""
    group_sizes: tuple[int, ...]
    """images of each jackknife group, in the order of the groups"""
    left_out: dict[Statistic, StoredJackknife]
    frequencies: tuple[float, ...]
    """of the features in `pairs.decisive_features`: share of the images beyond 4 SD on the usual side"""
    values: tuple[tuple[float, ...], ...]
    """(image, feature) of the same features, each image's representation scaled to length √feature: of the first
    `pairs.MAX_ROWS` usable images, rounded to four decimals"""
    cosines: tuple[Cosine, ...]
    """between the representations of the first `COSINE_IMAGES` usable images: above the diagonal, row by row, rounded
    to seven decimals"""
    nodes: dict[str, int]
    """of the graph, by type"""
    vectors_digest: str = ""
    """of the vectors in the same file"""
    digest: str = ""
    """sha256:… over the canonical JSON of all of it but this field"""

    _vectors: Vectors | None = PrivateAttr(None)

    @property
    def vectors(self) -> Vectors | None:
        """The vectors of the first images, or None where they were not kept."""
        return self._vectors

    def with_vectors(self, vectors: Vectors | None) -> Baseline:
        """Return the same baseline with vectors."""
        copied = self.model_copy()
        copied._vectors = vectors
        return copied

    def __repr_args__(self) -> ReprArgs:
        """Show one line in repr, str and rich."""
        return [("model", self.evidence.model.file), ("images", len(self.images)), ("digest", self.digest)]

    @model_validator(mode="after")
    def _is_consistent(self) -> Baseline:
        filled = sum(size > 0 for size in self.group_sizes)
        if len(self.group_sizes) != GROUPS or self.left_out.keys() != set(STATISTICS):
            raise ValueError("groups or statistics are missing")
        if any(len(stored.without) != filled for stored in self.left_out.values()):
            raise ValueError("a statistic has not one value for each group")
        if sum(self.group_sizes) != self.evidence.statistics.n_images:
            raise ValueError("groups hold another number of images than the evidence")
        if digest_of_set(self.images) != self.evidence.images.digest:
            raise ValueError("the images are not those of the evidence")
        if len(self.frequencies) != len(decisive_features(self.evidence.statistics)):
            raise ValueError("features and frequencies differ in number")
        if len(self.values) != min(sum(self.group_sizes), MAX_ROWS):
            raise ValueError("values are of another number of images")
        if any(len(row) != len(self.frequencies) for row in self.values):
            raise ValueError("features and values differ in number")
        if len(self.cosines) != math.comb(self.n_cosine_images, 2):
            raise ValueError("cosines are of another number of images")
        return self

    @property
    def n_cosine_images(self) -> int:
        """Images of which the cosines are kept."""
        return min(sum(self.group_sizes), COSINE_IMAGES)

    @property
    def rows(self) -> Array:
        """(image, feature) `values` as `features.follow_features` takes them."""
        return float64(self.values).reshape(len(self.values), len(self.frequencies))

    @property
    def cosine_matrix(self) -> Array:
        """Return `cosines` as (image, image). The diagonal is 1, as `similarity.similarity_of` takes them."""
        matrix = np.eye(self.n_cosine_images)
        matrix[np.triu_indices(self.n_cosine_images, 1)] = self.cosines
        return float64(matrix + np.triu(matrix, 1).T)

    def jackknife(self) -> ModelJackknife:
        """The statistics as `changes.changes` takes them."""
        values = {
            name: np.array([stored.whole, *stored.without], dtype=np.float64)  # None becomes NaN
            for name, stored in self.left_out.items()
        }
        return ModelJackknife(self.evidence.statistics.n_features, float64(self.group_sizes), values)


class WithNextBaseline(Frozen):
    """The base of a report with the numbers that the next release is compared with."""

    _next_baseline: Baseline | None = PrivateAttr(None)

    @property
    def next_baseline(self) -> Baseline | None:
        """The model's numbers, for the next release's `baseline=`. None in a report that was read from a file."""
        return self._next_baseline

    def with_baseline(self, baseline: Baseline) -> Self:
        """Return the same report with the model's numbers."""
        report = self.model_copy()
        report._next_baseline = baseline
        return report


def make(side: Side, evidence: Evidence, digests: Sequence[str], nodes: Mapping[str, int]) -> Baseline:
    """Make the baseline of a model that was measured on all its images.

    Args:
        side: its sums.
        evidence: what it concluded to.
        digests: of the images, in the order of the run.
        nodes: of its graph, by type.
    """
    model = jackknife_of(side)
    indices = [f.index for f in decisive_features(evidence.statistics)]
    rows = side.scaled_rows
    first = rows[:COSINE_IMAGES]
    above_diagonal = np.triu_indices(len(first), 1)
    between = np.clip(cosines(first), -1.0, 1.0)[above_diagonal]
    left_out = {name: _stored(values) for name, values in model.values.items()}
    frequencies = [side.share(index, side.usual_side(index)) for index in indices]
    # rounding: 2e-3 of the smallest SD over images that an outlier feature may have (CONSTANT_SD of about 4)
    values = [tuple(round(v, 4) for v in row) for row in rows[:, indices].tolist()]
    baseline = Baseline(
        tool_version=VERSION,
        evidence=evidence,
        images=tuple(digests),
        group_sizes=tuple(map(int, model.sizes)),
        left_out=left_out,
        frequencies=tuple(frequencies),
        values=tuple(values),
        cosines=tuple(round(v, COSINE_DECIMALS) for v in between.tolist()),
        nodes=dict(nodes),
    )
    return _sealed(baseline)


def _stored(values: Array) -> StoredJackknife:
    """Return the values of a statistic as JSON can hold them, which has no NaN."""
    whole, *without = [float(value) if np.isfinite(value) else None for value in values]
    return StoredJackknife(whole=whole, without=tuple(without))


def _sealed(baseline: Baseline) -> Baseline:
    """Return the baseline with its current digest."""
    return baseline.model_copy(update={"digest": digest_of(baseline.model_dump(mode="json", exclude={"digest"}))})


def to_json(baseline: Baseline) -> str:
    """Return the baseline as text, with its digest."""
    return as_json(baseline.model_dump(mode="json"))


def write(path: Path, baseline: Baseline) -> None:
    """Write a baseline. An .npz file has its vectors, any other is JSON. Raises as `write_atomically`."""
    vectors = baseline.vectors if path.suffix == ".npz" else None
    digest = "" if vectors is None else vectors.digest
    sealed = _sealed(baseline.model_copy(update={"vectors_digest": digest}))
    text = to_json(sealed)
    content = io.BytesIO(text.encode())
    if vectors is not None:
        np.savez(content, baseline=np.array(text), vectors=vectors.rows, digests=np.array(vectors.digests))
    write_atomically(path, content.getvalue())


def _read_file(path: Path) -> tuple[str, Vectors | None]:
    """Return the document of a baseline's file, and its vectors. Raises what NumPy raises for another file."""
    content = read_bytes(path, LARGEST_BYTES)
    if path.suffix != ".npz":
        return content.decode(), None
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        rows = archive["vectors"].astype(np.float32)
        if "baseline" not in archive:
            raise UsageError(
                f"{path}: file is not a baseline; vectors that another tool computed are compared by --index",
                f"robustcheck compare MODEL.onnx --index {quoted(path)} --images PATH",
            )
        vectors = Vectors(rows, tuple(map(str, archive["digests"])))
        return str(archive["baseline"]), vectors


def read(path: Path) -> Baseline:
    """Read a baseline.

    Raises UsageError: not readable, no JSON, no baseline, of a newer schema, not whole, or changed, also its vectors.
    """
    again = AGAIN.replace("FILE", quoted(path))
    try:
        text, vectors = _read_file(path)
        raw = json.loads(text)
    except OSError as fault:
        raise UsageError(f"{path}: baseline is not readable ({fault.strerror}); it must be a file", AGAIN) from fault
    except NOT_READABLE as fault:
        raise UsageError(f"{path}: baseline is not JSON ({fault}); it must be one document", AGAIN) from fault
    if not isinstance(raw, dict) or raw.get("document") != "baseline":
        raise UsageError(f"{path}: file is not a baseline; `--write-baseline` writes one", AGAIN)
    version = raw.get("schema_version")
    if not is_version(version, SCHEMA_VERSION):
        raise UsageError(
            f"{path}: schema_version is {version!r}; this robustcheck reads {SCHEMA_VERSION}",
            f"{AGAIN}  # or a newer robustcheck: git pull && pip install . in its clone",
        )
    try:
        baseline = Baseline.model_validate_json(text)
        raw.pop("digest", None)
        computed = digest_of(raw)
    except ValidationError as fault:
        first = fault.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "content"
        rule = f"it must be as it was written{earlier_version(fault)}"
        raise UsageError(
            f"{path}: baseline has a wrong {where} ({first['msg']}); {rule}",
            again,
        ) from fault
    except ValueError:  # a number that is not finite
        computed = ""
    if computed != baseline.digest:
        raise UsageError(
            f"{path}: digest does not match the content; the baseline was changed after it was written", again
        )
    if vectors is not None:
        _check_vectors(path, vectors, baseline)
    return baseline.with_vectors(vectors)


def _check_vectors(path: Path, vectors: Vectors, baseline: Baseline) -> None:
    """Raise UsageError where the vectors are not those that were written."""
    rows = vectors.rows
    shape = (len(vectors.digests), baseline.evidence.statistics.n_features)
    if rows.shape != shape:
        fault = f"its vectors have the shape {rows.shape}; {shape} is needed"
    elif not (np.isfinite(rows).all() and rows.any(axis=1).all()):
        fault = "a vector is zero or not finite"
    elif vectors.digest != baseline.vectors_digest:
        fault = "digest does not match the vectors; they were changed after they were written"
    else:
        return
    raise UsageError(f"{path}: {fault}", AGAIN.replace("FILE", quoted(path)))


GivenBaseline = str | Path | Baseline | None
"""a baseline as a caller names or holds it"""


def load(baseline: str | Path | Baseline) -> Baseline:
    """The baseline that a caller names, or holds.

    Raises UsageError as `read`; also for an object that was changed after it was made.
    """
    if not isinstance(baseline, Baseline):
        return read(Path(baseline))
    if _sealed(baseline).digest != baseline.digest:
        raise UsageError("baseline: digest does not match the content; it was changed after it was made", AGAIN)
    return baseline


def name_of(baseline: GivenBaseline) -> str:
    """Return the name of a baseline in reports: its file, or the model that it is of; empty for none."""
    if isinstance(baseline, Baseline):
        return f"<baseline of {baseline.evidence.model.file}>"
    return "" if baseline is None else str(baseline)


def staleness(baseline: Baseline, candidate: Evidence) -> Texts:
    """Return in words how the baseline was measured differently from the candidate; empty if it was not."""
    old = baseline.evidence
    out = []
    version = candidate.statistics.statistic_version
    old_version = old.statistics.statistic_version
    if old_version != version:
        out.append(f"the baseline has statistic version {old_version}, this robustcheck {version}")
    if old.images.digest != candidate.images.digest:
        out.append(f"the baseline was measured on other images ({old.images.n_read} of {old.images.source})")
    elif old.statistics.n_images != candidate.statistics.n_images:
        out.append("the baseline has another number of usable representations")
    if fields := changed_preprocessing(candidate, old):
        out.append(f"the baseline was preprocessed otherwise ({fields})")
    return tuple(out)


def changed_preprocessing(candidate: Evidence, reference: Evidence) -> str:
    """Name the fields in which the preprocessing of two models differs."""
    ours = dict(candidate.preprocessing.preprocessing)
    theirs = dict(reference.preprocessing.preprocessing)
    return ", ".join(name for name in ours if ours[name] != theirs[name])
