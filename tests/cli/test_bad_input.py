"""Bad input: one clear error, the right exit code, nothing half-written. A table of calls, typed in this process."""

import json
import os
import re
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from robustcheck_onnx.thresholds import profile as thresholds
from support import PATIENCE_S, Capture, Patch, bad_input, code_in, extra, lookup, robustcheck
from support.bad_input import Run, assert_says, contents, small_files, without_progress

# What a reader says of a file is in the tests of model/ and images/; here a file of each kind goes through the command.
# A call of export is checked before any library is imported.
CALLS = {
    "DEEP": "aa/" * 1300 + "x.onnx",
    "CHECK": "pass.onnx --images photos",
    "SMALLER": "export onnx pass.onnx -o m.onnx",
}
TABLE = """
'no folder/x.onnx' => 2 => ls . => no folder/x.onnx: no such file
'a\x1b[31m.onnx' => 2 => ls . => a\\x1b[31m.onnx: no such file
'\udcff.onnx' => 2 => ls . => \\udcff.onnx: no such file
DEEP => 2 => ls . => aa/…/x.onnx: no such file
edge.onnx --images photos --device cpu => 3 => robustcheck inspect edge.onnx => edge.onnx: ONNX Runtime … refuses the
    model: …'conv.wxight'…
pipe => 2 => ls -lL pipe => pipe: model is a device or pipe; a regular file is needed
folder => 2 => find folder -name '*.onnx' => folder: no .onnx files found in the folder; at least one is needed
short/m.onnx => 3 => copy or download m.onnx.data again => short/m.onnx: weights file m.onnx.data is … bytes; tensor
    'fc.bias' ends at byte …, so it is truncated
op.onnx => 3 => export with standard operators; custom operator libraries are not loaded => op.onnx: node 'out' uses
    operator ai.onnx:Flour; ONNX Runtime … has no such operator (closest: Floor)
noinput.onnx => 3 => export the vision encoder alone: robustcheck export --help => noinput.onnx: input is none; an
    image input (batch, 3, height, width) is needed
several.onnx => 3 => export the vision encoder alone: robustcheck export --help => several.onnx: inputs are image float
    (?, 3, 8, 8), t float (?, 16); y needs image, t; an output must need the image input alone
constant.onnx --images five => 3 => robustcheck inspect constant.onnx => constant.onnx: number of finite, not constant
    representations is 0 of 5; at least one is needed
reshape.onnx => 3 => robustcheck inspect reshape.onnx => reshape.onnx: ONNX Runtime … refuses the model: Non-zero
    status code returned while running Reshape node. The input tensor cannot be reshaped to the requested shape. Input
    shape:{…,3,8,8}, requested shape:{-1,1000003}
huge.onnx => 4 => free -h, or nvidia-smi for a GPU; --device cpu where the GPU is the smaller one => huge.onnx: memory
    ran out (1099511627776 bytes were asked for); the model must fit with one image …
c_deep.onnx => 3 => export the model again with `robustcheck export` => c_deep.onnx: contract is nested too deeply;
    metadata robustcheck.contract must hold one JSON object
side/m.onnx => 2 => python -m json.tool side/m.robustcheck.json => side/m.robustcheck.json: content is not readable
    JSON (…); a preprocessing file must be
profiles show gone -o terminal => 2 => … => gone: threshold profile cannot be read (…)
pass.onnx --images some => 3 => repair or remove them, or allow more: --max-bad SHARE => some: number of unusable
    images is 4 of … (bad….png: damaged: …); at most 1.00% may be
pass.onnx --images complex.npy => 2 => save float32 images (batch, channel, height, width) with numpy.save =>
    complex.npy: array: dtype is complex64; it must be float or unsigned integer
pass.onnx --images size.npy => 2 => robustcheck inspect pass.onnx => size.npy#…: tensor (channel, height, width) is (3,
    32, 32); pass.onnx takes (3, 64, 64)
pass.onnx --images nan.npy => 3 => name a set of photos: --images FOLDER => nan.npy: no usable images among 6
    (nan.npy#…: values that are not finite; …); at least one is needed
pass.onnx --images short.tar => 3 => tar tf short.tar => short.tar: tar file is damaged (…); shards must be whole,
    plain tar files
pass.onnx --images gone.csv => 2 => ls -l photos/nope.png  # paths are relative to the folder of gone.csv => gone.csv:
    row 3: path is photos/nope.png; there is no such file
CHECK --preprocess p_size.json => 2 => give this model's own preprocessing, of size [64, 64], with --preprocess FILE =>
    p_size.json: size is 32×32; the model's input is 64×64 (height×width)
CHECK --thresholds text.npy => 2 => leave out --thresholds for the default profile => text.npy: threshold profile is
    not JSON (…)
CHECK --thresholds deep.jsonl => 2 => leave out --thresholds for the default profile => deep.jsonl: threshold profile
    is nested too deeply; it must be a sealed profile
CHECK --tensor representatoin => 2 => robustcheck inspect pass.onnx --tensor representation => pass.onnx: --tensor is
    'representatoin'; no tensor of that name is computed from the image
CHECK --device nonsense => 2 => --device auto => --device is 'nonsense'; it must be auto, cpu, cuda, cuda:N or
    tensorrt, or another execution provider that the installed ONNX …
CHECK --device cudaa => 2 => --device cuda => --device is 'cudaa'; it must be auto, cpu, cuda, cuda:N or tensorrt, …
CHECK --device openvno => 2 => --device openvino => --device is 'openvno'; it must be auto, cpu, cuda, cuda:N or
    tensorrt, …
CHECK --device cuda:x => 2 => --device cuda:0 => --device is 'cuda:x'; a device's number follows the colon
CHECK --device cuda: => 2 => --device cuda => --device is 'cuda:'; it must be auto, cpu, cuda, cuda:N or tensorrt, …
CHECK --device cpu:1 => 2 => --device cpu, or --device cuda => --device is 'cpu:1'; cpu has no number and no options
CHECK --device auto,use_tf32=1 => 2 => --device auto, or --device cuda => --device is 'auto,use_tf32=1'; auto has no
    number and no options
CHECK --device '' => 2 => --device auto => --device is ''; it must be auto, cpu, cuda, cuda:N or tensorrt, …
CHECK --max-bad 2 => 2 => --max-bad SHARE: … => Invalid value for '--max-bad': Input should be less
    than or equal to 1
CHECK --batch-size 33 => 2 => --batch-size N: … => Invalid value for '--batch-size': Input should be
    less than or equal to 32
CHECK -o terminal= => 2 => -o terminal=report.terminal => --output is 'terminal='; a path must follow the equals sign
CHECK -o terminal -o terminal => 2 => -o json=report.json => --output names stdout twice; only one document fits there
CHECK -o terminal=r.txt -o terminal=r.txt => 2 => -o json=report.json => --output names r.txt twice; only one document
    fits there
CHECK -o terminal=r.txt -o terminal=photos/../r.txt => 2 => -o json=report.json => --output names photos/../r.txt twice;
    only one document fits there
CHECK -o json=loop.json => 2 => ls -ld . => loop.json: report path is a link that leads in a circle; it must be a
    file
CHECK -o json=link.json => 2 => -o json=report.json => link.json: report path is a file that is there already; only an
    empty file, or one that robustcheck wrote there, is replaced
CHECK -o json=absent/r.json => 2 => mkdir -p absent => absent/r.json: folder absent is missing; reports are written
    into existing folders
CHECK -o json=./pass.onnx => 2 => -o json=pass.json => pass.onnx: report path is a file that is there already; only an
    empty file, or one that robustcheck wrote there, is replaced
--version model.onnx => 2 => robustcheck --version => argument is model.onnx; --version takes none
pass.onnx --quiet=3 => 2 => robustcheck check --help => Option '--quiet' does not take a value
inspect pass.onnx b => 2 => robustcheck inspect --help => Got unexpected extra argument(s) (b)
inspect pass.onnx -o xml => 2 => --output terminal => --output is 'xml'; it must be one of terminal, json, html,
    markdown
inspect https://u:hunter2@h/m.onnx --offline => 2 => copy it here first, or leave out --offline => https://***@h/m.onnx:
    URL is on another machine; offline … only local files are read
scan https://u:hunter2@h/m.onnx => 2 => copy it here, and name the copy => https://***@h/m.onnx: model is a URL; here
    it must be a file on this machine
scan models:/encoder/2 => 2 => copy it here, and name the copy => models:/encoder/2: model is a URL; here it must be a
    file on this machine
compare pass.onnx https://u:hunter2@h/m.onnx --offline => 2 => copy it here first, or leave out --offline =>
    https://***@h/m.onnx: URL is on another machine; offline … only local files are read
compare models:/encoder/2 pass.onnx --offline => 2 => copy it here first, or leave out --offline => models:/encoder/2:
    URL is on another machine; offline … only local files are read
compare pass.onnx pass.onnx --images good.tar --write-baseline good.tar => 2 => --write-baseline new-good.tar =>
    good.tar: path of --write-baseline is a file that is there already; only an empty file, or one that robustcheck
    wrote there, is replaced
profiles shw default => 2 => robustcheck profiles show default => No such command 'shw'. Did you mean 'show'?
profiles qqq => 2 => robustcheck profiles --help => No such command 'qqq'
profiles => 2 => robustcheck profiles --help => Missing command
export timn x -o m.onnx => 2 => robustcheck export timm x -o m.onnx => source is 'timn'; it must be one of open_clip,
    timm, torchvision, transformers, torch, onnx
export timm x -o m.onnx --precision fp8 => 2 => --precision fp32 => precision is fp8; it must be one of fp32, fp16,
    int8-dynamic, int8-qdq
export timm x -o m.onnx --head fc => 2 => robustcheck export timm x -o m.onnx => --head is fc; it is for the source
    torch only; the head of timm models is known
export timm x -o absent/m.onnx => 2 => mkdir -p absent => absent/m.onnx: folder absent is missing; models are written
    into existing folders
export timm x -o m.txt => 2 => -o m.onnx => m.txt: suffix is '.txt'; it must be .onnx
export timm x -o m.onnx --parity-images good.tar => 2 => --parity-images FOLDER => good.tar: parity photos lie inside
    one file; they must be image files
export timm x -o m.onnx --parity-images photos/photo_00000.png => 2 => --parity-images FOLDER => number of parity
    photos is 1; it must be at least 5
export open_clip ViT-B-32 -o m.onnx --templates openai => 2 => robustcheck export open_clip ViT-B-32 --zero-shot
    CLASSES.txt -o m.onnx => --templates is openai; it is for the class names of --zero-shot
export timm resnet18 -o m.onnx --zero-shot imagenet => 2 => robustcheck export open_clip NAME --zero-shot CLASSES.txt
    => resnet18: --zero-shot is for sources with a text tower, open_clip and transformers; source is timm
export open_clip ViT-B-32 -o m.onnx --zero-shot none.txt => 2 => ls -l none.txt => --zero-shot is 'none.txt': file is
    not readable (…); it must be a text file with one class name per line, or imagenet
export open_clip ViT-B-32 -o m.onnx --zero-shot photos/photo_00000.png => 2 => ls -l photos/photo_00000.png =>
    --zero-shot is 'photos/photo_00000.png': file is not readable ('utf-8' codec can't decode …); it must be a text
    file with one class name per line, or imagenet
SMALLER --precision int8-static => 2 => --precision int8-dynamic => precision is int8-static; it must be one of fp32,
    fp16, int8-dynamic, int8-qdq
SMALLER --precision fp16,int8-qdq => 2 => --precision int8-qdq => precision is fp16,int8-qdq; it must be one of fp32,
    fp16, int8-dynamic, int8-qdq
SMALLER => 2 => robustcheck export onnx pass.onnx --precision int8-qdq -o m.onnx => --precision is fp32; an ONNX file
    with a contract is made smaller: fp16, int8-dynamic, int8-qdq
SMALLER --precision int8-qdq --weights w.pt => 2 => robustcheck export onnx pass.onnx --precision int8-qdq -o m.onnx =>
    --weights is given; an ONNX file has its weights and outputs already
SMALLER --precision int8-qdq --calibration-images nowhere => 2 => --images FOLDER => nowhere: image set is not readable
    (…); it must be …
SMALLER --precision int8-qdq --calibration-images five => 2 => --calibration-images FOLDER => number of calibration
    photos is 5 next to the 32 that the file is compared on; int8-qdq needs at least 16
SMALLER --precision int8-qdq --parity-images five => 2 => --parity-images FOLDER => number of parity photos is 5;
    int8-qdq is compared with the original on at least 32
SMALLER --precision int8-qdq --form uint8 => 2 => --form uint8-weights => --form is uint8; it must be one of
    uint8-weights, 7-bit-weights, int8-weights, 16-bit-activations, float-ends, matmul-only
SMALLER --precision fp16 --form float-ends => 2 => --precision int8-qdq => --form is float-ends; only int8-qdq has
    forms, and the precision is fp16
SMALLER --precision int8-dynamic --calibration-images photos => 2 => --precision int8-qdq => number of calibration
    photos is 80; only int8-qdq uses them, and the precision is int8-dynamic
SMALLER --precision int8-qdq --calibration-images some --parity-images photos => 2 => ls -l some/bad….png =>
    some/bad….png: calibration photo is unreadable (…); ranges are taken from real photos
SMALLER --precision int8-dynamic => 3 => robustcheck export onnx pass.onnx --parity-images FOLDER_OF_PHOTOS_OF_ONE_SIZE
    => pass.onnx: preprocessing leaves photos in 4 sizes; parity is measured on batches, which need one size
export onnx pass.onnx -o pass.onnx --precision int8-qdq => 2 => -o pass-new.onnx => pass.onnx: target is the file that
    is read, or its weights; it must be another file
export torch net:build -o m.onnx --preprocess p_text.json => 2 => python -m json.tool p_text.json => p_text.json:
    content is not readable JSON (…); a preprocessing file must be
SMALLER --preprocess clip => 2 => robustcheck pass.onnx => pass.onnx: --preprocess is given, and the file has a
    contract, which states its preprocessing already
SMALLER --precision fp16 --preprocess clip => 2 => robustcheck export onnx pass.onnx --precision fp16 -o m.onnx =>
    pass.onnx: --preprocess is given, and the file has a contract, which states its preprocessing already
SMALLER --preprocess clp => 2 => --preprocess clip => --preprocess: value is clp; it must be clip, imagenet or a JSON
    file that exists
SMALLER --preprocessing clip => 2 => robustcheck export onnx pass.onnx -o m.onnx --preprocess clip => No such option:
    --preprocessing
"""
WITH_TORCH = """
export transformers openai/clip-nope -o m.onnx => 4 => run `hf download openai/clip-nope` where there is a network and
    copy models--openai--clip-nope into $HF_HOME/hub here, or give a folder made by save_pretrained as the name =>
    openai/clip-nope: weights are not on this machine and could not be downloaded; a local copy or a network is needed
export open_clip ViT-B-32 -o m.onnx => 2 => --weights TAG, one of openai, … => ViT-B-32: weights are not given; random
    weights are refused
export open_clip ViT-B-23 -o m.onnx => 2 => closest: ViT-B-32, … => ViT-B-23: model name is unknown to open_clip …; it
    must be in open_clip.list_models()
export open_clip ViT-B-32 -o m.onnx --weights opneai => 2 => --weights openai => ViT-B-32: weights is opneai; it must
    be one of openai, … or an existing file
export open_clip local-dir:absent -o m.onnx => 4 => place open_clip_config.json and open_clip_model.safetensors in
    absent => local-dir:absent: weights are not on this machine and could not be downloaded; a local copy or a network
    is needed
export timm restnet18 -o m.onnx => 2 => closest: resnet18, … => restnet18: model name is unknown to timm …; it must be
    in timm.list_models()
export timm resnet18.a9_in1k -o m.onnx => 2 => robustcheck export timm resnet18.a…_in1k => resnet18.a9_in1k: tag is
    a9_in1k; it must be one of a1_in1k, …
export torchvision resnet19 -o m.onnx => 2 => closest: resnet18, … => resnet19: model name is unknown to torchvision …;
    it must be a classification model of it
export torchvision resnet18 -o m.onnx --weights V9 => 2 => --weights IMAGENET1K_V1 => resnet18: weights is V9; it must
    be one of IMAGENET1K_V1, … or an existing file
export transformers ./absent -o m.onnx => 4 => place config.json, model.safetensors and preprocessor_config.json in
    ./absent => ./absent: folder is missing; the name must be a folder made by save_pretrained, or org/repo
export torch net:build -o m.onnx --preprocess p_net.json => 2 => set the module's attribute `weights`, or give
    --weights FILE or --random-weights => net:build: weights are not given; random weights are refused
export torch net:build -o m.onnx --preprocess p_net.json --weights pickle.onnx => 3 => save it again with … =>
    pickle.onnx: checkpoint is unreadable (it holds Python objects or code, which are never unpickled); …
"""


def wrong_rows(world: Path, table: str, run: Run) -> dict[str, str]:
    """Return the calls that go otherwise than their rows, each with what is wrong."""
    for word, call in CALLS.items():
        table = table.replace(f"\n{word} ", f"\n{call} ")
    rows = re.findall(r"^(\S.*) => (\d) => (.*) => (.*)$", re.sub(r"\n {4}", " ", table), re.MULTILINE)
    assert 3 * len(rows) == table.count(" =>")
    wrong = {}
    for call, code, hint, message in rows:
        before = contents(world)
        try:
            done = run(call, folder=world)
            assert_says(done, int(code), message, hint)
            assert done.stdout == ""
            assert contents(world) == before
        except AssertionError as fault:
            wrong[call] = str(fault)
    return wrong


def test_bad_input_is_one_clear_error(world: Path, run: Run) -> None:
    assert wrong_rows(world, TABLE, run) == {}


@pytest.mark.long
def test_bad_exports_with_torch(world: Path, run: Run) -> None:
    assert wrong_rows(world, WITH_TORCH, run) == {}


def test_what_tests_type_in_this_process_is_the_command(world: Path, run: Run) -> None:
    for call in ("--bogus -o json", "pass.onnx --images photos --no-time"):
        cold, here = bad_input.run(call, world), run(call, folder=world)
        assert (here.returncode, here.stdout) == (cold.returncode, cold.stdout)
        assert here.stderr == without_progress(cold.stderr)


def test_images_that_are_all_alike_to_the_model_are_a_warning(ends: Run) -> None:
    """Their kurtosis differs by rounding only, which numpy.histogram refuses to part into bins."""
    random = np.random.default_rng(0)
    values = random.normal(size=(1, 512)) * random.uniform(0.5, 2, (80, 1))
    lookup.write_lookup_model("alike.onnx", values, dtype=np.float64)
    done = ends(1, "alike.onnx --images photos")
    assert (done.stderr, "WARN" in done.stdout) == ("", True)


def test_no_word_at_all_is_the_help_and_an_error(run: Run) -> None:
    done = run("")
    *words, error, hint = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, "")
    assert "Usage: robustcheck" in "\n".join(words)
    assert error == "error: MODEL.onnx is missing; robustcheck needs a model or a command"
    assert hint == "hint: robustcheck demo"


def test_a_current_folder_that_is_gone_is_the_environment(here: Path, monkeypatch: Patch, capsys: Capture) -> None:
    (here / "gone").mkdir()
    monkeypatch.chdir("gone")
    (here / "gone").rmdir()
    for words in ("check m.onnx --images a", "shift m.onnx --in a --shifted b"):
        assert robustcheck(*words.split()) == 4
        assert "current folder is missing (" in capsys.readouterr().err


def test_a_missing_extra_is_the_environment(run: Run) -> None:
    with Patch.context() as patch:
        patch.setitem(sys.modules, "open_clip", None)
        done = run("export open_clip x -o m.onnx")
    said = "open_clip: package open_clip is not importable (…); exporting needs it"
    assert_says(done, 4, said, extra("export"))


# ------------------------------------------------------------------------------------------------- documents

JSON_CALLS = {
    "nope.onnx": 2, "--max-bad 2 pass.onnx": 2, "profiles show gone": 2, "text.onnx": 3, "huge.onnx --images five": 4,
}  # fmt: skip


def test_json_errors_are_one_document_on_stdout(world: Path, run: Run) -> None:
    for call, code in JSON_CALLS.items():
        done = run(f"{call} --output=json", folder=world)
        document = json.loads(done.stdout)
        message, hint, _ = document["error"].values()
        said = {"message": message, "hint": hint, "exit_code": code}
        assert document == {"schema_version": 2, "tool": "robustcheck", "error": said}
        assert_says(done, code, message, hint)


def test_a_full_disk_leaves_nothing(tmp_path: Path, run: Run) -> None:
    before = contents(tmp_path)
    said = f"{tmp_path}/report: report is not written (File too large); it must be written whole"
    for form in ("terminal", "json"):
        with small_files():
            done = run(f"pass.onnx --images photos -v -o {form}={tmp_path}/report -o gitlab")
        assert_says(done, 4, said, f"df -h {tmp_path}")
        assert done.stdout == "[]\n"  # GitLab's PASS: the form that has room is delivered
        assert form == "json" or contents(tmp_path) == before
    assert code_in(f"{tmp_path}/report") == 4  # the error document has room
    assert len(contents(tmp_path)) == len(before) + 1


def test_a_pipe_is_written_to_and_stays_a_pipe(run: Run) -> None:
    """As root, renaming a file over a device such as /dev/null would break the machine."""
    fifo, received = Path("fifo"), []
    os.mkfifo(fifo)
    reader = threading.Thread(target=lambda: received.append(fifo.read_text()), daemon=True)
    reader.start()
    done = run("pass.onnx --images photos -qq -o json=fifo")
    reader.join(PATIENCE_S)
    assert (done.returncode, done.stderr, fifo.is_fifo()) == (0, "", True)
    assert json.loads(received[0])["verdict"]["verdict"] == "PASS"


def test_a_refused_report_leaves_what_the_run_reads_as_it_is(ends: Run) -> None:
    ends(0, "pass.onnx --images photos -o json=report.json")
    report = Path("report.json").read_bytes()
    ends(2, "verify report.json pass.onnx -o json=report.json", "a file that this run reads")
    assert Path("report.json").read_bytes() == report
    Path("list.txt").touch()
    for line in ("pass.onnx", "scan pass.onnx"):
        ends(2, f"{line} --images list.txt -o json=list.txt", "a file that this run reads")
        assert Path("list.txt").read_bytes() == b""
    ends(2, "pass.onnx --images photos --log-file log -o json=log", "--log-file is log, which a report uses too")


def test_hints_lead_somewhere_and_an_earlier_version_is_named(ends: Run) -> None:
    for line, hint in (
        ("report html", "robustcheck check -o report.html\n"),
        ("shift pass.onnx photos", "robustcheck shift model.onnx --in photos/ --shifted sketches/"),
        ("pass.onnx -o report.docx", "the suffix chooses the form: .sarif.json, .sarif, .cdx.json, .json, .html, "),
    ):
        assert f"hint: {hint}" in ends(2, line).stderr
    content = json.loads(thresholds.load().model_dump_json())
    del content["bounds"]
    Path("profile.json").write_text(json.dumps(content))
    ends(2, "pass.onnx --images photos --thresholds profile.json", "an earlier version may have made it")
    Path("report.json").write_text('{"schema_version": 1, "tool": "robustcheck"}')
    ends(2, "verify report.json pass.onnx", "schema_version is 1; an earlier version made it; this robustcheck reads 2")
