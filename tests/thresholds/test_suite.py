"""Suite files: labels follow from published accuracies, and whatever contradicts itself is refused by name."""

import re
from pathlib import Path

import pytest

from robustcheck_onnx.thresholds import published, suite
from robustcheck_onnx.thresholds.suite import LabelRule, SuiteError, label_from, open_suite
from support import raised
from support.repository import load

PAPER = open_suite("paper")

HEAD = 'schema_version = 1\nname = "mine"\n'
ONE = '[[models]]\nmodel = "a.onnx"\ngroup = "other"\nlabel = "present"\n'


def written(folder: Path, text: str) -> Path:
    path = folder / "suite.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.long
def test_the_packaged_suite_is_what_its_command_writes() -> None:
    """Every entry has weights in the installed open_clip or timm, and no tag of the paper's is left out."""
    pytest.importorskip("open_clip", reason="extra `export` is not installed")
    assert suite.PACKAGED["paper"].read_text(encoding="utf-8") == load("benchmarks/build_paper_suite").text()


def test_the_packaged_suite_covers_the_papers_encoders_and_controls() -> None:
    wanted = {
        *("RN50/openai", "RN50/yfcc15m", "RN50/cc12m", "RN101/openai", "RN101/yfcc15m", "ViT-B-32/openai"),
        *("ViT-B-32/laion400m_e32", "ViT-B-32/laion2b_s34b_b79k", "ViT-B-32/datacomp_xl_s13b_b90k", "ViT-B-16/openai"),
        *("ViT-B-16/laion400m_e32", "ViT-B-16/laion2b_s34b_b88k", "ViT-B-16/datacomp_xl_s13b_b90k", "ViT-L-14/openai"),
        *("ViT-L-14/laion400m_e32", "ViT-L-14/laion2b_s32b_b82k", "ViT-L-14/datacomp_xl_s13b_b90k"),
        *("vit_base_patch16_clip_224.openai_ft_in1k", "vit_base_patch14_dinov2.lvd142m", "resnet50.a1_in1k"),
    }
    assert wanted <= {member.id.partition(":")[2] for member in PAPER.members}
    hard = {member.id for member in PAPER.members if member.entry.hard_case}
    assert {"open_clip:ViT-bigG-14/laion2b_s39b_b160k", "timm:deit3_base_patch16_224.fb_in1k"} <= hard


def test_every_published_row_is_the_checkpoints_own() -> None:
    """Named by hand in the file, found by the exporter's names in the tables."""
    for member in PAPER.members:
        entry, name = member.entry, str(member.entry.name)
        if entry.published is None:
            assert entry.label is not None
        else:
            found = published.find(str(entry.source), name, entry.weights or name.partition(".")[2])
            assert suite.published_row(member.id, entry.published).name in {row.name for row in found}, member.id


def test_labels_follow_from_mean_effective_robustness() -> None:
    """Every zero-shot CLIP encoder of 55 % or more is present, every ImageNet-1k-only model of timm's absent."""
    for member in PAPER.members:
        if member.entry.label is None and not member.extrapolated:
            assert member.label == label_from(member.effective_robustness_pp or 0.0, PAPER.suite.labels), member.id
    rule = LabelRule()
    labels = ["present", "unlabelled", "unlabelled", "absent"]
    assert [label_from(pp, rule) for pp in (20.0, 19.99, 10.0, 9.99)] == labels
    found = {
        (row.library, row.group, label_from(row.mean_pp, rule))
        for row in published.published()
        if row.mean_pp is not None and row.accuracy[published.IMAGENET] >= 0.55
    }
    assert {label for _, group, label in found if group == "zero_shot_clip"} == {"present"}
    assert {label for library, group, label in found if (library, group) == ("timm", "in1k_only")} == {"absent"}


def test_own_accuracies_give_the_label_of_the_row_they_are_copied_from(tmp_path: Path) -> None:
    for key, label in (("open_clip:ViT-B-32/openai", "present"), ("timm:resnet50.a1_in1k", "absent")):
        row = suite.published_row("x", key)
        pairs = ", ".join(f"{name} = {value}" for name, value in row.accuracy.items())
        opened = open_suite(
            written(tmp_path, f'{HEAD}[[models]]\nmodel = "a.onnx"\ngroup = "other"\naccuracies = {{ {pairs} }}\n')
        )
        member = opened.members[0]
        assert member.label == label
        assert member.effective_robustness_pp == pytest.approx(row.mean_pp)


def test_ids_and_paths(tmp_path: Path) -> None:
    text = HEAD + ONE + '[[models]]\nsource = "timm"\nname = "resnet18"\nrandom_weights = true\ngroup = "untrained"\n'
    opened = open_suite(written(tmp_path, text + 'label = "absent"\ncheckpoint = "r18"\n'))
    assert [(m.id, m.checkpoint) for m in opened.members] == [("a", "a"), ("timm:resnet18/random", "r18")]
    assert opened.folder == tmp_path


GOOD = 'group = "other"\nlabel = "present"\n'


BAD = (  # HEAD stands before each that has no schema of its own
    ("x = [", "suite is not TOML"),
    ('schema_version = 2\nname = "a"', "schema_version is 2; this robustcheck reads 1"),
    ("", "models: Field required"),
    (ONE + 'wieghts = "x"\n', "key models.0.wieghts is unknown; the closest is weights"),
    (ONE + ONE, "id a occurs 2 times; ids must differ"),
    (f'[[models]]\nsource = "timm"\n{GOOD}', "it takes either an ONNX file, or source and name"),
    (f'[[models]]\nsource = "tim"\nname = "x"\n{GOOD}', "source is 'tim'; it must be one of open_clip"),
    (ONE.replace('"other"', '"zeroshot_clip"'), "group is 'zeroshot_clip'; it must be one of"),
    (ONE.replace('label = "present"', ""), "label is missing, and no mean effective robustness is known"),
    (ONE.replace('"present"', '"robust"'), "label: Input should be 'present', 'absent' or 'unlabelled'"),
    (ONE + 'id = "a (b)"\n', "it must be printable and have no parenthesis"),
    (ONE + "accuracies = { imagenet1k = 76.1 }\n", "accuracy on imagenet1k is 76.1; it must be a fraction"),
    (ONE + "accuracies = { sketch = 0.3 }\n", "accuracies lack imagenet1k"),
    (
        ONE + 'published = "open_clip:ViT-B-32/opanai"\n',
        "no row of the published accuracies has that name, closest: open_clip:ViT-B-32/openai",
    ),
    (
        ONE + 'published = "timm:resnet50.a1_in1k"\n',
        "label is present, but mean effective robustness is -2.9 percentage points; present is from +20",
    ),
    (
        ONE.replace("present", "absent") + 'published = "open_clip:ViT-B-32/openai"\n',
        "label is absent, but mean effective robustness is +27.2 percentage points; absent is below +10",
    ),
)


def test_bad_suites_are_refused(tmp_path: Path) -> None:
    for text, message in BAD:
        path = written(tmp_path, text if "schema_version" in text else HEAD + text)
        caught = raised(SuiteError, re.escape(message), open_suite, path)
        assert str(caught).startswith(f"{path}: ")
        assert "\n" not in str(caught)


def test_unreadable_suites_are_refused(tmp_path: Path) -> None:
    assert raised(SuiteError, "papper: suite cannot be read", open_suite, "papper").hint == "--suite paper"
    path = tmp_path / "suite.toml"
    path.write_bytes(b"\xff\xfe")
    raised(SuiteError, "not UTF-8 text", open_suite, path)
