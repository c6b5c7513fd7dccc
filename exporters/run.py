"""Export a model: a source and a name become an ONNX file. Other rooms start here."""

from __future__ import annotations

import contextlib
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

from . import CallError, ExportError, Tell, contract, first_line, ignore_progress, import_error, nearest, quiet
from .contract import Arrays, Loaded, Photos, Wanted
from .delivery import Drawn, ExportRecord, check_call, deliver, has_big_weights
from .files import quantise_file
from .photos import PARITY_PHOTOS, PHOTO_WORDS, QuantisationPlan, open_photo, quantisation_plan
from .plain import ReadPlain
from .preprocessing import Array, Fields, checked_preprocessing, grey_levels_apart, preprocess
from .prompts import read_prompts
from .proof import Original
from .quantisation import quantised
from .taken_over import ReadPair, refuse_other_options, take_over

if TYPE_CHECKING:
    import onnx
    import torch
    from PIL import Image
    from torch import nn

SOURCES = ("open_clip", "timm", "torchvision", "transformers", "torch", "onnx")
WITH_TEXT_TOWER = ("open_clip", "transformers")
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
    original: Path | None = None,
    read_plain: ReadPlain | None = None,
    read_pair: ReadPair | None = None,
    photos: Photos,
    calibration: Photos = (),
    tell: Tell = ignore_progress,
) -> ExportRecord:
    """Load a model by its own library, and write it as ONNX with its contract.

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
        original: onnx only: the exported file that the file was made from, whose contract is taken over; needs
            `read_pair`, see taken_over.take_over.
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
        near = nearest(source, SOURCES)
        raise CallError(f"source is {source!r}; it must be one of {', '.join(SOURCES)}", command(near))
    if matched_to is not None and (not matched_to.strip() or not matched_to.isprintable() or len(matched_to) > 200):
        raise CallError(
            f"--matched-to is {matched_to!r}; it must be one line of 1 to 200 characters",
            "--matched-to none, or the name of the encoder",
        )
    if source == "onnx":
        settled = {
            "weights": weights,
            "random-weights": random_weights or None,
            "head": head,
            "zero-shot": zero_shot,
            "templates": templates,
        }
        given = [option for option, value in settled.items() if value is not None]
        if given:
            raise CallError(
                f"--{given[0]} is given; an ONNX file has its weights and outputs already",
                command("onnx", "--precision", "int8-qdq"),
            )
        if original is not None and read_pair is not None:
            others = {"preprocess": preprocessing, "matched-to": matched_to, "form": form}
            restated = [option for option, value in others.items() if value is not None]
            restated += ["calibration-images"] * bool(calibration)
            refuse_other_options(Path(name), original, out, precision, restated)
            return take_over(Path(name), original, out, photos=photos, read_pair=read_pair, tell=tell)
        return quantise_file(
            Path(name),
            out,
            precision=precision,
            photos=photos,
            calibration=calibration,
            matched_to=matched_to,
            restates=preprocessing is not None,
            read_plain=read_plain,
            form=form,
            tell=tell,
        )
    if original is not None:
        raise CallError(f"--original is {original}; it is for the source onnx only", command(source))
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
    check_call(out, precision, photos)
    plan = quantisation_plan(precision, form, calibration, photos)
    fields = None
    if preprocessing is not None:
        fields = checked_preprocessing(preprocessing, "--preprocess")
    prompts = None if zero_shot is None else read_prompts(zero_shot, templates)
    tell(f"loading {name} from {source}")
    loaded = load(source, Wanted(name, weights, random_weights, fields, head, prompts))
    if matched_to is not None:
        loaded = loaded._replace(source=loaded.source._replace(matched_to=matched_to))
    if preprocessing is not None:
        loaded = loaded._replace(stated_by=stated_by)
    return _export(loaded, out, plan, photos, tell)


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
    """Return the function for `verb` of a source's library, or raise ImportError without the library."""
    importlib.import_module(source)
    return getattr(importlib.import_module(f"robustcheck_onnx.exporters.from_{source}"), f"{verb}_{source}")


def _export(loaded: Loaded, path: Path, plan: QuantisationPlan, photos: Photos, tell: Tell) -> ExportRecord:
    """Export a loaded model to ONNX, and put the file in place if it agrees in ONNX Runtime.

    The graph has one float32 input "image" (batch, channel, height, width) with a dynamic batch and one
    float32 output (batch, feature) for each of `loaded.outputs`. fp16 means float16 weights and arithmetic
    inside, float32 outside; int8-dynamic and int8-qdq are what `quantised` makes of the float32 file. All of
    them are compared with the float32 model on the first photos.
    """
    name = f"{loaded.source.library} {loaded.source.name}"
    images = preprocessed(loaded, photos)
    with quiet() as messages, _own_attention():
        tell("running the original on the photos")
        original = Original(images, _outputs(loaded, images, name))
        tell("exporting")
        try:
            program = _traced(loaded, images, plan.precision)
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

    def transform(image: Image.Image) -> Array:
        return loaded.transform(image).numpy()

    def draw(draft: Path) -> Drawn:
        tell("writing the file")
        model = _saved(program, draft, name)
        if plan.precision not in contract.INT8:
            return Drawn(model)
        tell("quantising")
        return quantised(draft, plan, transform, original, name=name, tell=tell)

    packages = ("torch", "onnxscript", *loaded.packages)
    content = contract.content(
        loaded.outputs, loaded.preprocessing, loaded.source, loaded.stated_by, packages, loaded.zero_shot
    )
    return deliver(path, draw, content, original, plan, tell)


def preprocessed(loaded: Loaded, photos: Photos) -> Array:
    """Apply the library's transform to the first photos, and refuse a contract that gives other pixels."""
    arrays = []
    for path in photos[:PARITY_PHOTOS]:
        image = open_photo(path, *PHOTO_WORDS)
        theirs = loaded.transform(image).numpy()
        takes = (3, *loaded.preprocessing["size"])
        if theirs.shape != takes:
            raise ExportError(
                f"{loaded.source.name}: preprocessing makes {list(theirs.shape)} of {path.name}; "
                f"it must be {list(takes)}",
                "--preprocess FILE with resize_mode shortest or squash",
            )
        ours = preprocess(loaded.preprocessing, image)
        apart = grey_levels_apart(loaded.preprocessing, ours, theirs)
        if apart > MAX_GREY_LEVELS:
            raise ExportError(
                f"{loaded.source.name}: preprocessing in the contract is {apart:.3g} grey levels from the "
                f"library's own on {path.name}; at most {MAX_GREY_LEVELS:g}",
                "the contract cannot describe this model's preprocessing; give another with --preprocess FILE",
            )
        arrays.append(theirs)
    return np.stack(arrays).astype(np.float32)


def _outputs(loaded: Loaded, images: Array, name: str) -> Arrays:
    """Run the eager float32 model photo by photo, so that the results are independent of batches."""
    import torch

    from .wrappers import run_eager

    module = loaded.module.float().eval()
    training = [path for path, part in module.named_modules() if part.training]
    if training:
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

    from .wrappers import half_precision

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
    """Save and return the graph, with its weights next to it when they are too big."""
    import onnx

    weights = [initializer.const_value for initializer in program.model.graph.initializers.values()]
    size = sum(weight.nbytes for weight in weights if weight is not None)
    program.save(draft, external_data=has_big_weights(size))
    model = onnx.load(draft, load_external_data=False)
    graph = model.graph
    values = [*graph.input, *graph.output]
    items = [model, graph, *graph.node, *values, *graph.value_info, *graph.initializer]
    for function in model.functions:
        items += function.node
    for item in items:
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
    """Switch torch's fused eval-mode attention off, which has no ONNX form (pytorch/pytorch#143107)."""
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
    """Return the number of parameters in all, and in the encoder of images."""
    import torch

    with quiet(), torch.device("meta"):
        model = _library(source, "shell")(name)
    encoder = getattr(model, "visual", model)
    return _n_parameters(model), _n_parameters(encoder)


def _n_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


if __name__ == "__main__":  # run by `calibrate --plan`, which imports no torch: ASKED.json ANSWERS.json
    os.environ["HF_HUB_OFFLINE"] = "1"  # some text towers would ask the hub for a configuration
    Path(sys.argv[2]).write_text(json.dumps(sizes(json.loads(Path(sys.argv[1]).read_text()))))
