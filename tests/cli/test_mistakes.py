"""What people type who don't know the command, or knew an earlier one, with exit code and hint. Each hint leads on."""

import json
import re
import shutil
from pathlib import Path

import pytest

from robustcheck_onnx.checker.cli import help, options
from robustcheck_onnx.checker.errors import CannotAssessError
from robustcheck_onnx.checker.evidence import CLIP
from robustcheck_onnx.checker.measure import run as measure
from robustcheck_onnx.exporters import run as exporter
from support import Patch
from support.bad_input import Run, agrees

TABLE = """
photos  =>  2  =>  robustcheck model.onnx --images photos
photos pass.onnx  =>  2  =>  robustcheck pass.onnx --images photos
pass.onnx both  =>  2  =>  robustcheck pass.onnx --images both
pass.onnx photos --images photos  =>  2  =>  robustcheck pass.onnx --images photos
pass.onnx both/a.png both/b.png  =>  2  =>  robustcheck pass.onnx --images both
--strict pass.onnx photos  =>  2  =>  robustcheck check --strict --images photos -- pass.onnx
pass.onnx -o json report.json  =>  2  =>  -o report.json
compare pass.onnx warn.onnx photos  =>  2  =>  robustcheck compare pass.onnx warn.onnx --images photos
compare pass.onnx --images photos  =>  2  =>  robustcheck compare candidate.onnx reference.onnx
verify pass.onnx report.json  =>  2  =>  robustcheck verify report.json pass.onnx
pass.onnx gone.onnx  =>  2  =>  ls .
pas.onnx  =>  2  =>  Did you mean pass.onnx?
modls/v1.onnx  =>  2  =>  Did you mean models/v1.onnx?
models/v2.onnx  =>  2  =>  ls models
pass  =>  2  =>  robustcheck pass.onnx
openai/clip-vit-base-patch32  =>  2  =>  Did you mean hf://openai/clip-vit-base-patch32?
model.tar.gz  =>  3  =>  mkdir -p model && tar xf model.tar.gz -C model && robustcheck model
model.onnx.gz  =>  3  =>  gunzip --keep model.onnx.gz
model.zip  =>  3  =>  mkdir -p model && unzip model.zip -d model && robustcheck model
model.pt  =>  3  =>  export the model with its weights: robustcheck export --help
model.engine  =>  3  =>  name the ONNX file that the engine was built from
model.tflite  =>  3  =>  python -m tf2onnx.convert --tflite model.tflite --output model.onnx
pass.onnx --images phtos  =>  2  =>  --images photos
pass.onnx --images photos --preprocess CLIP  =>  2  =>  --preprocess clip
pass.onnx --images photos --preprocess pre.jsn  =>  2  =>  --preprocess pre.json
pass.onnx --images photos --preprocess pre.json  =>  2  =>  robustcheck explain preprocessing
pass.onnx --data photos  =>  2  =>  robustcheck check pass.onnx --images photos
pass.onnx -i photos  =>  2  =>  robustcheck check pass.onnx --images photos
pass.onnx photos --gpu  =>  2  =>  robustcheck check pass.onnx photos --device cuda
pass.onnx photos --gpu 1  =>  2  =>  robustcheck check pass.onnx photos --device cuda:1
pass.onnx photos --provider cpu  =>  2  =>  robustcheck check pass.onnx photos --device cpu
pass.onnx photos --device CUDAExecutionProvider  =>  2  =>  --device cuda
pass.onnx photos --device gpu  =>  2  =>  --device cuda
pass.onnx photos --device 0  =>  2  =>  --device cuda:0
pass.onnx photos --size 224  =>  2  =>  robustcheck explain preprocessing
explain strenght  =>  2  =>  robustcheck explain strength
explain persistance  =>  2  =>  robustcheck explain persistence
explain two-sidednes  =>  2  =>  robustcheck explain two-sidedness
pass.onnx photos --layer representation  =>  2  =>  robustcheck check pass.onnx photos --tensor representation
pass.onnx photos --limit 60  =>  2  =>  robustcheck check pass.onnx photos --max-images 60
pass.onnx photos --batch 8  =>  2  =>  robustcheck check pass.onnx photos --batch-size 8
pass.onnx photos --format json  =>  2  =>  robustcheck check pass.onnx photos --output json
pass.onnx photos --html r.html  =>  2  =>  robustcheck check pass.onnx photos -o html=r.html
pass.onnx photos --soft-fail  =>  2  =>  robustcheck check pass.onnx photos --fail-on never
--model pass.onnx --images photos  =>  2  =>  robustcheck check pass.onnx --images photos
compare pass.onnx --reference warn.onnx  =>  2  =>  robustcheck compare pass.onnx warn.onnx
doctor --gpu  =>  2  =>  robustcheck doctor --help
pass.onnx photos --verbos  =>  2  =>  robustcheck check pass.onnx photos --verbose
pass.onnx photos --xyzzy  =>  2  =>  robustcheck check --help
--Version  =>  2  =>  robustcheck --version
pass.onnx photos -o JSON  =>  2  =>  --output json
pass.onnx photos --seed 1 --seed 2  =>  2  =>  keep one --seed
pass.onnx photos --timeout 10m  =>  2  =>  --timeout SECONDS: …
pass.onnx --images  =>  2  =>  robustcheck check --help
shift pass.onnx  =>  2  =>  robustcheck shift pass.onnx --in photos/
export torchvision resnet50  =>  2  =>  robustcheck export torchvision resnet50 -o model.onnx
diff pass.onnx warn.onnx  =>  2  =>  robustcheck compare pass.onnx warn.onnx
run pass.onnx  =>  2  =>  robustcheck check pass.onnx
quantize pass.onnx  =>  2  =>  robustcheck export onnx -o int8.onnx --precision int8-dynamic pass.onnx
info pass.onnx  =>  2  =>  robustcheck inspect pass.onnx
convert model.pt  =>  2  =>  robustcheck export --help
resnet50  =>  2  =>  robustcheck --help
"""
MEASURES = "it would measure now"


@pytest.fixture
def _world(here: Path, monkeypatch: Patch) -> None:
    """Files of people who begin, and an error in place of each measurement."""
    for name in ("both", "models"):
        (here / name).mkdir()
        shutil.copy("pass.onnx", f"{name}/v1.onnx")
    for name, content in {
        "both/a.png model.tar.gz model.onnx.gz both/b.png": b"x",
        "model.zip model.pt": b"PK\3\4",
        "model.engine": b"ftrt",
        "model.tflite": b"\0\0\0\0TFL3",
        "pre.json": b'{"size": 64}',
    }.items():
        for each in name.split():
            (here / each).write_bytes(content)

    def refuse(*_: object, **__: object) -> None:
        raise CannotAssessError(MEASURES)

    for module, name in ((measure, "open_sessions"), (measure, "open_job"), (exporter, "run")):
        monkeypatch.setattr(module, name, refuse)


def typed_again(typed: str, hint: str) -> str:
    """The command line after a hint; "" where it is not a command of ours."""
    if command := re.fullmatch(r"robustcheck (.*)|Did you mean (.*)\?", hint):
        return command[1] or command[2]
    if not re.match(r"-[^:]*$|--device cuda:0", hint):
        return ""
    name = hint.split(maxsplit=1)[0]
    return f"{re.sub(rf'(-o json|-o JSON|{name}) ?[^ ]*', '', typed)} {hint}"


@pytest.mark.usefixtures("_world")
def test_each_mistake_has_a_hint_that_leads_on_and_nothing_is_measured_before(run: Run) -> None:
    wrong: dict[str, object] = {}
    rows = [line.split("  =>  ") for line in TABLE.strip().splitlines()]
    for typed, code, hint in rows:
        done = run(typed)
        error, found = re.findall(r"^(?:error|hint): (.*)", done.stderr, re.MULTILINE)[-2:]
        again = typed_again(typed, found)
        if str(done.returncode) != code or not agrees(hint, found) or MEASURES in done.stderr:
            wrong[typed] = (done.returncode, error, found)
        elif again and error in run(again).stderr:
            wrong[typed] = f"{again} ends in the same error"
    assert (len(rows) >= 55, wrong) == (True, {})


def test_a_last_place_with_photos_is_the_images_and_a_suffix_is_the_form(run: Run) -> None:
    Path("list.txt").write_text("\n".join(map(str, Path("photos").iterdir())), encoding="utf-8")
    for place, name, start in (
        ("photos/", "r.json", '{\n  "schema_version": 2'),
        ("list.txt", "r.html", "<!DOCTYPE html>"),
        ("photos/*.png", "r.xml", "<?xml"),
        ("photos", "r.md", "<!-- robustcheck"),
    ):
        done = run(f"pass.onnx --json '{place}' -o {name} --")
        settings = json.loads(done.stdout)["binding"]["settings"]
        assert (done.returncode, settings["images"]) == (0, place)
        assert Path(name).read_text(encoding="utf-8").startswith(start)
    assert run("pass.onnx photos -- --json").returncode == 2  # a file of that name


def test_the_example_of_a_preprocessing_file_and_one_number_for_a_square(run: Run) -> None:
    (example,) = re.findall(r"^{.*^}", run("explain preprocessing").stdout, re.MULTILINE | re.DOTALL)
    values = json.loads(example)
    assert values == json.loads(CLIP.model_dump_json(include=set(values)))
    Path("own.json").write_text(json.dumps(values | {"size": 64, "resize_size": 64, "std": 0.5}), encoding="utf-8")
    report = json.loads(run("pass.onnx photos --preprocess own.json --json").stdout)
    stated = report["evidence"]["preprocessing"]["preprocessing"]
    assert [stated[name] for name in ("size", "resize_size", "std")] == [[64, 64], [64, 64], [0.5] * 3]


VALUE = {"--alias": "x", "--beside": "x.onnx", "--detector": "x", "--engine": "ray", "--workers": "2"}
SHOW = "check --show-settings"


def test_a_removed_word_is_answered(ends: Run) -> None:
    def answered(call: str, what: str, line: str, **variables: str) -> None:
        done = ends(2, call, **variables)
        assert done.stdout + done.stderr == f"error: {what} was removed\nhint: {line}\n"

    for verb, line in help.REMOVED_VERBS.items():
        answered(verb, f"command {verb}", line)
    for option, line in options.REMOVED_OPTIONS.items():
        verb = "shift" if option in ("--beside", "--temperature") else "check"
        answered(f"{verb} model.onnx {option} {VALUE.get(option, '')}", f"option {option}", line)
    for form, line in options.REMOVED_FORMS.items():
        answered(f"model.onnx -o {form}", f"form {form}", line)
    for variable, line in options.REMOVED_VARIABLES.items():
        answered(SHOW, f"environment: variable {variable}", line, **{variable: "1"})
    for key, line in options.REMOVED_KEYS.items():
        Path("robustcheck.toml").write_text(f"{key} = true\n")
        answered(SHOW, f"robustcheck.toml: key {key}", line)


def test_a_file_may_have_a_removed_name(ends: Run) -> None:
    Path("text.onnx").rename("reference")
    assert "was removed" not in ends(3, "reference").stderr
