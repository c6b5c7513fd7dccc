"""Prove exported files, put them in place, and make them smaller.

ONNX Runtime must agree with the original; it makes the fp16 and int8 forms. Needs no torch and no model library.
"""

from __future__ import annotations

import difflib
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np
from PIL import Image

from . import CallError, ExportError, MissingError, Tell, contract, first_line, forms, ignore_progress, quiet, quoted
from .contract import Array, Arrays, Fields, Photos, Source, graph_digest
from .forms import FORMS, Form, Tried
from .plain import QUANTISING, ReadPlain, command_of, described, precision_of

if TYPE_CHECKING:
    import onnx

Transform = Callable[[Image.Image], Array]  # PIL image → (channel, height, width)

BATCHES = (1, 2, 5)  # batch sizes that are compared
PARITY_PHOTOS = max(BATCHES)  # distinct photos needed
PHOTO_WORDS = ("photo", "parity is measured on real photos", "--parity-images FOLDER")  # for contract.open_photo
INLINE_LIMIT_BYTES = 2_000_000_000  # a protobuf message ends at 2 GiB; the rest is room for the graph
CALIBRATION_PHOTOS = 128  # used at most; more hardly widen a range
FEWEST_CALIBRATION_PHOTOS = 16  # ranges of fewer photos cut off what the next ones have
MEASURED_PHOTOS = 64  # forms of int8-qdq are compared on, where as many are left for the ranges
FEWEST_MEASURED_PHOTOS = 32  # of fewer, ten neighbours are too many of all
_EXACT_SUMS = "session.x64quantprecision"  # of a session's config: its int8 sums do not saturate
_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"
_INFERRED_KEY = "onnx.infer"  # ONNX Runtime's mark in metadata_props


class Tolerance(NamedTuple):
    """The largest disagreement that still counts as the same model."""

    max_rel: float
    min_cosine: float


TOLERANCES = {
    # float32: kernels add in another order. Measured with tests and demo: 2e-6 (CLIP RN50, ViT-B/32) to 4e-5
    # (EfficientNet-Lite0).
    "fp32": Tolerance(max_rel=1e-3, min_cosine=0.99999),
    # float16 keeps 11 bits, and every layer rounds. Measured: 0.001 (CLIP RN50), 0.04 (planted demo), 0.098
    # (EfficientNet-Lite0: the worst of its 1280 sparse features on five photos, at cosine 0.99996).
    "fp16": Tolerance(max_rel=0.25, min_cosine=0.999),
    # int8: 256 levels a tensor. Measured on EfficientNet-Lite0 and the planted demo: cosine 0.970 to 0.997; with
    # depthwise layers quantised by one scale, which ruins the model, 0.78. The bound refuses what is broken; whether
    # the outlier features were kept is for `robustcheck compare`. One sparse feature may be far off on the scale of
    # its row (2.4 measured), so that the largest difference has no bound.
    **dict.fromkeys(contract.INT8, Tolerance(max_rel=math.inf, min_cosine=0.95)),
}
_HINTS = {
    "int8-dynamic": "no file was written; try --precision int8-qdq (better for convolutions) or fp16",
    "int8-qdq": "no file was written; leave out --form to get the smallest file that keeps the vectors",
}
_HINT = "no file was written; try --precision fp32, and report the model name if that fails too"
# ONNX Runtime 1.24–1.31 ends the process in this optimiser on Transpose → Cast(float16) → MatMul on x86-64
# (microsoft/onnxruntime#28392; open_clip's ViT-B/32 in fp16 does it)
_CRASHES = {"fp16": ["NchwcTransformer"]}


class Agreement(NamedTuple):
    """How far (image, feature) arrays are apart.

    max_abs: max |a − b|. max_rel: max over images of max_j |a_j − b_j| / √(mean_j a_j²): on the scale of the
    row, so that a value near zero does not blow it up and one outlier feature cannot hide much (it raises the
    scale at most by √(1 + z²/d)). min_cosine: smallest cosine of two rows.
    """

    max_abs: float
    max_rel: float
    min_cosine: float


class ExportRecord(NamedTuple):
    """What was written, for the person who asked.

    size_bytes: with the weights next to the file. outputs: name → number of features. calibrated_on: photos that
    int8-qdq took its ranges from; 0 for other precisions. batches: the batch sizes that were compared.
    forms: those of int8-qdq that were tried. form: the name of the written one, else empty.
    """

    path: Path
    size_bytes: int
    outputs: Mapping[str, int]
    parity: Agreement
    calibrated_on: int
    precision: str
    batches: tuple[int, ...]
    forms: tuple[Tried, ...] = ()
    form: str = ""


class Plan(NamedTuple):
    """What an int8-qdq file is made with. Of another precision all is empty.

    forms: to try. calibration: photos for the ranges of activations. measured: photos that forms are compared on.
    """

    forms: tuple[Form, ...]
    calibration: Sequence[Path]
    measured: Sequence[Path]


class Drawn(NamedTuple):
    """A draft's graph, the forms that were tried for it, and the one that it has."""

    model: onnx.ModelProto
    forms: Sequence[Tried] = ()
    chosen: Tried | None = None


def check_call(path: Path, precision: str, photos: Photos) -> None:
    """Refuse a wrong target, precision or number of photos.

    Raises:
        ExportError: 2 for the call, 4 for a folder that can't be written.
    """
    where = quoted(path.parent)
    if precision not in contract.PRECISIONS:
        close = difflib.get_close_matches(precision, contract.PRECISIONS, 1, cutoff=0.3)
        raise CallError(
            f"precision is {precision}; it must be one of {', '.join(contract.PRECISIONS)}",
            f"--precision {close[0] if close else 'fp32'}",
        )
    if Path(os.path.realpath(path)).is_symlink():
        raise CallError(f"{path}: target is a link that leads in a circle; it must be a file", f"ls -ld {where}")
    if path.is_dir():
        raise CallError(f"{path}: target is a folder; it must be a file", f"-o {quoted(path / 'model.onnx')}")
    if path.suffix != ".onnx":
        raise CallError(
            f"{path}: suffix is {path.suffix!r}; it must be .onnx", f"-o {quoted(path.with_suffix('.onnx'))}"
        )
    if not path.parent.is_dir():
        raise CallError(
            f"{path}: folder {path.parent} is missing; models are written into existing folders", f"mkdir -p {where}"
        )
    if not os.access(path.parent, os.W_OK):
        raise MissingError(
            f"{path}: folder {path.parent} is not writable; the model is written into it", f"ls -ld {where}"
        )
    if len(photos) < PARITY_PHOTOS:
        raise CallError(
            f"number of parity photos is {len(photos)}; it must be at least {PARITY_PHOTOS}", "--parity-images FOLDER"
        )


def deliver(
    path: Path,
    draw: Callable[[Path], Drawn],
    content: Fields,
    images: Array,
    references: Arrays,
    *,
    precision: str,
    plan: Plan,
    tell: Tell,
) -> ExportRecord:
    """Write a draft, prove it, and move it into place. The contract is added after the proof.

    Args:
        path: an existing file is replaced; more than 2 GB of weights go to `path` + ".data".
        draw: writes the draft.
        content: the contract without precision and parity.
        images, references: the photos, and what the original made of them (see measure).

    Raises:
        ExportError: 3 where the file disagrees, 4 for the disk. Nothing is left.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=".robustcheck-export-", dir=path.parent) as folder, quiet():
            draft = Path(folder) / path.name
            model, tried, chosen = draw(draft)
            tell("comparing the file with the original")
            batches = _batches_of(model.graph.input[0])
            agreement = measure(draft, images, references, precision=precision)
            parity: Fields = {**agreement._asdict(), "batches": batches, "photos": PARITY_PHOTOS}
            if precision in contract.INT8:
                parity["int8_sums"] = {"plain": int8_sums(), "exact": int8_sums(_EXACT_SUMS)}
            if chosen is not None:
                parity["form"] = forms.recorded(chosen, len(plan.measured))
            contract.embed(model, {**content, "precision": precision, "parity": parity}, draft.parent)
            draft.write_bytes(model.SerializeToString(deterministic=True))
            size = _put_in_place(draft, path)
    except OSError as error:
        where = quoted(path.parent)
        raise MissingError(
            f"{path}: file could not be written ({error.strerror or error}); nothing is left",
            f"df -h {where}; ls -ld {where}",
        ) from error
    outputs = {name: rows.shape[1] for name, rows in references.items()}
    form = "" if chosen is None else chosen.form.name
    return ExportRecord(path, size, outputs, agreement, len(plan.calibration), precision, batches, tuple(tried), form)


def _batches_of(image: onnx.ValueInfoProto) -> tuple[int, ...]:
    """Return the batch sizes that an input accepts, of those that are compared."""
    (size, *_) = image.type.tensor_type.shape.dim
    return (1,) if size.dim_value == 1 else BATCHES


def data_of(path: Path) -> Path:
    """Return the file of the weights next to an ONNX file."""
    return path.with_name(path.name + ".data")


def _put_in_place(draft: Path, path: Path) -> int:
    """Move a file after its weights. So it finds them; returns their size."""
    weights, place = data_of(draft), data_of(path)
    has_weights = weights.exists()
    size = draft.stat().st_size + (weights.stat().st_size if has_weights else 0)
    if has_weights:
        weights.replace(place)
    try:
        draft.replace(path)
    except OSError:
        if has_weights:
            place.unlink()
        raise
    return size


def measure(
    path: Path,
    photos: Array,
    references: Arrays,
    *,
    precision: str,
) -> Agreement:
    """Compare the file with the original at every batch size that it accepts, on ONNX Runtime's CPU provider.

    With a batch of one alone, every photo is compared.

    Args:
        path: ONNX file.
        photos: (image, channel, height, width) float32, at least PARITY_PHOTOS of them.
        references: output name → (image, feature), computed one photo at a time, so that a model whose
            result depends on the rest of the batch disagrees.

    Raises:
        ExportError: the file does not load, an output has another shape, is not finite or disagrees beyond
            TOLERANCES[precision] (exit 3).
    """
    image = _parsed(path).graph.input[0]
    batches = _batches_of(image)
    parts = [slice(n) for n in batches]
    if batches == (1,):
        parts = [slice(i, i + 1) for i in range(len(photos))]
    outputs, _ = run_file(
        path,
        list(references),
        [{image.name: photos[part]} for part in parts],
        f"{path.name}: ONNX Runtime could not run the exported graph",
        "report the model name and the versions of torch and onnxruntime",
        disabled_optimizers=_CRASHES.get(precision, []),
    )
    tolerance, seen = TOLERANCES[precision], list[Agreement]()
    for part, arrays in zip(parts, outputs, strict=True):
        for (name, reference), array in zip(references.items(), arrays, strict=True):
            where = f"{path.name}: output {name} at batch {len(reference[part])}"
            try:
                found = agreement(reference[part], array)
            except ValueError as error:
                raise ExportError(f"{where}: {error}", _HINT) from error
            if found.max_rel > tolerance.max_rel or found.min_cosine < tolerance.min_cosine:
                bound = (
                    f"at most {tolerance.max_rel:g} and" if math.isfinite(tolerance.max_rel) else "the cosine must be"
                )
                raise ExportError(
                    f"{where} disagrees with the source model: relative difference is {found.max_rel:.2g}, cosine "
                    f"{found.min_cosine:.6f}; {bound} at least {tolerance.min_cosine:g}",
                    _HINTS.get(precision, _HINT),
                )
            seen.append(found)
    return Agreement(max(a.max_abs for a in seen), max(a.max_rel for a in seen), min(a.min_cosine for a in seen))


def run_file(
    path: Path,
    outputs: Sequence[str],
    feeds: Sequence[Arrays],
    problem: str,
    hint: str,
    graph: bytes | None = None,
    **options: Any,
) -> tuple[list[list[Array]], float]:
    """Return a file's outputs for each feed, and the seconds that they took; the error starts with `problem`.

    `graph` replaces the file's graph.
    """
    try:
        session = _session(path, graph, **options)
        start = time.perf_counter()
        found = [session.run(outputs, feed) for feed in feeds]
    except MemoryError:
        raise
    except Exception as error:  # its exception types are private; all of them mean the same here
        raise ExportError(f"{problem} ({first_line(error)})", hint) from error
    return found, time.perf_counter() - start


def _session(path: Path, graph: bytes | None = None, switched_on: Sequence[str] = (), **options: Any) -> Any:
    """Open a file on the CPU provider. switched_on: entries of the session's config."""
    import onnxruntime as ort

    session_options = ort.SessionOptions()
    session_options.log_severity_level = 4  # it writes to the terminal by itself; the exception has all of it
    if graph is not None:
        session_options.add_session_config_entry(_WEIGHTS_FOLDER, str(path.parent.resolve()))
    for entry in switched_on:
        session_options.add_session_config_entry(entry, "1")
    return ort.InferenceSession(graph or str(path), session_options, providers=["CPUExecutionProvider"], **options)


def int8_sums(*switched_on: str) -> float:
    """Measure a sum of uint8 by int8 products on this CPU, as a share of the exact sum.

    The checker measures the same (`checker/core/runtime/devices.py`).

    Args:
        switched_on: entries of the session's config.
    """
    from onnx import numpy_helper, parser

    x = np.full((1, 64), 255, np.uint8)
    w = np.full((64, 1), 127, np.int8)
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 13]> probe (uint8[1, 64] x) => (int32[1, 1] y) { y = MatMulInteger(x, w) }'
    )
    model.graph.initializer.append(numpy_helper.from_array(w, "w"))
    session = _session(Path(), model.SerializeToString(), switched_on)
    total = session.run(None, {"x": x})[0].item()
    return float(total / (x.astype(int) @ w.astype(int)).item())


def agreement(reference: Array, other: Array) -> Agreement:
    """Compare two arrays (image, feature) in float64.

    A row that is zero on both sides agrees (relative difference 0, cosine 1); zero on one side does not
    (inf, 0). Shapes must be equal and values finite, else ValueError.
    """
    a, b = reference.astype(np.float64), other.astype(np.float64)
    if a.shape != b.shape or a.ndim != 2 or a.size == 0:
        raise ValueError(f"shapes are {a.shape} and {b.shape}; both must be the same (image, feature)")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("values are not finite")
    difference = np.abs(a - b).max(axis=1)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(difference == 0, 0.0, difference / np.sqrt((a * a).mean(axis=1)))
        cosine = np.where(norms > 0, (a * b).sum(axis=1) / norms, difference == 0)
    return Agreement(float(difference.max()), float(relative.max()), float(min(cosine.min(), 1.0)))


def quantise_file(
    path: Path,
    out: Path,
    *,
    precision: str,
    photos: Photos,
    calibration: Photos,
    matched_to: str | None = None,
    restates: bool = False,
    read_plain: ReadPlain | None = None,
    form: str | None = None,
    tell: Tell = ignore_progress,
) -> ExportRecord:
    """Write the fp16 or int8 form of an fp32 file, or give a file without a contract its contract.

    Parity is measured against the file, run photo by photo on ONNX Runtime's CPU provider.

    Args:
        path: the file. out: another one, ends in .onnx.
        precision: fp16, int8-dynamic or int8-qdq; fp32 for the contract alone.
        photos: at least 5 image files for parity; for int8-qdq at least 32, see `plan_of`.
        calibration: image files for int8-qdq.
        form: of int8-qdq; None for the smallest that keeps the vectors.
        tell: as for `run.run`.
        matched_to: as for `run.run`; only where the file's contract does not say otherwise.
        restates: whether the call states a preprocessing, which a file with a contract has already.
        read_plain: reads what the contract of a file without one must hold; None refuses such a file.

    Raises:
        ExportError: 2 for the call, 3 when the file can't be read or no faithful file can be made, 4 for the disk.
            Nothing is left.
    """
    check_call(out, precision, photos)
    plan = plan_of(precision, form, calibration, photos)
    tell(f"opening {path.name}")
    proto = _parsed(path)
    if any(prop.key == contract.METADATA_KEY for prop in proto.metadata_props):
        _check_call_with_contract(path, out, precision, restates=restates)
        proto, content = _opened(proto, path)
    else:
        proto = _inlined(proto)
        content = _described(proto, path, read_plain)
    if matched_to is not None:
        already = content["source"].get("matched_to")
        if already not in (None, matched_to):
            raise CallError(
                f"--matched-to is {matched_to}; the contract in {path} says {already}",
                "leave out --matched-to, or export the model again from its own library",
            )
        content["source"]["matched_to"] = matched_to
    _check_target(path, out, proto)
    if precision == "fp32":
        precision = content["precision"]  # the file's own
    else:
        _check_fp32(path, proto, content["precision"])
    is_copied = precision == content["precision"]
    transform = partial(contract.preprocess, contract.checked_preprocessing(content["preprocessing"], str(path)))
    images = _stacked(photos[:PARITY_PHOTOS], transform, str(path))
    there = [output.name for output in proto.graph.output]
    if absent := [output for output in content["tensors"] if output not in there]:
        raise ExportError(
            f"{path}: contract names the output {absent[0]}, which the graph does not have ({', '.join(there)})",
            f"robustcheck inspect {quoted(path)}",
        )
    tell("running the original on the photos")
    references = _references(path, proto, images, sorted(content["tensors"], key=there.index))

    def draw(draft: Path) -> Drawn:
        _copy(path, proto, draft)
        if is_copied:
            return Drawn(_parsed(draft))
        tell("quantising")
        if precision == "fp16":
            return Drawn(halve(draft, name=str(path)))
        return quantised(
            draft, precision, plan, transform, images=images, references=references, name=str(path), tell=tell
        )

    return deliver(
        out,
        draw,
        content | {"versions": content["versions"] | contract.versions()},
        images,
        references,
        precision=precision,
        plan=plan,
        tell=tell,
    )


def _stacked(photos: Photos, transform: Transform, name: str) -> Array:
    """Return photos as a model reads them. They must have one size."""
    inputs = [transform(contract.open_photo(photo, *PHOTO_WORDS)) for photo in photos]
    if len(sizes := {image.shape for image in inputs}) > 1:
        raise ExportError(
            f"{name}: preprocessing leaves photos in {len(sizes)} sizes; parity is measured on batches, which need "
            "one size",
            f"robustcheck export onnx {quoted(name)} --parity-images FOLDER_OF_PHOTOS_OF_ONE_SIZE",
        )
    return np.stack(inputs).astype(np.float32)


def plan_of(precision: str, form: str | None, given: Photos, photos: Photos) -> Plan:
    """Return the forms to try, the photos for quantisation ranges, and those that forms are compared on.

    No photo is in both. The second may be fewer where otherwise too few are left for the ranges.

    Args:
        precision: one of contract.PRECISIONS; only int8-qdq is calibrated.
        form: as for `forms.asked_forms`.
        given: image files for the ranges; empty for every other precision.
        photos: of the parity check, of which forms are compared on the first ones.

    Raises:
        ExportError: photos or a form for a precision without calibration, an unknown form, or too few photos (exit 2).
    """
    asked = forms.asked_forms(form, precision)
    if precision != "int8-qdq":
        if given:
            raise CallError(
                f"number of calibration photos is {len(given)}; only int8-qdq uses them, and the precision is "
                f"{precision}",
                "--precision int8-qdq",
            )
        return Plan((), (), ())
    if len(photos) < FEWEST_MEASURED_PHOTOS:
        raise CallError(
            f"number of parity photos is {len(photos)}; int8-qdq is compared with the original on at least "
            f"{FEWEST_MEASURED_PHOTOS}",
            "--parity-images FOLDER",
        )
    for most in (MEASURED_PHOTOS, FEWEST_MEASURED_PHOTOS):
        measured = photos[:most]
        taken = {photo.resolve() for photo in measured}
        left = [photo for photo in given if photo.resolve() not in taken]
        if len(left) >= FEWEST_CALIBRATION_PHOTOS:
            return Plan(asked, left[:CALIBRATION_PHOTOS], measured)
    raise CallError(
        f"number of calibration photos is {len(left)} next to the {len(measured)} that the file is compared on; "
        f"int8-qdq needs at least {FEWEST_CALIBRATION_PHOTOS}",
        "--calibration-images FOLDER",
    )


def quantised(
    draft: Path,
    precision: str,
    plan: Plan,
    transform: Transform,
    *,
    images: Array,
    references: Arrays,
    name: str,
    tell: Tell,
) -> Drawn:
    """Replace an fp32 file by its int8 form: of int8-qdq, the smallest of the plan's that keeps what the original has.

    A plan with one form takes it, unless it is not faithful. The file is alone with its weights in a folder.

    Args:
        draft, precision, transform, name: see `quantise`.
        images, references: see `measure`.

    Raises:
        ExportError: as `quantise` and `measure`; no form holds (exit 3, `forms.NoFormError`).
    """
    import onnx

    if not plan.forms:
        return Drawn(quantise(draft, precision, (), transform, name=name))
    measured = _stacked(plan.measured, transform, name)
    truth, _ = _representations(draft, measured)
    tried = list[Tried]()
    for number, form in enumerate(plan.forms, 1):
        tell(f"trying {form.name}, form {number} of {len(plan.forms)}")
        made = _copied(draft, form.name)
        one = Tried(form)
        try:
            quantise(made, precision, plan.calibration, transform, name=name, form=form)
            one = _measured(made, form, measured, truth)
            measure(made, images, references, precision=precision)
        except (CallError, MissingError):
            raise
        except ExportError as error:
            if len(plan.forms) == 1:
                raise
            one = one._replace(fault=error.message)
        tried.append(one)
    chosen = tried[0]
    if len(plan.forms) > 1:
        chosen = forms.smallest(tried) or _refuse_all(tried, draft, name)
    data_of(draft).unlink(missing_ok=True)
    for file in (draft.parent / chosen.form.name).iterdir():
        file.replace(draft.with_name(file.name))
    return Drawn(onnx.load(draft, load_external_data=False), tried, chosen)


def _copied(draft: Path, folder: str) -> Path:
    """Copy a file and its weights into a folder next to it."""
    copy = draft.parent / folder / draft.name
    copy.parent.mkdir()
    for file in (draft, data_of(draft)):
        if file.exists():
            shutil.copyfile(file, copy.with_name(file.name))
    return copy


def _measured(path: Path, form: Form, photos: Array, truth: Array) -> Tried:
    """Measure a form by both arithmetics. truth: (photo, feature) of the original."""
    rows, seconds = _representations(path, photos)
    exact, _ = _representations(path, photos, _EXACT_SUMS)
    plain, by_exact_sums = forms.kept(truth, rows), forms.kept(truth, exact)
    if not math.isfinite(plain.cosine + by_exact_sums.cosine):
        raise ExportError(f"{path.name}: a representation has no direction: it is zero, or not finite")
    size = sum(file.stat().st_size for file in path.parent.iterdir())
    features = len(forms.outlier_features(truth))
    return Tried(form, size, len(photos) / seconds, plain, by_exact_sums, features)


def _representations(path: Path, photos: Array, *switched_on: str) -> tuple[Array, float]:
    """Run a file photo by photo. Return its representations (photo, feature), and the seconds that it took."""
    name = _parsed(path).graph.input[0].name
    runs, seconds = run_file(
        path,
        [contract.EMBEDDING.name],
        [{name: photo[None]} for photo in photos],
        f"{path.name}: ONNX Runtime could not run it",
        "report the model name",
        switched_on=switched_on,
    )
    return np.concatenate([rows for (rows,) in runs]), seconds


def _refuse_all(tried: Sequence[Tried], draft: Path, name: str) -> NoReturn:
    """Raise the error of forms of which none holds. Its hint names a precision that may.

    ONNX Runtime's converter to fp16 fails on most Resize nodes, and transformers keep most in int8-dynamic.
    """
    operators = {node.op_type for node in _parsed(draft).graph.node}
    other = "int8-dynamic" if operators & {"Softmax", "Resize"} else "fp16"
    error = forms.NoFormError(
        f"{name}: number of forms that hold is 0 of {len(tried)}; of the worst 5 % of the photos the cosine must be "
        f"{forms.MIN_COSINE:g}, recall@10 {forms.MIN_RECALL:g}, and outlier features must be kept",
        f"no file was written; try --precision {other}, or other --calibration-images",
    )
    error.forms = tried
    raise error


def quantise(
    draft: Path, precision: str, photos: Photos, transform: Transform, *, name: str, form: Form = FORMS[0]
) -> onnx.ModelProto:
    """Replace an fp32 file by its int8 form. It is alone with its weights in a folder; returns the graph.

    int8-dynamic: int8 weights, one scale a tensor; activations are scaled in every run, over the whole batch. Depthwise
    convolutions and those on the image stay float: with one scale for all their channels they lose most (measured on
    EfficientNet-Lite0: cosine 0.78 with them, 0.976 without).
    int8-qdq: weights of 8 bits, one scale a channel; activations are scaled by the smallest and largest value over
    `photos`. No percentile is cut off: what lies far out is what this project looks for. The weights of most forms are
    uint8 with zero point 128, the same numbers as int8: ONNX Runtime's sums of uint8 by int8 saturate on some CPUs.
    The outputs keep their names and stay float32. Weights next to the file stay there.

    Args:
        draft: the fp32 file. photos: for int8-qdq. transform: how a photo becomes the input.
        name: of the model, for messages. form: of int8-qdq.

    Raises:
        ExportError: a photo is unreadable (exit 2); the quantiser refuses the graph, or finds no layer that it can
            quantise (exit 3).
        OSError: the disk.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static

    weights = data_of(draft)
    proto = onnx.load(draft, load_external_data=False)
    # the exporter's shapes say more than the quantiser can infer, and it takes the difference for a conflict
    del proto.graph.value_info[:]
    for index, node in enumerate(proto.graph.node):
        node.name = node.name or f"node_{index}"
    draft.write_bytes(proto.SerializeToString())
    quantised = draft.parent / "int8" / draft.name
    quantised.parent.mkdir()
    options: Fields = {"weight_type": QuantType.QInt8, "use_external_data_format": weights.exists()}
    with quiet() as messages:
        try:
            if precision == "int8-dynamic":
                quantize_dynamic(draft, quantised, nodes_to_exclude=_delicate(proto.graph), **options)
            else:
                options |= {"quant_format": QuantFormat.QDQ, "activation_type": QuantType[form.activations]}
                options |= {"per_channel": True, "reduce_range": form.weight_bits == 7}
                options |= {"op_types_to_quantize": list(form.operators) or None}
                options |= {"nodes_to_exclude": _ends(proto.graph) if form.has_float_ends else None}
                quantize_static(draft, quantised, _reader(photos, transform, proto.graph.input[0].name), **options)
        except (ExportError, MemoryError, OSError):
            raise
        except Exception as error:  # the quantiser raises whatever its parts raise; all of it means the same
            raise ExportError(
                f"{name}: ONNX Runtime could not quantise it to {precision} ({first_line(error)}){messages.quoted()}",
                "--precision fp16, or another opset: onnx.version_converter",
            ) from error
    result = onnx.load(quantised, load_external_data=False)
    if not any(node.op_type in QUANTISING for node in result.graph.node):
        raise ExportError(
            f"{name}: number of layers that ONNX Runtime can quantise is 0; {precision} would be the fp32 model",
            "--precision fp16",
        )
    contract.keep_metadata(result, _INFERRED_KEY.__ne__)
    if precision == "int8-qdq" and form.has_uint8_weights:
        unsigned_weights(result, quantised.parent)
    weights.unlink(missing_ok=True)
    for file in quantised.parent.iterdir():
        file.replace(draft.with_name(file.name))
    quantised.parent.rmdir()
    draft.write_bytes(result.SerializeToString(deterministic=True))
    onnx.checker.check_model(str(draft))
    return result


def unsigned_weights(model: onnx.ModelProto, folder: Path) -> None:
    """Rewrite the int8 weights of a QDQ file as uint8 of the same values, with zero points that are larger by 128.

    Args:
        model: as ONNX Runtime's quantiser wrote it, without its external weights; changed in place.
        folder: where those are; changed in place, too.
    """
    import onnx

    signed = {each.name: each for each in model.graph.initializer if each.data_type == onnx.TensorProto.INT8}
    nodes = [node for node in model.graph.node if node.op_type == "DequantizeLinear"]
    for name in {name for node in nodes for name in node.input} & signed.keys():
        _add_128(signed[name], folder)


def _add_128(tensor: onnx.TensorProto, folder: Path) -> None:
    """Make an int8 tensor uint8: with 128 added, only the first bit of each byte is another one."""
    import onnx
    from onnx.external_data_helper import ExternalDataInfo

    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        values = onnx.numpy_helper.to_array(tensor).view(np.uint8) ^ 128
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
        return
    place = ExternalDataInfo(tensor)
    content = np.memmap(folder / place.location, np.uint8, "r+", place.offset or 0, place.length)
    content ^= 128
    content.flush()
    tensor.data_type = onnx.TensorProto.UINT8


def _ends(graph: onnx.GraphProto) -> list[str]:
    """Return the first and the last layer."""
    layers = [node.name for node in graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    return layers[:1] + layers[-1:]


def _delicate(graph: onnx.GraphProto) -> list[str]:
    """Return the convolutions that one scale for all channels would ruin."""
    images = {value.name for value in graph.input}
    return [
        node.name
        for node in graph.node
        if node.op_type == "Conv"
        and (node.input[0] in images or any(a.name == "group" and a.i > 1 for a in node.attribute))
    ]


def halve(draft: Path, *, name: str) -> onnx.ModelProto:
    """Replace an fp32 file by its fp16 form. It is alone with its weights in a folder; returns the graph.

    Weights and arithmetic are float16; inputs, outputs and operators that ONNX Runtime's converter leaves alone stay
    float32. Weights next to the file stay there.

    Args:
        draft: the fp32 file. name: of the model, for messages.

    Raises:
        ExportError: the converter refuses the graph (exit 3).
        OSError: the disk.
    """
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    weights = data_of(draft)
    try:
        # the steps of OnnxModel.convert_float_to_float16 without its shape inference, which needs sympy
        converted = OnnxModel(convert_float_to_float16(onnx.load(draft), keep_io_types=True))
        converted.disable_shape_inference()
        converted.remove_cascaded_cast_nodes()
        converted.remove_useless_cast_nodes()
        converted.topological_sort()
    except (MemoryError, OSError):
        raise
    except Exception as error:  # the converter raises whatever its parts raise; all of it means the same
        raise ExportError(
            f"{name}: ONNX Runtime could not convert it to fp16 ({first_line(error)})",
            "--precision int8-qdq, or export the model again from its own library",
        ) from error
    big = weights.exists()
    weights.unlink(missing_ok=True)
    onnx.save(converted.model, draft, save_as_external_data=big, location=weights.name)
    onnx.checker.check_model(str(draft))
    return onnx.load(draft, load_external_data=False)


def _opened(proto: onnx.ModelProto, path: Path) -> tuple[onnx.ModelProto, Fields]:
    """Return the graph without its functions, and its contract."""
    content = _contract_of(proto, path)
    if (stated := content.get("graph_digest")) is not None:
        try:
            digest = graph_digest(proto, path.parent)
        except (OSError, ValueError, KeyError) as error:
            raise ExportError(f"{path}: weights are unreadable ({error})", f"ls -l {quoted(path.parent)}") from error
        if digest != stated:  # the new file's contract would hide the change
            raise ExportError(
                f"{path}: graph or weights are not those that its contract was written for; changed after the export",
                "export the model again, or write a new contract (the page 'Your ONNX file' says how)",
            )
    return _inlined(proto), content


def _inlined(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph without functions."""
    from onnx import inliner

    return inliner.inline_local_functions(proto) if proto.functions else proto


def _check_call_with_contract(path: Path, out: Path, precision: str, *, restates: bool) -> None:
    """Refuse what a file with a contract does not need."""
    if restates:
        words = [] if precision == "fp32" else ["--precision", precision]
        raise CallError(
            f"{path}: --preprocess is given, and the file has a contract, which states its preprocessing already",
            command_of(path, out, *words) if words else f"robustcheck {quoted(path)}",
        )
    if precision == "fp32":
        raise CallError(
            f"--precision is fp32; an ONNX file with a contract is made smaller: {', '.join(contract.PRECISIONS[1:])}",
            command_of(path, out, "--precision", contract.INT8[-1]),
        )


def _described(proto: onnx.ModelProto, path: Path, read_plain: ReadPlain | None) -> Fields:
    """Return the contract for a file without one."""
    if read_plain is None:
        raise ExportError(
            f"{path}: contract is missing; it must state how photos become the input",
            f"robustcheck export onnx {quoted(path)} --preprocess clip -o {quoted(path.with_suffix('.contract.onnx'))}",
        )
    return described(proto, path, read_plain(path))


def _parsed(path: Path) -> onnx.ModelProto:
    import onnx

    hint = f"robustcheck inspect {quoted(path)}"
    if not path.is_file():
        raise CallError(
            f"{path}: ONNX file is missing; the source onnx quantises an existing file", f"ls -l {quoted(path.parent)}"
        )
    try:
        proto = onnx.load(path, load_external_data=False)
    except OSError as error:
        raise MissingError(f"{path}: ONNX file is unreadable ({error.strerror or error})", f"ls -l {path}") from error
    except Exception as error:  # protobuf's DecodeError is one of several
        raise ExportError(f"{path}: file is not an ONNX model ({first_line(error)})", hint) from error
    if not proto.graph.input or not proto.graph.output:
        raise ExportError(f"{path}: graph has no input or no output; it must have both", hint)
    return proto


def _contract_of(proto: onnx.ModelProto, path: Path) -> Fields:
    """Return the contract in a file. It must be there and whole."""
    hint = f"robustcheck inspect {quoted(path)}"
    texts = [prop.value for prop in proto.metadata_props if prop.key == contract.METADATA_KEY]
    try:
        content: Fields = json.loads(texts[-1])
        stated = content["schema_version"]
        complete = type(stated) is int and stated == contract.SCHEMA_VERSION and "representation" in content["tensors"]
        Source(**content["source"])
        for key, kind in (("preprocessing", dict), ("versions", dict), ("precision", str)):
            complete &= isinstance(content[key], kind)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ExportError(f"{path}: contract is damaged ({type(error).__name__}: {error})", hint) from error
    if not complete:
        raise ExportError(f"{path}: contract does not match schema {contract.SCHEMA_VERSION}", hint)
    return content


def _external(proto: onnx.ModelProto) -> set[str]:
    """Return the names of the files with external weights."""
    entries = (entry for weight in proto.graph.initializer if weight.data_location for entry in weight.external_data)
    return {entry.value for entry in entries if entry.key == "location"}


def _check_target(path: Path, out: Path, proto: onnx.ModelProto) -> None:
    """Refuse to write over the file or its weights."""
    read = [path, *(path.parent / location for location in _external(proto))]
    for written in (out, data_of(out)):
        if any(
            written.resolve() == each.resolve() or (written.exists() and each.exists() and written.samefile(each))
            for each in read
        ):
            raise CallError(
                f"{out}: target is the file that is read, or its weights; it must be another file",
                f"-o {quoted(path.with_name(path.stem + '-new.onnx'))}",
            )


def _check_fp32(path: Path, proto: onnx.ModelProto, precision: str) -> None:
    own = precision_of(proto)
    if own != "fp32":
        precision = own
    if precision != "fp32":
        raise CallError(
            f"{path}: precision is {precision}; fp16 and int8 are made from an fp32 file",
            "export the model again with --precision fp32, and quantise that file",
        )


def _references(path: Path, proto: onnx.ModelProto, images: Array, outputs: list[str]) -> Arrays:
    """Run the graph of a file photo by photo. The graph may have an output that the file lacks."""
    runs, _ = run_file(
        path,
        outputs,
        [{proto.graph.input[0].name: image[None]} for image in images],
        f"{path}: ONNX Runtime could not run it",
        f"robustcheck inspect {quoted(path)}",
        graph=proto.SerializeToString(),
    )
    rows = {name: np.concatenate(values) for name, values in zip(outputs, zip(*runs, strict=True), strict=True)}
    for name, values in rows.items():
        if values.ndim != 2 or not np.isfinite(values).all():
            raise ExportError(
                f"{path}: output {name} is not finite, or not an array (image, feature)", "check the weights"
            )
    return rows


def _copy(path: Path, proto: onnx.ModelProto, draft: Path) -> None:
    """Write the graph to `draft`. Its weights lie next to it where they are too big."""
    import onnx
    from onnx.external_data_helper import load_external_data_for_model

    if _external(proto):
        load_external_data_for_model(proto, str(path.parent))  # refuses a path that leaves the folder
    size = sum(len(weight.raw_data) for weight in proto.graph.initializer)
    onnx.save(proto, draft, save_as_external_data=size > INLINE_LIMIT_BYTES, location=draft.name + ".data")


def _reader(photos: Photos, transform: Transform, input_name: str) -> Any:
    """Return the photos one by one. ONNX Runtime's calibration asks for them so."""

    def feed(path: Path) -> Arrays:
        hint = f"ls -l {quoted(path)}"
        image = contract.open_photo(path, "calibration photo", "ranges are taken from real photos", hint)
        return {input_name: np.ascontiguousarray(transform(image)[None], dtype=np.float32)}

    feeds = map(feed, photos)
    return SimpleNamespace(get_next=lambda: next(feeds, None))
