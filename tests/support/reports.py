"""Made-up evidence and reports: a PASS, a WARN and an undecided one, and what they are made of.

The reference rows are from thresholds/data/reference_statistics.csv.
"""

from ast import literal_eval
from typing import Any

from robustcheck_onnx.checker.core import evidence as facts
from robustcheck_onnx.checker.core.preprocessing import CLIP, IMAGENET, Preprocessing
from robustcheck_onnx.checker.core.verdict.notes import BUNDLED_NOTE
from robustcheck_onnx.checker.core.verdict.rule import judge
from robustcheck_onnx.checker.report.check import Report
from robustcheck_onnx.checker.report.document import document_of
from robustcheck_onnx.checker.report.record import CLAIM, ReferenceRow, Time
from robustcheck_onnx.checker.report.terminal import render_document
from robustcheck_onnx.thresholds.ends import End
from robustcheck_onnx.thresholds.profile import Calibration, Profile, Threshold, seal
from robustcheck_onnx.thresholds.statistics import Statistic
from support import Fields, but
from support.screens import printed

MINIMUM: dict[Statistic, float] = {"strength": 4.5, "outlier_frequency": 0.75, "two_sidedness": 0.35}
REFERENCE_ROWS = """\
finetuned_clip|OpenAI CLIP ViT-B/32, contrastively fine-tuned on ~100 captioned images|165.7|32.74|0.9951|yes
zero_shot_clip|OpenAI CLIP ViT-L/14 (open_clip ViT-L-14/openai)|106.3|17.75|0.9872|yes
zero_shot_clip|SigLIP SO400M/14-384 (open_clip ViT-SO400M-14-SigLIP-384/webli)|71.38|12.73|0.968|yes
zero_shot_clip|OpenCLIP ViT-L/14 laion2b_s32b_b82k|29.58|6.522|0.9064|yes
zero_shot_clip|OpenAI CLIP RN50|84.65|5.129|0.9014|yes
zero_shot_clip|OpenAI CLIP RN50|38.04|3.498|0.8744|yes
finetuned_clip|FashionCLIP (HF patrickjohncyh/fashion-clip, B/32)|13.26|3.221|0.7878|yes
zero_shot_clip|OpenCLIP ViT-B/32 laion2b_s34b_b79k|9.708|2.106|0.6588|yes
supervised|ResNet50 ImageNet (torchvision pretrained=True)|16.77|1.141|0.2529|no
zero_shot_clip|OpenCLIP ViT-bigG/14 laion2b_s39b_b160k|4.923|1.076|0.122|no
supervised|EfficientNet-Lite0 ImageNet (converted from TF)|17.08|1.041|0.03627|no
face|FaceNet (keras_facenet FaceNet(), Inception-ResNet v1)|2.922|0.9945|0.0299|no
self_supervised|DINOv2 ViT-S/14 (torch.hub dinov2_vits14)|3.046|0.9412|0.04857|no
supervised|ViT-B/16 supervised ImageNet-21k (google/vit-base-patch16-224-in21k)|3.037|0.9057|0.03835|no
"""

LIMITS = (
    "PASS means that the indication (persistent outlier features) is present; it is no proof of robustness.",
    "WARN means absent or not established: OpenCLIP ViT-bigG/14 (laion2b_s39b_b160k) shows no outlier features.",
    "It rests on few checkpoints.",
    "It is about natural distribution shifts of ImageNet kind, not about adversarial robustness or corruptions.",
)


def reference_rows() -> tuple[ReferenceRow, ...]:
    names = ("group", "checkpoint", "kurtosis", "persistence_ratio", "top3_share", "shows_outlier_features")
    of_all = {"images": "300 images", "source": "reference_statistics.csv"}
    rows = (dict(zip(names, line.split("|"), strict=True)) for line in REFERENCE_ROWS.splitlines())
    return tuple(ReferenceRow.model_validate(of_all | row) for row in rows)


def profile() -> Profile:
    thresholds = {
        name: Threshold(minimum=minimum, highest_without=0, highest_without_set="a", lowest_with=9, lowest_with_set="b")
        for name, minimum in MINIMUM.items()
    }
    calibration = Calibration(
        command="none", table="reference_statistics.csv", table_digest="sha256:0", rule="chosen by hand for the tests",
        n_sets=14, n_checkpoints=13, with_indication=(), without_indication=(), excluded=(), left_out_false_pass=(),
        left_out_false_warn=(), false_pass_upper=0.2, false_warn_upper=0.5, family_out=(),
    )  # fmt: skip
    made = Profile(
        id="test-1", statistic_version=1, tensor_rules=("encoder_output", "head_input"), pools=("none", "spatial_mean"),
        ends=(End("linear"),), min_features=384, max_features=2048, min_images=50, alpha=0.05, bounds="each",
        thresholds=thresholds, calibration=calibration, limits=LIMITS,
    )  # fmt: skip
    return seal(made)


def interval(estimate: float | None, low: float | None, high: float | None) -> facts.Interval:
    return facts.Interval(estimate=estimate, low=low, high=high)


def feature(index: int, share: float, frequency: float, mean_z: float) -> facts.OutlierFeature:
    return facts.OutlierFeature(
        index=index, share=share, frequency=frequency, mean_z=mean_z, persistent=frequency >= 0.5, relative_sd=0.2
    )


STATISTICS = """\
n_images | 162 | 160
n_features | 1024 | 1280
strength | 74.19, 62.87, 85.51 | 2.789, 1.87, 3.708
kurtosis | 82.31, 70.94, 93.68 | 19.95, 17.41, 22.49
persistence_ratio | 5.218, 4.307, 6.129 | 1.104, 1.049, 1.159
top3_share | 0.9014, 0.8733, 0.9295 | 0.1398, 0.1012, 0.1784
outlier_frequency | 1.0, 0.91, 1.0 | 0.1267, 0.01, 0.25
negative_energy | 0.5561, 0.5402, 0.572 | 0.0, 0.0, 0.0
negative_z_energy | 0.5229, 0.51, 0.536 | 0.1609, 0.15, 0.172
two_sidedness | 0.4439, 0.428, 0.4598 | 0.0, 0.0, 0.0
centred_kurtosis | 15.77 | 18.07
rms_kurtosis | 71.9 | 2.52
max_median_ratio | 46.2 | None
zero_share | 0.0 | 0.6123
negative_share | 0.4981 | 0.0
spread | 0.7431 | 0.8127
kurtosis_quantiles | 38.4, 66.1, 83.2, 99.5, 121.6 | 9.87, 13.9, 17.8, 23.6, 38.9
"""


def column(number: int, first_edge: float, step: float, *features: facts.OutlierFeature) -> Fields:
    """Statistics of a column of the table; three numbers are an interval."""
    made: Fields = {
        "statistic_version": 1,
        "n_nonfinite": 0,
        "n_constant": 0,
        "alpha": 0.05,
        "bounds": "each",
        "distinct_share": 1.0,
    }
    made |= {"histogram_edges": tuple(first_edge + step * i for i in range(25)), "features": features}
    for name, *cells in (line.split(" | ") for line in STATISTICS.splitlines()):
        value = literal_eval(cells[number])
        made[name] = interval(*value) if isinstance(value, tuple) and len(value) == 3 else value
    return made


PASS_STATISTICS = column(
    0, 21.0, 5.25,
    feature(526, 0.8512, 1.0, 16.71), feature(834, 0.0311, 0.5741, -6.43),
    feature(9, 0.0191, 0.2469, 5.12), feature(731, 0.0021, 0.0062, 1.93),
) | {"histogram_counts": (1, 2, 3, 2, 4, 5, 7, 9, 10, 13, 14, 16, 15, 13, 12, 10, 8, 6, 5, 3, 2, 1, 0, 1)}  # fmt: skip
WARN_STATISTICS = column(
    1, 7.0, 2.5,
    feature(1101, 0.0664, 0.1125, 2.31), feature(402, 0.0411, 0.0813, 1.77),
    feature(77, 0.0323, 0.0625, 1.52), feature(5, 0.0311, 0.05, 1.2),
) | {"histogram_counts": (14, 23, 31, 26, 19, 14, 9, 7, 5, 3, 3, 1, 2, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1)}  # fmt: skip
EXECUTION: Fields = {
    "requested": "auto", "providers": ("CPUExecutionProvider",), "nodes": {"CPUExecutionProvider": 312},
    "runtime": "1.32.0", "device": "cpu", "threads": 8, "precision": "fp32", "fallback_reason": "", "heavy_on_cpu": {},
    "optimization": "all",
}  # fmt: skip


CONTENT = facts.Content(n=50, effective_rank=33.5, relative_variance=0.516, mean_of_rest=0.343)
"""about what CLIP's vectors of varied photos have"""


def evidence(
    statistics: facts.Statistics,
    *,
    model: Fields | None = None,
    preprocessing: Preprocessing = CLIP,
    preprocessing_source: Any = "contract",
    skipped: tuple[tuple[str, str], ...] = (),
    execution: Fields | None = None,
    images: facts.ImageSetFacts | None = None,
    stopped: Any = "decided",
    content: facts.Content | None = CONTENT,
) -> facts.Evidence:
    """Evidence with nothing amiss but the statistics; `model` and `execution` change single facts."""
    of_model: Fields = {
        "file": "models/rn50-openai.onnx", "digest": "sha256:" + "0123456789abcdef" * 4, "external_digests": {},
        "size_bytes": 153_400_000, "opset": {"": 18}, "producer": "pytorch 2.13.0", "tensor": "representation",
        "rule": "encoder_output", "pool": "none", "ends_in": "linear", "why": "the contract in the file names it",
        "tensor_assumed": False, "random_weights": False, "source": "open_clip RN50 (openai)", "synthetic": "",
        "batch_difference": 2e-7, "output_difference": 0.0,
    }  # fmt: skip
    fields = (("size", "224×224", "contract"), ("interpolation", "bicubic", "contract"))
    of_images = facts.ImageFacts(
        source="photos/", bundled=False, n_available=300, n_read=statistics.n_images, n_skipped=len(skipped),
        skipped=skipped, notes={"alpha composited": 3} if skipped else {}, digest="sha256:" + "fedcba9876543210" * 4,
        seed=0, sanity=images or sanity(statistics.n_images),
    )  # fmt: skip
    return facts.Evidence(
        statistics=statistics, model=facts.ModelFacts(**(of_model | (model or {}))),
        preprocessing=facts.PreprocessingFacts(preprocessing=preprocessing, source=preprocessing_source, fields=fields),
        images=of_images, execution=facts.Execution(**(EXECUTION | (execution or {}))), stopped=stopped,
        content=content,
    )  # fmt: skip


def report(
    statistics: Fields,
    *,
    file: str = "models/rn50-openai.onnx",
    source: str = "open_clip RN50 (openai)",
    synthetic: str = "",
    notes: tuple[str, ...] = (),
    findings: tuple[facts.ImageFinding, ...] = (),
    reference: tuple[ReferenceRow, ...] | None = None,
    with_profile: Profile | None = None,
    time: Time | None = None,
    **changes: Any,
) -> Report:
    """A report on the statistics; `changes` are those of `evidence`."""
    judged_by = with_profile or profile()
    measured = facts.Statistics(**statistics)
    model = {"file": file, "source": source, "synthetic": synthetic}
    given = evidence(measured, model=model, images=sanity(measured.n_images, findings), **changes)
    given = but(given, images__bundled=BUNDLED_NOTE in notes)
    return Report(
        tool_version="0.1.0", verdict=judge(given, judged_by), notes=notes, evidence=given, profile=judged_by,
        reference=reference_rows() if reference is None else reference, claim=CLAIM, time=time,
    )  # fmt: skip


def sanity(n_varied: int, findings: tuple[facts.ImageFinding, ...] = ()) -> facts.ImageSetFacts:
    return facts.ImageSetFacts(
        n_images=n_varied, n_compared=n_varied, n_duplicates=0, n_near_duplicates=0, n_varied=n_varied,
        unlike_share=0.0, neighbour_correlation=0.95, gradient_kurtosis=9.0, channel_correlation=0.9,
        kurtosis_spread=0.5, findings=findings,
    )  # fmt: skip


def passing() -> Report:
    return report(PASS_STATISTICS)


def warning() -> Report:
    return report(
        WARN_STATISTICS, file="models/efficientnet-lite0.onnx", source="", preprocessing=IMAGENET,
        preprocessing_source="assumed", notes=(BUNDLED_NOTE,),
        skipped=(("DSC_0001.jpg", "truncated"), ("notes.png", "not an image")),
        execution={"requested": "auto", "fallback_reason": "libcudart.so.13 was not found"},
        time=Time(started="2026-01-02T03:04:05Z", wall_s=12.34, images_per_s=13.0),
    )  # fmt: skip


def undecided() -> Report:
    nodes = {"CUDAExecutionProvider": 308, "CPUExecutionProvider": 4}
    close = {
        "n_images": 300, "strength": interval(6.397, 4.498, 8.3), "kurtosis": interval(9.71, 7.996, 11.42),
        "persistence_ratio": interval(2.11, 1.92, 2.3), "top3_share": interval(0.6588, 0.4977, 0.82),
    }  # fmt: skip
    return report(
        PASS_STATISTICS | close, file="models/vit-b-32-laion2b.onnx", source="open_clip ViT-B-32 (laion2b_s34b_b79k)",
        execution={"requested": "cuda", "providers": (*nodes,), "device": "a GPU", "nodes": nodes},
        stopped="all images",
    )  # fmt: skip


MADE = {"pass": passing, "warn": warning, "undecided": undecided}


def terminal_text(shown: Report, width: int = 100, **options: bool) -> str:
    return printed(render_document(document_of(shown), **options), width)
