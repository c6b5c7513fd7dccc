"""Hostile models by the schema: every field of every message of ModelProto, and the files beside a model.

`python studies/schema_fuzz.py --minutes 60 --seed 0 --workers 1 [--keep build/schema_fuzz]`. Each case is the whole
command, `robustcheck check`, in a forked process whose wall forks in turn. One line a case goes to cases-N.jsonl; what
is to be looked at keeps its folder. `--case N` runs one case again and prints its line. Each worker tells its counts
once a minute; SIGINT and SIGTERM end the run early, with its summary. Exit code 1 where that happened, a case ended
with 70, a process that reports died, a case hung, or a PASS has no explanation.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from forked import forked
from PIL import Image
from schema_changes import SIDECARS, Case, made

from robustcheck_onnx import checker
from robustcheck_onnx.checker import __main__, child
from robustcheck_onnx.checker.core.images.source import DecodedImage
from robustcheck_onnx.checker.core.model.contract import CONTRACT_KEY, graph_digest
from robustcheck_onnx.checker.outside import isolation
from robustcheck_onnx.checker.outside.image_sets.open import open_images
from robustcheck_onnx.checker.questions.demo import NAMES, SIZE_PX, train, write
from robustcheck_onnx.checker.report import forms

N_PHOTOS, N_COMPARED = 60, 8
LIMIT_S, GRACE_S = 60, 540  # a machine that others use may take ten times as long: that is not a hang
RELATIVE, OUTLIER_Z = 1e-3, 5.0
FORMS = tuple(form for form in forms.FORMS if form != "json")


def lay(case: Case, folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name, content in case.files.items():
        (folder / name).write_bytes(content)
    (folder / "model.onnx").write_bytes(case.model.SerializeToString())
    return folder / "model.onnx"


def first_models(folder: Path) -> dict[str, Case]:
    """Plain, planted, planted with external data, with 8-bit weights, and with sidecars in place of a contract."""
    from onnxruntime.quantization import quantize_dynamic

    weights, mean = train()
    for name in NAMES:
        write(folder / f"{name}.onnx", name, weights, mean)
    planted = onnx.load(folder / "planted.onnx")
    beside = {name: json.dumps(value).encode() for name, value in SIDECARS.items()}
    out: dict[str, Case] = {name: Case(onnx.load(folder / f"{name}.onnx"), {}) for name in NAMES}
    onnx.save(planted, folder / "outside.onnx", save_as_external_data=True, location="w.bin", size_threshold=1024)
    outside = onnx.load(folder / "outside.onnx", load_external_data=False)
    out["outside"] = Case(outside, {"w.bin": (folder / "w.bin").read_bytes()})
    # in a process of its own: after a session of this one, no fork of it would end well
    forked(partial(quantize_dynamic, folder / "planted.onnx", folder / "int8.onnx"), LIMIT_S)
    out["int8"] = Case(onnx.load(folder / "int8.onnx"), {})
    contract = json.loads(out["planted"].model.metadata_props[0].value) | {"precision": "int8-dynamic"}
    contract["graph_digest"] = graph_digest(out["int8"].model)
    del out["int8"].model.metadata_props[:]
    onnx.helper.set_model_props(out["int8"].model, {CONTRACT_KEY: json.dumps(contract)})
    out["sidecar"] = Case(onnx.load(folder / "planted.onnx"), beside)
    del out["sidecar"].model.metadata_props[:]
    return out


def lay_photos(folder: Path) -> None:
    folder.mkdir()
    pictures = [item.image for item in open_images(None).items() if isinstance(item, DecodedImage)]
    for number, picture in enumerate(pictures[:N_PHOTOS]):
        Image.fromarray(np.asarray(picture)).resize((SIZE_PX, SIZE_PX), 2).save(folder / f"{number}.png")


def plain_outputs(path: Path, photos: Path, tensor: str) -> np.ndarray[Any, Any]:
    """What ONNX Runtime alone gives for some photos, (photo, feature)."""
    model = onnx.load(path, load_external_data=False)
    if tensor not in [each.name for each in model.graph.output]:
        model.graph.output.add(name=tensor)
        path = path.with_name("tapped.onnx")
        path.write_bytes(model.SerializeToString())
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    pixels = np.stack([np.asarray(Image.open(photos / f"{number}.png")) for number in range(N_COMPARED)])
    values = ((pixels / 255 - 0.5) / 0.5).astype(np.float32).transpose(0, 3, 1, 2)
    into = session.get_inputs()[0]
    size = into.shape[0] if isinstance(into.shape[0], int) else N_COMPARED  # a file may want batches of one size
    batches = [values[np.arange(first, first + size) % N_COMPARED] for first in range(0, N_COMPARED, size)]
    rows = [session.run([tensor], {into.name: batch})[0] for batch in batches]
    return np.concatenate(rows)[:N_COMPARED].reshape(N_COMPARED, -1)


def look_at_pass(path: Path, photos: Path, tensor: str, truths: list[Any]) -> str:
    """Why a PASS stands, in words; what begins with "finding" has no explanation."""
    got = forked(partial(plain_outputs, path, photos, tensor), LIMIT_S)
    if got.error or got.died:
        return f"finding: plain ONNX Runtime does not run it: {got.error or got.died}"
    rows: Any = got.value
    same = [t for t in truths if t.shape == rows.shape and np.abs(rows - t).max() <= RELATIVE * np.abs(t).max()]
    if same:
        return "outputs as before"
    z = (rows - rows.mean(1, keepdims=True)) / rows.std(1, keepdims=True)
    if not (np.abs(z) > OUTLIER_Z).mean(0).max() > 0.5:
        return "finding: outputs changed, and no feature is extreme in most photos"
    props = {each.key: each.value for each in onnx.load(path, load_external_data=False).metadata_props}
    if json.loads(props.get(CONTRACT_KEY, "{}")).get("graph_digest"):
        return "finding: outputs changed, and the contract holds a digest"
    return "outputs changed; a feature is still extreme, and nothing says what they were"


class Forked:
    """What the wall asks of `subprocess.Popen`, forked from this process, which has imported all."""

    def __init__(self, _words: list[str], **_: object) -> None:
        (asked, ask), (answer, answered) = os.pipe(), os.pipe()
        self.code: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.dup2(asked, 0)
                os.dup2(answered, 1)
                os.closerange(3, 256)
                child.main()
            finally:
                os._exit(1)
        os.close(asked)
        os.close(answered)
        self.stdin, self.stdout = os.fdopen(ask, "wb"), os.fdopen(answer, "rb")

    def wait(self, timeout: float = 1e9) -> int:
        end = time.monotonic() + timeout
        while self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > end:
                raise subprocess.TimeoutExpired("child", timeout)
            else:
                time.sleep(0.005)
        return self.code

    def kill(self) -> None:
        if self.code is None:
            os.kill(self.pid, signal.SIGKILL)


def command(words: list[str]) -> int:
    real = SimpleNamespace(Popen=Forked, PIPE=subprocess.PIPE, TimeoutExpired=subprocess.TimeoutExpired)
    vars(isolation)["subprocess"] = real
    sys.argv = ["robustcheck", "check", *words]
    return __main__.main()


def run(seed: int | str, case: Case, folder: Path, photos: Path, truths: list[Any]) -> dict[str, Any]:
    """Run one case; what is to be looked at stands under "look"."""
    path, report = lay(case, folder), folder / "report.json"
    words = f"--images {photos} --timeout {LIMIT_S} --max-memory 3GiB -q --device cpu -o json={report}".split()
    form = FORMS[seed % len(FORMS)] if isinstance(seed, int) else "junit"
    ended = forked(partial(command, [str(path), *words, "-o", f"{form}={folder / form}"]), LIMIT_S + GRACE_S)
    line = {"seed": seed, "done": case.done, "code": ended.value, "form": form, "s": round(ended.seconds, 2)}
    line["look"] = ""
    told = json.loads(report.read_text("utf-8")) if report.exists() and report.stat().st_size else {}
    message = str(told.get("error", {}).get("message", told.get("message", "")))
    line["message"] = message.replace(str(path), "MODEL")[:300]
    if ended.error or ended.died:
        line["look"] = "hang" if ended.died == "timeout" else f"dead: {ended.error or ended.died}"
    elif ended.value == 70:
        line["look"] = f"70: {message}"
    elif ended.value == 0:
        line["look"] = look_at_pass(path, photos, told["evidence"]["model"]["tensor"], truths)
    elif "broke the reader" in message or "ended by" in message:
        line["look"] = f"broke: {message.split('; a file', maxsplit=1)[0].split(': ', 1)[-1]}"
    return line


def work(
    first: int, step: int, end_s: float, seeds: dict[str, Case], folder: Path, keep: Path, truths: list[Any]
) -> None:
    kept: Counter[str] = Counter()
    codes: Counter[str] = Counter()
    with (keep / f"cases-{first}.jsonl").open("w", encoding="utf-8") as lines:
        seed, told_s = first, time.monotonic()
        while time.monotonic() < end_s:
            name, case = made(seed, seeds)
            place = folder / str(seed)
            line = {"model": name, **run(seed, case, place, folder / "photos", truths)}
            lines.write(json.dumps(line) + "\n")
            lines.flush()
            codes[str(line["code"])] += 1
            if time.monotonic() > told_s + 60:
                told_s = time.monotonic()
                print(f"{time.strftime('%X')} worker {first}, case {seed}: exit codes {dict(codes)}", flush=True)
            kept[line["look"]] += 1
            if line["look"] and not line["look"].startswith("outputs") and kept[line["look"]] <= 3:
                shutil.copytree(place, keep / str(seed), dirs_exist_ok=True)
            shutil.rmtree(place)
            seed += step


def stop(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--case", type=int)
    parser.add_argument("--keep", type=Path, default=Path("build/schema_fuzz"))
    options = parser.parse_args()
    for module in pkgutil.walk_packages(checker.__path__, f"{checker.__name__}."):
        importlib.import_module(module.name)  # once, before any fork
    options.keep.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seeds = first_models(folder)
        lay_photos(folder / "photos")
        gc.freeze()
        truths: list[Any] = []
        for key, case in seeds.items():
            line = run(key, case, folder / "first" / key, folder / "photos", [])
            print(f"{key}: exit code {line['code']} in {line['s']} s {line['message']}", flush=True)
            place = folder / "first" / key / "model.onnx"
            truths.append(forked(partial(plain_outputs, place, folder / "photos", "representation"), LIMIT_S).value)
        if options.case is not None:
            key, case = made(options.case, seeds)
            print(key, json.dumps(run(options.case, case, options.keep / str(options.case), folder / "photos", truths)))
            return 0
        end_s = time.monotonic() + 60 * options.minutes
        firsts = range(options.seed, options.seed + options.workers)
        pids = []
        broken = False
        for first in firsts:
            if (pid := os.fork()) == 0:
                for number in (signal.SIGINT, signal.SIGTERM):
                    signal.signal(number, signal.SIG_DFL)
                try:
                    work(first, options.workers, end_s, seeds, folder, options.keep, truths)
                except BaseException:  # noqa: BLE001 # the parent is told by the exit code
                    traceback.print_exc()
                    os._exit(1)
                os._exit(0)
            pids.append(pid)
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, stop)
            for pid in pids:
                broken |= os.waitpid(pid, 0)[1] != 0
        except BaseException:  # noqa: BLE001 # a signal: what was found by then is told
            traceback.print_exc()
            broken = True
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
    files = [options.keep / f"cases-{first}.jsonl" for first in firsts]
    lines = [json.loads(text) for file in files for text in file.read_text("utf-8").splitlines()]
    codes, done = Counter(str(line["code"]) for line in lines), {each for line in lines for each in line["done"]}
    print(f"{len(lines)} models, exit codes {dict(codes)}, {len(done)} kinds of change")
    for look, n in Counter(line["look"] for line in lines if line["look"]).most_common():
        print(f"{n:6}  {look}  (case {next(line['seed'] for line in lines if line['look'] == look)})")
    bad = any(line["look"].startswith(("70", "dead", "hang", "finding")) for line in lines)
    return int(bad or broken)


if __name__ == "__main__":
    sys.exit(main())
