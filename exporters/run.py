"""Exports a model: a source and a name become an ONNX file. Other rooms start here."""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib
import json
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import CallError, ExportError, Tell, contract, files, first_line, ignore_progress, import_error, quiet, quoted
from .contract import Array, Arrays, Fields, Loaded, Photos, Prompts, Wanted
from .files import Drawn, quantise_file
from .plain import ReadPlain

if TYPE_CHECKING:
    import onnx
    import torch

SOURCES = ("open_clip", "timm", "torchvision", "transformers", "torch", "onnx")
WITH_TEXT_TOWER = ("open_clip", "transformers")
DEFAULT_TEMPLATES = ("a photo of a {}.",)
MIN_CLASSES = 2  # with one class there is nothing to choose
OPSET = 20  # torch 2.9–2.13 write it without conversion; ONNX Runtime reads it from 1.17 on
MAX_GREY_LEVELS = 1.0  # of 255: how far the contract's pixels may be from the source library's own
# Node metadata that helps a report. The rest (stack traces, fx nodes) holds this machine's paths.
_KEPT_METADATA = {"pkg.torch.onnx.name_scopes", "pkg.torch.onnx.class_hierarchy"}


def run(
    source: str,
    name: str,
    out: Path,
    *,
    weights: str | None = None,
    precision: str = "fp32",
    form: str | None = None,
    random_weights: bool = False,
    preprocessing: Fields | None = None,
    stated_by: str = "--preprocess",
    head: str | None = None,
    zero_shot: str | None = None,
    templates: str | None = None,
    matched_to: str | None = None,
    read_plain: ReadPlain | None = None,
    photos: Photos,
    calibration: Photos = (),
    tell: Tell = ignore_progress,
) -> files.ExportRecord:
    """Load a model and write it as ONNX. Its own library loads it; the file has the contract.

    Args:
        source: one of SOURCES.
        name: the library's name of the model; for torch "package.module:factory"; for onnx the file.
        out: target, ends in .onnx.
        weights, random_weights, head: see contract.Wanted.
        precision: fp32, fp16, int8-dynamic or int8-qdq; for the source onnx fp32 gives a file without a contract its
            contract alone.
        form: of int8-qdq, one of forms.FORMS by its name; None for the smallest that keeps the vectors.
        preprocessing: the contract's fields, which replace the library's preprocessing.
        stated_by: the option that states `preprocessing`, for the contract.
        zero_shot, templates: open_clip and transformers only: see read_prompts.
        matched_to: the encoder whose vectors the model was trained to give (distillation, feature matching), or "none"
            where it was trained otherwise; None = not said.
        read_plain: onnx only: see files.quantise_file.
        photos: at least 5 image files on which parity is measured; at least 32 for int8-qdq.
        calibration: image files that int8-qdq takes the ranges of activations from.
        tell: called with what is done, when each stage begins.

    Raises:
        ExportError: see its exit codes; `forms.NoFormError` has the forms of int8-qdq that were tried. Nothing is left.
    """

    def command(source: str, *words: str) -> str:
        return shlex.join(["robustcheck", "export", source, name, *words, "-o", str(out)])

    if source not in SOURCES:
        raise CallError(
            f"source is {source!r}; it must be one of {', '.join(SOURCES)}",
            command((difflib.get_close_matches(source, SOURCES, 1) or SOURCES)[0]),
        )
    if matched_to is not None and (not matched_to.strip() or not matched_to.isprintable() or len(matched_to) > 200):
        raise CallError(
            f"--matched-to is {matched_to!r}; it must be one line of 1 to 200 characters",
            "--matched-to none, or the name of the encoder",
        )
    if source == "onnx":
        settled = {"weights": weights, "random-weights": random_weights or None}
        settled |= {"head": head, "zero-shot": zero_shot, "templates": templates}
        if given := [option for option, value in settled.items() if value is not None]:
            raise CallError(
                f"--{given[0]} is given; an ONNX file has its weights and outputs already",
                command("onnx", "--precision", "int8-qdq"),
            )
        options: Fields = {"precision": precision, "photos": photos, "calibration": calibration, "tell": tell}
        options |= {"restates": preprocessing is not None, "read_plain": read_plain, "form": form}
        return quantise_file(Path(name), out, matched_to=matched_to, **options)
    if head and source != "torch":
        raise CallError(
            f"--head is {head}; it is for the source torch only; the head of {source} models is known", command(source)
        )
    if templates is not None and zero_shot is None:
        raise CallError(
            f"--templates is {templates}; it is for the class names of --zero-shot",
            command(source, "--zero-shot", "CLASSES.txt"),
        )
    if zero_shot is not None and source not in WITH_TEXT_TOWER:
        raise CallError(
            f"{name}: --zero-shot is for sources with a text tower, open_clip and transformers; source is {source}",
            "robustcheck export open_clip NAME --zero-shot CLASSES.txt",
        )
    files.check_call(out, precision, photos)
    files.plan_of(precision, form, calibration, photos)  # before a model is loaded
    fields = None
    if preprocessing is not None:
        fields = contract.checked_preprocessing(preprocessing, "--preprocess")
    prompts = None if zero_shot is None else read_prompts(zero_shot, templates)
    tell(f"loading {name} from {source}")
    loaded = load(source, Wanted(name, weights, random_weights, fields, head, prompts))
    if matched_to is not None:
        loaded = loaded._replace(source=loaded.source._replace(matched_to=matched_to))
    if preprocessing is not None:
        loaded = loaded._replace(stated_by=stated_by)
    return export(loaded, out, precision=precision, form=form, photos=photos, calibration=calibration, tell=tell)


def load(source: str, wanted: Wanted) -> Loaded:
    """Load a model from one of SOURCES but onnx."""
    try:
        load_from = _library(source, "load")
    except ImportError as error:
        raise import_error(error, source, source) from error
    if wanted.weights and wanted.random_weights and source != "transformers":  # which takes no weights at all
        raise CallError(
            f"{wanted.name}: weights is {wanted.weights} and --random-weights is given; use one of them",
            "drop --random-weights or --weights",
        )
    return load_from(wanted)


def _library(source: str, verb: str) -> Any:
    """Return the function for `verb` of a source's library. ImportError without the library."""
    importlib.import_module(source)
    place = "dual_encoders" if source in WITH_TEXT_TOWER else "torch_models"
    return getattr(importlib.import_module(f"robustcheck_onnx.exporters.{place}"), f"{verb}_{source}")


def read_prompts(classes: str, templates: str | None) -> Prompts:
    """Read class names and templates.

    Args:
        classes: a text file with one class name per line, or "imagenet": open_clip's names of ImageNet's 1000 classes.
        templates: a text file with one template per line, each with `{}`; "openai": the 80 templates of OpenAI's
            ImageNet evaluation, as open_clip has them; None: "a photo of a {}."

    Raises:
        ExportError: no such file, fewer than two classes, a name that occurs twice, a template without `{}` (exit 2);
            open_clip is not installed (4).
    """
    if classes == "imagenet":
        names = tuple(map(str, _from_open_clip("IMAGENET_CLASSNAMES")))
    else:
        names = _lines(classes, "--zero-shot", "a text file with one class name per line, or imagenet")
        if double := sorted({name for name in names if names.count(name) > 1}):
            raise CallError(
                f"{classes}: class name {double[0]!r} occurs {names.count(double[0])} times; names must differ",
                f"sort {quoted(classes)} | uniq -d",
            )
    if len(names) < MIN_CLASSES:
        raise CallError(
            f"{classes}: number of class names is {len(names)}; at least {MIN_CLASSES} are needed, one per line",
            f"cat {quoted(classes)}",
        )
    if templates is None:
        return Prompts(names, DEFAULT_TEMPLATES)
    place = contract.CLASS_PLACE
    if templates == "openai":
        return Prompts(names, tuple(str(fill(place)) for fill in _from_open_clip("OPENAI_IMAGENET_TEMPLATES")))
    lines = _lines(templates, "--templates", "a text file with one template per line, or openai")
    if not lines or (without := [template for template in lines if place not in template]):
        what = f"template is {without[0]!r}" if lines else "number of templates is 0"
        raise CallError(
            f"{templates}: {what}; every line must hold {place}, where the class name goes",
            f"echo 'a photo of a {place}.' > {quoted(templates)}",
        )
    return Prompts(names, lines)


def _lines(path: str, option: str, what: str) -> tuple[str, ...]:
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:  # a name with a null byte, bytes that are not UTF-8
        reason = error.strerror if isinstance(error, OSError) else error
        raise CallError(
            f"{option} is {path!r}: file is not readable ({reason}); it must be {what}", f"ls -l {quoted(path)}"
        ) from error
    return tuple(line.strip() for line in text.split("\n") if line.strip())


def _from_open_clip(name: str) -> Any:
    try:
        import open_clip
    except ImportError as error:
        raise import_error(error, name, "open_clip", "it holds these words") from error
    return getattr(open_clip, name)


def export(
    loaded: Loaded,
    path: Path,
    *,
    precision: str = "fp32",
    form: str | None = None,
    photos: Photos,
    calibration: Photos = (),
    tell: Tell = ignore_progress,
) -> files.ExportRecord:
    """Export a loaded model to ONNX, and prove it. Only a file that agrees in ONNX Runtime is put in place.

    The graph has one float32 input "image" (batch, channel, height, width) with a dynamic batch and one
    float32 output (batch, feature) for each of `loaded.outputs`. fp16 means float16 weights and arithmetic
    inside, float32 outside; int8-dynamic and int8-qdq are what files.quantised makes of the float32 file. All of
    them are compared with the float32 model. Parity is measured by files.measure on the first photos.

    Args:
        path: ends in .onnx; an existing file is replaced. More than 2 GB of weights go to `path` + ".data".
        photos: at least 5 image files; at least 32 for int8-qdq.
        form, calibration: for int8-qdq, see `run`.
        tell: called with what is done, when each stage begins.

    Raises:
        ExportError: 2 for the call, 3 when no faithful file can be made, 4 for the disk. Nothing is left.
    """
    files.check_call(path, precision, photos)
    plan = files.plan_of(precision, form, calibration, photos)
    names = [output.name for output in loaded.outputs]
    if "representation" not in names or len(set(names)) != len(names):
        raise ExportError(f"outputs are {names}; the names must differ, and representation must be one of them")
    contract.checked_preprocessing(loaded.preprocessing, loaded.source.name)
    name = f"{loaded.source.library} {loaded.source.name}"
    images = preprocessed(loaded, photos)
    with quiet() as messages, _own_attention():
        tell("running the original on the photos")
        references = _references(loaded, images, name)
        tell("exporting")
        try:
            program = _traced(loaded, images, precision)
        except ImportError as error:
            raise import_error(error, name, "of the exporter") from error
        except MemoryError:
            raise
        except Exception as error:  # torch.onnx wraps whatever the model raised; every cause ends here
            raise ExportError(
                f"{name}: torch could not export it ({first_line(error)}){messages.quoted()}",
                "the model must be traceable by torch.export; try another precision or report the model name",
            ) from error
    if program is None:
        raise ExportError(f"{name}: torch exported nothing", "report the versions of torch and onnxscript")

    shared: Fields = {"images": images, "references": references, "tell": tell}

    def draw(draft: Path) -> Drawn:
        tell("writing the file")
        model = _saved(program, draft, name)
        if precision not in contract.INT8:
            return Drawn(model)
        tell("quantising")
        return files.quantised(
            draft, precision, plan, lambda image: loaded.transform(image).numpy(), name=name, **shared
        )

    return files.deliver(path, draw, contract.content(loaded), precision=precision, plan=plan, **shared)


def preprocessed(loaded: Loaded, photos: Photos) -> Array:
    """Apply the library's transform to the first photos. A contract that gives other pixels is refused."""
    arrays = []
    for path in photos[: files.PARITY_PHOTOS]:
        image = contract.open_photo(path, *files.PHOTO_WORDS)
        theirs = loaded.transform(image).numpy()
        takes = (3, *loaded.preprocessing["size"])
        if theirs.shape != takes:
            raise ExportError(
                f"{loaded.source.name}: preprocessing makes {list(theirs.shape)} of {path.name}; "
                f"it must be {list(takes)}",
                "--preprocess FILE with resize_mode shortest or squash",
            )
        ours = contract.preprocess(loaded.preprocessing, image)
        apart = contract.grey_levels_apart(loaded.preprocessing, ours, theirs)
        if apart > MAX_GREY_LEVELS:
            raise ExportError(
                f"{loaded.source.name}: preprocessing in the contract is {apart:.3g} grey levels from the "
                f"library's own on {path.name}; at most {MAX_GREY_LEVELS:g}",
                "the contract cannot describe this model's preprocessing; give another with --preprocess FILE",
            )
        arrays.append(theirs)
    return np.stack(arrays).astype(np.float32)


def _references(loaded: Loaded, images: Array, name: str) -> Arrays:
    """Run the eager float32 model photo by photo. The results are independent of batches."""
    import torch

    from .torch_models import run_eager

    module = loaded.module.float().eval()
    if training := [n for n, m in module.named_modules() if m.training]:
        raise ExportError(
            f"{name}: module {training[0] or 'itself'} stays in training mode after eval(); inference mode is needed",
            "do not override train() or eval()",
        )
    runs = [run_eager(module, torch.from_numpy(image[None]), name) for image in images]
    if any(not isinstance(run, tuple) or len(run) != len(loaded.outputs) for run in runs):
        raise ExportError(f"{name}: forward does not return {len(loaded.outputs)} outputs")
    references = {}
    for output, tensors in zip(loaded.outputs, zip(*runs, strict=True), strict=True):
        rows = np.concatenate([tensor.float().numpy() for tensor in tensors])
        if rows.ndim != 2 or len(rows) != len(images):
            raise ExportError(
                f"{name}: output {output.name} has shape {tuple(tensors[0].shape)} for one image; it must be (1, "
                "feature)",
                "pool tokens or maps before returning them",
            )
        if not np.isfinite(rows).all():
            raise ExportError(f"{name}: output {output.name} is not finite on real photos", "check the weights")
        references[output.name] = rows
    return references


def _traced(loaded: Loaded, images: Array, precision: str) -> torch.onnx.ONNXProgram | None:
    import torch

    from .torch_models import half_precision

    module = half_precision(loaded.module) if precision == "fp16" else loaded.module
    with torch.no_grad():
        return torch.onnx.export(
            module.eval(),
            (torch.from_numpy(images[:2].copy()),),  # two images: a batch of one could be taken for a constant
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim(contract.BATCH_AXIS)},),
            input_names=[contract.INPUT_NAME],
            output_names=[output.name for output in loaded.outputs],
            opset_version=OPSET,
            verbose=False,
        )


def _saved(program: torch.onnx.ONNXProgram, draft: Path, name: str) -> onnx.ModelProto:
    """Save and return the graph. Its weights lie next to it when they are too big."""
    import onnx

    total = sum(t.const_value.nbytes for t in program.model.graph.initializers.values() if t.const_value is not None)
    program.save(draft, external_data=total > files.INLINE_LIMIT_BYTES)
    model = onnx.load(draft, load_external_data=False)
    graph = model.graph
    nodes = [*graph.node, *(node for function in model.functions for node in function.node)]
    values = [*graph.input, *graph.output]
    for item in (*nodes, *values, *graph.value_info, *graph.initializer, graph, model):
        contract.keep_metadata(item, _KEPT_METADATA.__contains__)
    for value in values:
        axis = value.type.tensor_type.shape.dim[0]
        if axis.dim_param != contract.BATCH_AXIS:
            raise ExportError(
                f"{name}: batch axis of {value.name} is fixed to {axis.dim_value}; it must be dynamic",
                "the model mixes the batch size into its arithmetic",
            )
    draft.write_bytes(model.SerializeToString(deterministic=True))
    onnx.checker.check_model(str(draft))
    return model


@contextlib.contextmanager
def _own_attention() -> Iterator[None]:
    """Switch torch's fused eval-mode attention off: it has no ONNX form (pytorch/pytorch#143107)."""
    import torch

    was = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was)


def sizes(asked: Sequence[tuple[str, str, str | None]]) -> list[Fields]:
    """Count the parameters of models without their weights; downloads nothing.

    Args:
        asked: (source, name, tag or None) of each model.

    Returns:
        for each: `parameters` (of all that is downloaded: a CLIP checkpoint holds the text tower too) and
        `vision_parameters` (of what is exported), None where they can't be known; `fault` (why), `unknown` (a name or
        tag that the library has not), and `missing` (the package that is not installed).
    """
    return [_size(*each) for each in asked]


def _size(source: str, name: str, tag: str | None) -> Fields:
    answer: Fields = {"parameters": None, "vision_parameters": None, "unknown": "", "fault": "", "missing": ""}
    if ":" in name or source not in SOURCES[:3]:  # the hub's or the user's own
        return answer | {"fault": f"the size of {source} {name} is not known before it is loaded"}
    try:
        _library(source, "check")(name, tag)
        answer["parameters"], answer["vision_parameters"] = _counted(source, name)
    except ImportError as error:
        answer["missing"] = error.name or source
    except ExportError as error:
        answer["unknown"] = f"{error.message}; {error.hint}"
    except Exception as error:  # noqa: BLE001 # a library's own fault: the size is not known, and why is said
        answer["fault"] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return answer


@functools.cache
def _counted(source: str, name: str) -> tuple[int, int]:
    """Return the number of parameters, in all and in the encoder. The encoder is that of images."""
    import torch

    with quiet(), torch.device("meta"):
        model = _library(source, "shell")(name)
    return tuple(sum(p.numel() for p in part.parameters()) for part in (model, getattr(model, "visual", model)))


if __name__ == "__main__":  # run by `calibrate --plan`, which imports no torch: ASKED.json ANSWERS.json
    os.environ["HF_HUB_OFFLINE"] = "1"  # some text towers would ask the hub for a configuration
    Path(sys.argv[2]).write_text(json.dumps(sizes(json.loads(Path(sys.argv[1]).read_text()))))
