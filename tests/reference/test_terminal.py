"""`robustcheck reference`: which rows, in which order, and how they read as table, JSON and CSV."""

from __future__ import annotations

import csv
import io
import json
import re

import pytest
from rich.console import Console, RenderableType

from robustcheck_onnx.checker.cli import app as cli
from robustcheck_onnx.checker.errors import UsageError
from robustcheck_onnx.checker.reference import terminal
from robustcheck_onnx.checker.reference.rows import SORTS, Row, named, reference_rows, select
from robustcheck_onnx.checker.text import short_checkpoint
from robustcheck_onnx.thresholds import published as tables
from robustcheck_onnx.thresholds.reference import references

SMALL = "resnet50.a1_in1k"


def text(renderable: RenderableType, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width, no_color=True, highlight=False)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def names(rows: tuple[Row, ...]) -> list[str]:
    return [row.entry.name for row in rows]


# ------------------------------------------------------------------------------------------------------------- rows


def test_every_published_row_and_every_measured_set_is_there_once() -> None:
    rows = reference_rows()
    published = [row.entry for row in rows if row.entry.library]
    assert published == list(tables.published())
    alone = [row for row in rows if not row.entry.library]
    assert all(row.measured and not row.entry.accuracy for row in alone)
    sets = {s.set for row in rows for s in row.measured}
    assert sets == {s.set for s in references()}
    seen = [s.set for row in alone for s in row.measured]
    assert sorted([*seen, *tables.MEASURED]) == sorted(sets)


def test_measurements_stand_beside_the_weights_they_belong_to() -> None:
    (clip,) = named("ViT-B-32/openai")
    assert {s.set for s in clip.measured} == {
        "chia_b32_flickr8k",
        "cards_b32",
        "watches_b32",
        "imas_imagenet_b32",
        "michaengeser_b32_drawings",
    }
    assert {s.persistent_outlier_features.split()[0] for s in clip.measured} == {"92"}
    (laion,) = named("ViT-B-32/laion2b_s34b_b79k")
    assert [s.set for s in laion.measured] == [
        "ashirvad_openclip_b32_laion2b",
        "fairouz_openclip_b32_laion2b",
        "shopthelook_openclip_b32_laion2b",
    ]
    (other,) = named("ViT-B-32/laion2b_e16")
    assert other.measured == ()


def test_by_default_the_zero_shot_models_and_what_was_measured() -> None:
    rows = select()
    assert sum(row.entry.group == "zero_shot_clip" for row in rows if row.entry.library) == 121
    assert all(row.measured for row in rows if row.entry.group != "zero_shot_clip")
    assert {s.set for row in rows for s in row.measured} == {s.set for s in references()}
    assert len(rows) < 190
    assert len(select(everything=True)) == len(reference_rows()) > 2016


def test_filters() -> None:
    assert len(select(group="in1k_only")) == 1087
    found = select("vit-l-14 OPENAI")
    assert set(names(found)) >= {"ViT-L-14/openai", "ViT-L-14-336/openai"}
    assert all("vit-l-14" in row.entry.name.lower() for row in found if row.entry.library)
    assert set(names(select(SMALL, group="in1k_only"))) == {SMALL, f"se{SMALL}"}
    shown = {s.set for row in select("dinov2") for s in row.measured}
    assert shown >= {s.set for s in references() if "DINOv2" in s.checkpoint and "the same" not in s.checkpoint}


def test_numbers_sort_downwards_names_upwards_and_the_unknown_stand_last() -> None:
    rows = select(sort="mean")
    values = [row.entry.mean_pp for row in rows if row.entry.mean_pp is not None]
    assert values == sorted(values, reverse=True)
    assert [row.entry.mean_pp for row in rows[len(values) :]] == [None] * (len(rows) - len(values))
    assert len(values) < len(rows)
    upwards = select(sort="mean", reverse=True)
    assert [row.entry.mean_pp for row in upwards[: len(values)]] == sorted(values)
    assert upwards[-1].entry.mean_pp is None
    models = names(select(sort="model", group="in1k_only"))
    assert models == sorted(models, key=str.lower)
    best = select(sort="objectnet", everything=True)[0].entry
    assert best.effective_robustness_pp["objectnet"] == max(
        row.effective_robustness_pp.get("objectnet", -100) for row in tables.published()
    )


def test_measured_statistics_sort_by_their_largest_value() -> None:
    first = select(sort="ratio")[0]
    assert [s.set for s in first.measured] == ["decoyer_b32_finetuned"]  # the largest ratio of the reference table
    assert max(s.persistence_ratio for s in references()) == first.measured[0].persistence_ratio
    assert max(references(), key=lambda s: s.kurtosis).set == "run_vgg16_tumor_pool5"
    assert [s.set for s in select(sort="kurtosis")[0].measured] == ["run_vgg16_tumor_pool5"]
    # 273.3 of 20 product photos is no evidence, so it does not come second
    assert [s.set for s in select(sort="kurtosis")[1].measured] == ["decoyer_b32_finetuned"]


@pytest.mark.parametrize("column", list(SORTS))
def test_every_column_sorts_all_rows(column: str) -> None:
    assert len(select(sort=column, everything=True)) == len(reference_rows())


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        ({"group": "zero_shot"}, "--group is 'zero_shot'; it must be one of bad_export, ", "--group zero_shot_clip"),
        ({"sort": "men"}, "--sort is 'men'; it must be one of mean, model, ", "--sort mean"),
        (
            {"text": "ViT-B-32/opena1"},
            "reference name is 'ViT-B-32/opena1'; none of the ",
            "robustcheck reference ViT-B-32/openai",
        ),
        (
            {"text": "clip", "group": "face"},
            "reference name is 'clip'; none of the ",
            "robustcheck reference",
        ),
    ],
)
def test_bad_filters_are_named_with_the_next_step(arguments: dict[str, str], message: str, hint: str) -> None:
    with pytest.raises(UsageError) as fault:
        select(**arguments)  # type: ignore[arg-type]
    assert fault.value.message.startswith(message)
    assert fault.value.hint.startswith(hint)
    assert fault.value.exit_code == 2


def test_a_name_is_a_checkpoint_a_model_or_a_measured_set() -> None:
    assert names(named("openai/clip-vit-base-patch32")) == ["ViT-B-32/openai"]
    assert len(named("ViT-L-14")) == 8
    assert names(named("facenet512_celeb")) == ["FaceNet (keras_facenet FaceNet(), Inception-ResNet v1)"]
    assert names(named("SigLIP SO400M/14-384")) == ["ViT-SO400M-14-SigLIP-384/webli"]


def test_an_unknown_name_lists_the_nearest() -> None:
    assert named("vit-b-32/openia") == ()
    with pytest.raises(UsageError) as fault:
        select("vit-b-32/openia")
    assert fault.value.message.startswith(
        "reference name is 'vit-b-32/openia'; none of the 2073 rows has this in its name, closest: ViT-B-32/openai, "
    )
    assert fault.value.hint == "robustcheck reference ViT-B-32/openai"
    with pytest.raises(UsageError) as fault:
        select("?")
    assert fault.value.hint == "robustcheck reference --all"


# ---------------------------------------------------------------------------------------------------------- terminal


@pytest.mark.parametrize("width", [80, 100, 120, 200])
@pytest.mark.parametrize("ascii_only", [False, True])
def test_no_line_is_wider_than_the_console_and_nothing_is_lost(width: int, ascii_only: bool) -> None:
    rows = select()
    shown = text(terminal.render_table(rows, ascii_only=ascii_only), width)
    assert max(map(len, shown.splitlines())) <= width
    assert all(line == line.rstrip() for line in shown.splitlines())
    assert shown.isascii() is ascii_only
    table = shown.splitlines()[2 : 2 + len(rows)]  # a line a row
    for row, line in zip(rows, table, strict=True):
        name = (row.entry.name if row.entry.library else short_checkpoint(row.entry.model)).encode("ascii", "ignore")
        assert line.strip().startswith(name.decode()[:12])
        if row.entry.mean_pp is not None:
            assert f"{row.entry.mean_pp:+.1f}" in line


def test_a_row_of_the_wide_table() -> None:
    shown = text(terminal.render_table(select("ViT-B-32 openai", group="zero_shot_clip", sort="model")), 160)
    (found,) = [line for line in shown.splitlines() if line.split()[:1] == ["ViT-B-32/openai"]]
    assert found.split()[1:] == ["63.3", "+5.4", "+28.0", "+44.8", "+30.5", "+24.0", "+27.2", "35.8–140", "8.27–22.3"]
    assert shown.splitlines()[0] == "Reference suite  2 of 2073 rows; IN: ImageNet top-1 in per cent"
    assert "decides a verdict" in shown


def test_the_group_is_a_column_only_where_groups_differ() -> None:
    assert "zero-shot" not in text(terminal.render_table(select(group="zero_shot_clip")), 160)
    mixed = text(terminal.render_table(select()), 160)
    assert "zero-shot" in mixed
    assert "supervised" in mixed


def test_the_narrow_table_has_the_mean_alone_and_cuts_long_names() -> None:
    shown = text(terminal.render_table(select("ViT-B-32 openai", group="zero_shot_clip", sort="model")), 80)
    header, *lines = [line.split() for line in shown.splitlines()[1:]]
    assert header == ["checkpoint", "IN", "mean", "K", "K/Kc"]
    assert ["ViT-B-32/openai", "63.3", "+27.2", "35.8–140", "8.27–22.3"] in lines
    (long,) = [line for line in text(terminal.render_table(select()), 80).splitlines() if "contrastively" in line]
    assert long.split("…")[0] == "  OpenAI CLIP ViT-B/32, contrastively fin"
    assert long.split("…")[1].split()[0] == "–"
    for width in (1, 10, 20, 40, 60):
        assert text(terminal.render_table(select()), width)  # cropped, but no error


def test_rows_that_are_left_out_are_counted() -> None:
    rows = select()
    shown = text(terminal.render_table(rows, at_most=20), 80)
    assert shown.splitlines()[0] == "Reference suite  20 of 2073 rows; IN: ImageNet top-1 in per cent"
    assert "  --all shows every row\n" in shown
    assert "--all" not in text(terminal.render_table(rows[:20], at_most=20), 80)


def test_the_command_shows_twenty_rows_or_those_of_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    def rows_of(*words: str) -> list[str]:
        assert cli.main(["reference", *words]) == 0
        out = capsys.readouterr().out
        return re.findall(r"^  (\S.*?)  +(?:\d\d\.\d|–)  ", out, re.MULTILINE)

    assert len(rows_of()) == 20
    assert len(rows_of("--all")) == len(reference_rows())
    assert len(rows_of("clip")) == 20
    assert all("siglip" in name.lower() for name in rows_of("siglip"))
    assert rows_of("siglip", "webli") == rows_of("siglip webli")
    assert len(rows_of("clip", "--all")) > 100
    assert cli.main(["reference", "ViT-B-32/openai"]) == 0
    assert capsys.readouterr().out.startswith("ViT-B-32/openai · open_clip · group zero_shot_clip\n")
    assert cli.main(["reference", "-o", "json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["rows"]) == len(select())


def test_extrapolated_values_are_marked_and_the_mark_is_explained() -> None:
    below = text(terminal.render_table(named("RN50/yfcc15m")))
    assert "+8.6*" in below
    assert "* extrapolated: ImageNet accuracy below 55 %" in below
    inside = text(terminal.render_table(named("ViT-B-32/openai")))
    assert "*" not in inside


def test_measurements_that_take_no_part_are_in_parentheses() -> None:
    shown = text(terminal.render_table(named("cbir_resnet50_v2")))
    assert "(273)" in shown
    assert "(1.51)" in shown
    assert "in parentheses where no set was used" in shown
    assert "parentheses" not in text(terminal.render_table(named(SMALL)))


def test_the_details_of_one_checkpoint() -> None:
    (row,) = named("ViT-B-32/openai")
    shown = text(terminal.render_one(row), 80)
    lines = {line.split()[0]: line.split()[1:] for line in shown.splitlines() if line.startswith("  ")}
    assert shown.splitlines()[0] == "ViT-B-32/openai · open_clip · group zero_shot_clip"
    assert lines["ImageNet"] == ["63.3"]
    # 63.32 % on ImageNet: sigmoid(0.9059 · logit − 0.4737) = 50.5 %, and 55.92 % were reached
    assert lines["V2"] == ["55.9", "50.5", "+5.4", "0.4"]
    assert lines["ObjectNet"] == ["44.3", "20.3", "+24.0", "2.1"]
    assert "mean V2, Sketch, R, A" in shown
    assert lines["cards_b32"] == ["162×512", "41.4", "10.6", "0.933", "0.487", "92"]
    flat = re.sub(r"\s", "", shown)
    for unit in ("Effective robustness and residual SD: percentage points.", "K, K/Kc: activation kurtosis and"):
        assert unit.replace(" ", "") in flat
    assert "mlfoundations/open_clip@89fb801f1e60:docs/openclip_results.csv" in flat
    assert "geraldno20/cards@e0144b55c4:image_embeddings.npz" in flat
    assert text(terminal.render_one(row, ascii_only=True), 80).isascii()


def test_details_say_what_is_not_known() -> None:
    (measured,) = named("esthetics_dinov2_s14")
    shown = text(terminal.render_one(measured))
    assert "No accuracies of this checkpoint are in the published tables." in shown
    assert "Published" not in shown
    (dino,) = named("resmlp_24_224.fb_dino")
    lines = [line.split() for line in text(terminal.render_one(dino)).splitlines()]
    assert ["ImageNet", "–"] in lines
    assert ["A", "0.5"] in lines  # an accuracy, but no ImageNet accuracy to compare it with
    (partial,) = named("resnet50.tv_in1k")
    assert [line.split() for line in text(terminal.render_one(partial)).splitlines() if line.startswith("  A ")] == [
        ["A", "–"]
    ]


def test_a_name_of_several_is_a_table_and_of_one_the_details_at_every_size() -> None:
    assert text(terminal.render_named(named("ViT-L-14"))).startswith("Reference suite  8 of ")
    shown = text(terminal.render_named(named(SMALL)))
    heads = [line for line in shown.splitlines() if line.startswith(SMALL)]
    assert heads == [f"{SMALL} · timm · group in1k_only · {size} px" for size in (288, 224)]


# --------------------------------------------------------------------------------------------------------- documents


def test_json_holds_rows_baselines_and_sources() -> None:
    rows = select()
    document = json.loads(terminal.to_json(rows), parse_constant=pytest.fail)
    assert document["schema"] == "robustcheck.reference/1"
    assert document["baselines"]["objectnet"]["n"] == 85
    assert document["sources"] == tables.sources()
    assert len(document["rows"]) == len(rows)
    (clip,) = [row for row in document["rows"] if (row["model"], row["weights"]) == ("ViT-B-32", "openai")]
    assert clip["accuracy"]["imagenet1k"] == 0.6332
    assert clip["effective_robustness_pp"]["imagenetv2"] == pytest.approx(5.4, abs=0.05)
    assert clip["effective_robustness_mean_pp"] == pytest.approx(27.2, abs=0.05)
    assert [s["persistent_outlier_features"][0] for s in clip["measured"]] == [92] * 5
    dino = next(row for row in document["rows"] if row["model"].startswith("DINOv2"))
    assert set(dino["accuracy"].values()) == {None}
    assert (dino["library"], dino["effective_robustness_mean_pp"], dino["source"]) == (None, None, None)
    assert terminal.to_json(rows) == terminal.to_json(select())
    assert terminal.to_json(rows).endswith("}\n")


def test_csv_has_a_line_a_row_and_the_values_of_the_json() -> None:
    rows = select(everything=True)
    table = list(csv.DictReader(io.StringIO(terminal.to_csv(rows))))
    document = json.loads(terminal.to_json(rows))["rows"]
    assert len(table) == len(document) == len(rows)
    for line, row in zip(table, document, strict=True):
        assert (line["model"], line["weights"]) == (row["model"], row["weights"] or "")
        mean = row["effective_robustness_mean_pp"]
        assert line["er_mean_pp"] == ("" if mean is None else str(mean))
        assert line["extrapolated"].split() == row["extrapolated"]
    (clip,) = [line for line in table if (line["model"], line["weights"]) == ("ViT-B-32", "openai")]
    assert (clip["kurtosis_min"], clip["persistence_ratio_max"]) == ("35.83", "22.26")
    (resnet,) = [
        line for line in table if line["measured_sets"] == "cbir_resnet50_v2" and line["image_size_px"] == "224"
    ]
    assert resnet["kurtosis_max"] == ""  # its one set takes no part in fitting
