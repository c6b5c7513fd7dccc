"""Addresses of the hub, with its unmodified client, against a hub on the loopback interface; MLflow's client as it is
asked for: a module stands in for MLflow, which tests/integrations has.
"""

import errno
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from robustcheck_onnx import check, compare, inspect
from robustcheck_onnx.checker.core.evidence import Origin
from robustcheck_onnx.checker.core.model.sidecar import choose_model
from robustcheck_onnx.checker.errors import EnvironmentFaultError, RobustcheckError, UsageError
from robustcheck_onnx.checker.outside.storage import hub, mlflow_registry
from robustcheck_onnx.checker.outside.storage.stores import StoreError
from robustcheck_onnx.checker.report.document import document_of
from support import Fields, Patch, Place, onnx_models, raised, stores
from support.stores import SECRET, MockHub, hub_repo

SERVER = "https://ada:secret@mlflow.example"
PIXELS = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
SIDECAR = json.dumps({"preprocess_cfg": PIXELS | {"size": [8, 8]}}).encode()


@pytest.fixture
def served(tmp_path: Path, monkeypatch: Patch) -> Iterator[MockHub]:
    """A hub, and a cache of the client that is empty. The client has read its other variables when it was imported."""
    constants = pytest.importorskip("huggingface_hub.constants", reason="the extra hub is not installed")
    with stores.hub_running() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setenv("HF_TOKEN", SECRET)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
        yield running


@pytest.fixture(scope="module")
def encoder() -> bytes:
    """A model without a contract: what its pixels are, a sidecar must say."""
    return bytes(onnx_models.encoder().SerializeToString())


def refused(kind: type[RobustcheckError], said: str, address: str) -> RobustcheckError:
    return raised(kind, said, check, address, max_images=3)


def go_offline(monkeypatch: Patch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def test_the_one_encoder_is_checked_at_its_commit(served: MockHub, lookup_pass: Place, monkeypatch: Patch) -> None:
    model, photos = lookup_pass
    files = {"README.md": b"x", "onnx/model.onnx": model.read_bytes(), "a/text_model.onnx": b"x"}
    commit = served.put("org/one", files)
    report, here = (check(place, images=photos) for place in ("hf://org/one", model))
    facts = report.evidence.model
    assert facts.origin == Origin(address="hf://org/one", revision=commit, file="onnx/model.onnx")
    assert (report.verdict, report.evidence.statistics) == (here.verdict, here.evidence.statistics)
    assert (facts.file, facts.digest) == ("hf://org/one/onnx/model.onnx", here.evidence.model.digest)
    assert f"fetched at {commit[:12]}" in str(document_of(report))
    assert served.tokens == {f"Bearer {SECRET}"}
    assert not any("text_model" in asked for asked in served.asked)

    blob = f"{served.url}/org/one/blob/main/onnx/model.onnx?download=true"
    for address in (f"hf://org/one@{commit}/onnx", "hf://org/one@main/onnx/model.onnx", blob):
        same = check(address, images=photos, max_images=3).evidence.model.origin
        assert same
        assert (same.revision, same.file) == (commit, "onnx/model.onnx")
    served.asked.clear()
    go_offline(monkeypatch)
    again = check("hf://org/one", images=photos)
    assert (again.evidence.model.origin, again.verdict, served.asked) == (facts.origin, report.verdict, [])


def test_a_comparison_takes_the_addresses_that_a_check_takes(served: MockHub, lookup_pass: Place) -> None:
    model, photos = lookup_pass
    commit = served.put("org/one", {"onnx/model.onnx": model.read_bytes()})
    origin = Origin(address="hf://org/one", revision=commit, file="onnx/model.onnx")
    here = compare(model, model, photos, max_images=60)
    for names in (("hf://org/one", str(model)), (str(model), "hf://org/one")):
        there = compare(*names, photos, max_images=60)
        facts = [side.evidence.model for side in (there.candidate, there.reference)]
        named = {"hf://org/one": ("hf://org/one/onnx/model.onnx", origin), str(model): (str(model), None)}
        assert [(each.file, each.origin) for each in facts] == [named[name] for name in names]
        assert (there.verdict, there.statistics, there.index) == (here.verdict, here.statistics, here.index)
        assert there.next_baseline is not None
        assert there.next_baseline.evidence == there.candidate.evidence
    with pytest.raises(UsageError, match=r"^rc.compare: candidate: type is bytes; it must be str or Path\n"):
        compare(b"", model)  # type: ignore[call-overload]


def test_an_inspection_shows_the_address_and_never_the_copy(
    served: MockHub, encoder: bytes, tmp_path: Path, monkeypatch: Patch
) -> None:
    commit = served.put("org/one", {"onnx/model.onnx": encoder, "onnx/model.robustcheck.json": b"[]"})
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "model.onnx").write_bytes(encoder)
    (tmp_path / "onnx" / "model.robustcheck.json").write_bytes(b"[]")
    there, here = inspect("hf://org/one"), inspect(tmp_path / "onnx")
    origin = {"address": "hf://org/one", "revision": commit, "file": "onnx/model.onnx"}
    assert (there.file, there.facts.pop("origin")) == ("hf://org/one/onnx/model.onnx", origin)
    assert json.dumps(there.facts) == json.dumps(here.facts).replace(str(tmp_path), "hf://org/one")
    monkeypatch.setenv("ROBUSTCHECK_OFFLINE", "1")
    served.asked.clear()
    raised(UsageError, "hf://org/one: URL is on another machine; offline", inspect, "hf://org/one")
    raised(UsageError, "hf://org/one: URL is on another machine; offline", compare, "hf://org/one", here.file)
    assert served.asked == []


def test_weights_come_along_and_the_nearest_sidecar_above(served: MockHub, tmp_path: Path, monkeypatch: Patch) -> None:
    path = onnx_models.save(onnx_models.encoder(), tmp_path / "m.onnx", external=True)
    files = {"open_clip_config.json": SIDECAR, "config.json": b'{"architectures": ["X"]}'}
    files |= {f"onnx/fp/{name}": path.with_name(name).read_bytes() for name in ("m.onnx", "m.onnx.data")}
    served.put("org/deep", files | {"onnx/fp/m_fp16.onnx": b"x", "unused.bin": b"y"})
    evidence = check("hf://org/deep", max_images=3).evidence
    assert set(evidence.model.external_digests) == {"m.onnx.data"}
    assert ("mean", "0.5, 0.5, 0.5", "open_clip_config.json") in evidence.preprocessing.fields
    assert not any("unused" in asked or "fp16" in asked for asked in served.asked)

    served.put("org/deep", files | {"other.onnx": b"z"})  # whose sidecar is it now?
    for prepare in (lambda _: None, go_offline):  # the cache holds the one model, and knows of the other
        prepare(monkeypatch)
        refused(UsageError, "lies next to 2 models", "hf://org/deep/onnx/fp/m.onnx")
    snapshot = hub_repo(tmp_path, "org/hand")  # fetched by other means: nobody kept the listing
    for name, content in files.items():
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).write_bytes(content)
    refused(UsageError, "preprocessing is not known; the hub's cache does not list", "hf://org/hand")


def test_a_model_configuration_that_says_no_pixels_hides_no_sidecar_above_it(served: MockHub, encoder: bytes) -> None:
    """What optimum writes beside an ONNX file is the model's config.json; what pixels are stands at the root."""
    timm = {"pretrained_cfg": PIXELS | {"input_size": [3, 8, 8], "crop_pct": 1.0}}
    for folder, named in (("a/b", "config.json"), ("onnx", "../config.json")):
        beside = {f"{folder}/m.onnx": encoder, f"{folder}/config.json": b'{"model_type": "clip"}'}
        served.put("org/nested", beside | {"config.json": json.dumps(timm).encode()})
        assert ("mean", "0.5, 0.5, 0.5", named) in check("hf://org/nested", max_images=3).evidence.preprocessing.fields


def test_a_sidecar_above_models_of_several_folders_is_nobodys(served: MockHub, encoder: bytes) -> None:
    files = {"open_clip_config.json": SIDECAR, "vit/model.onnx": encoder, "resnet/model.ONNX": encoder}
    served.put("org/two", files)
    said = "next to 2 models, or above them \\(vit/model.onnx, resnet/model.ONNX\\)"
    refused(UsageError, said, "hf://org/two/vit/model.onnx")
    del files["resnet/model.ONNX"]
    served.put("org/two", files | {"text/text_model.onnx": b"x"})
    assert check("hf://org/two", max_images=3).evidence.preprocessing.source == "sidecar"


def test_an_encoder_in_immichs_layout_is_its_image_tower_with_its_preprocessing(
    served: MockHub, encoder: bytes
) -> None:
    config = {**json.loads(SIDECAR)["preprocess_cfg"], "fill_color": 0, "mode": "RGB"}
    files = {"textual/model.onnx": b"x", "visual/model.onnx": encoder, "config.json": b'{"embed_dim": 4}'}
    served.put("immich-app/vit", files | {"visual/preprocess_cfg.json": json.dumps(config).encode()})
    evidence = check("hf://immich-app/vit", max_images=3).evidence
    assert evidence.model.origin is not None
    assert evidence.model.origin.file == "visual/model.onnx"
    assert evidence.preprocessing.origin == "preprocess_cfg.json"


def test_a_listed_sidecar_must_come(served: MockHub, encoder: bytes, tmp_path: Path, monkeypatch: Patch) -> None:
    """Without it the preprocessing would be assumed."""
    (tmp_path / "m.onnx").write_bytes(encoder)
    for name in ("m.onnx", "onnx/m.onnx"):
        served.put("org/one", {name: encoder, "open_clip_config.json": SIDECAR})
        read = Mock(side_effect=[tmp_path / "m.onnx", FileNotFoundError(2, "no such file")])
        monkeypatch.setattr(hub.Repository, "fetch", read)
        refused(StoreError, "it was listed, and is not there", "hf://org/one")


def test_which_file_is_meant() -> None:
    for names, chosen in {
        "onnx/model.onnx onnx/model_fp16.onnx onnx/model_quantized.onnx": "onnx/model.onnx",
        "m_fp16.onnx m_fp32.onnx": "m_fp32.onnx",
        "onnx/model.onnx onnx/text_model.onnx onnx/vision_model.onnx": "onnx/vision_model.onnx",
        "vision_model_fp16.onnx text_model.onnx": "vision_model_fp16.onnx",
        "model.onnx onnx/model_fp16.onnx": "model.onnx",
        "M.ONNX M_FP16.ONNX": "M.ONNX",
        "vision_model.onnx vision_model_fp16.onnx model_fp16.onnx text_model.onnx": "vision_model.onnx",
        "textual/model.onnx visual/model.onnx": "visual/model.onnx",
        "textual/fp16/model.onnx visual/model.onnx": None,
        "m_fp16.onnx m_int8.onnx": None,
        "model.onnx vision_model.onnx": None,
        "dino.onnx resnet_fp16.onnx": None,
        "a/model.onnx b/model_fp16.onnx": None,
        "clip/vision_model.onnx dino/model.onnx": None,
    }.items():
        paths = names.split()
        if chosen is not None:
            assert choose_model(paths, "hf://o/r", "hf://o/r/{}".format) == chosen
            continue
        said = f"number of encoders is {len(paths)}"
        fault = raised(UsageError, said, choose_model, paths, "hf://o/r", "hf://o/r/{}".format)
        assert fault.hint == f"robustcheck hf://o/r/{paths[0]}"


def test_a_name_in_a_hint_is_one_word_of_a_shell(served: MockHub, encoder: bytes) -> None:
    """Whoever owns a repository names its files; a hint is copied to a shell."""
    name = "$(touch x).onnx"
    served.put("org/odd", {name: encoder, "b.onnx": encoder, f"a/{name}": encoder, "open_clip_config.json": SIDECAR})
    for path, words, said in (
        ("", "number of encoders is 3", name),
        ("/$(touch y).onnx", "has no ONNX file there", name),
        (f"/a/{name}", "or above them", f"a/{name}"),
    ):
        caught = refused(UsageError, words, f"hf://org/odd{path}")
        assert shlex.split(caught.hint, comments=True)[:2] == ["robustcheck", f"hf://org/odd/{said}"]


def test_a_checkpoint_gets_the_two_commands_that_check_it(served: MockHub) -> None:
    served.put("org/clip", {"config.json": b'{"model_type": "clip"}'})
    served.put("org/timm", {"config.json": b'{"architecture": "vit", "num_features": 3}'})
    served.put("org/open_clip", {"open_clip_config.json": b"{}"})
    main = "hf download org/clip --revision main --local-dir checkpoint && "  # the default would be another model
    for address, first in {
        "timm:vit_base_patch16_clip_224.openai": "timm vit_base_patch16_clip_224.openai",
        "open_clip:ViT-B-32/openai": "open_clip ViT-B-32 --weights openai",
        "open_clip:hf-hub:org/repo": "open_clip hf-hub:org/repo",
        "transformers:openai/clip-vit-base-patch32": "transformers openai/clip-vit-base-patch32",
        "timm:$(touch x)": "timm '$(touch x)'",
        "timn:resnet50": "timm resnet50",
        "hf://org/timm@main": "timm hf-hub:org/timm@main",
        "hf://org/clip/onnx/model.onnx": "transformers org/clip",
        "hf://org/open_clip": "open_clip hf-hub:org/open_clip",
        "hf://org/clip@main": "transformers ./checkpoint",
    }.items():
        library = first.split()[0]
        said = f"{library} is a library of|it holds a checkpoint of {library}$|timn is not a scheme"
        caught = refused(UsageError, f"(?m){said}", address)
        before = main * first.endswith("./checkpoint")
        assert caught.hint == f"{before}robustcheck export {first} -o model.onnx && robustcheck model.onnx"


def test_what_is_no_repository_or_has_nothing_to_check(served: MockHub) -> None:
    served.put("org/clip", {"open_clip_config.json": b"{}"})
    served.put("org/odd", {"config.json": b"[" * 9, "x.bin": b""})
    for repo in ("org/two", "org/gated"):
        served.put(repo, {"a.onnx": b"x", "b.onnx": b"y"})
    served.gated.add("org/gated")
    for address, code, said, hint in (
        ("hf://org/clip", 2, "is 0; it holds a checkpoint of open_clip", "export open_clip"),
        ("hf://org/odd", 2, "it holds 2 other files", "export it"),
        ("hf://org/two", 2, "number of encoders is 2", "robustcheck hf://org/two/a.onnx"),
        ("hf://org/two/onnx/c.onnx", 2, "has no ONNX file there; it has 2", "robustcheck hf://org/two/"),
        ("hf://org/nix", 2, "is not on the hub, or may not be read", "HF_TOKEN"),
        ("hf://org/two@v9", 2, "revision v9 is not in the repository", "/refs"),
        ("hf://org/gated", 4, "is gated; its owner must give access", "HF_TOKEN"),
        ("hf://datasets/org/one", 2, "is in the hub's datasets", "--images hf://datasets"),
        ("hf://org", 2, "names no repository", ""),
        ("hf://org/../x", 2, "names no repository", ""),
        ("hf://org/one/../x.onnx", 2, r"path has a part \.\.", "hf://org/repo"),
        ("model:/encoder/3", 2, "model:", "models:/encoder/3"),
        ("wandb:org/run/model:v1", 2, "wandb", "wandb artifact get …"),
        ("nosuchscheme:x", 2, "nosuchscheme", "hf://org/repo, models:/name/1"),
    ):
        fault = refused(RobustcheckError, said, address)
        assert (fault.exit_code, hint in fault.hint) == (code, True)
        assert SECRET not in fault.message + fault.hint


def test_a_hub_that_is_asked_too_often_or_is_not_there(served: MockHub, encoder: bytes, monkeypatch: Patch) -> None:
    served.put("org/one", {"m.onnx": encoder})
    served.busy = 1
    refused(EnvironmentFaultError, "accepts no more requests", "hf://org/one")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    refused(StoreError, "ConnectError", "hf://org/one")
    go_offline(monkeypatch)
    refused(EnvironmentFaultError, "HF_HUB_OFFLINE", "hf://org/two")


def test_bytes_of_another_digest(served: MockHub, lookup_pass: Place, tmp_path: Path, monkeypatch: Patch) -> None:
    model, photos = lookup_pass
    served.put("org/one", {"m.onnx": model.read_bytes()})
    served.spoiled.add("m.onnx")
    fault = raised(EnvironmentFaultError, "another digest than the hub lists", check, "hf://org/one", images=photos)
    (blob,) = (tmp_path / "hub" / "models--org--one" / "blobs").iterdir()
    assert str(blob) in fault.hint
    blob.unlink()
    served.spoiled.clear()
    served.cut = 1  # a download that breaks off is resumed
    assert check("hf://org/one", images=photos).passed
    blob.write_bytes(model.read_bytes()[:-1] + b"\0")  # somebody changed the cache
    go_offline(monkeypatch)
    raised(EnvironmentFaultError, "another digest", check, "hf://org/one", images=photos)


def test_progress_a_revision_that_moves_and_a_full_cache(served: MockHub, encoder: bytes, monkeypatch: Patch) -> None:
    served.put("org/one", {"m.onnx": encoder})
    address = hub.Address("org/one", None, "")
    said: list[str] = []
    hub.open_repository(address).fetch("m.onnx", said.append)
    assert said[-1].startswith("fetching m.onnx, ")
    repository = hub.open_repository(address)
    served.put("org/one", {"m.onnx": encoder, "new.txt": b"x"})
    raised(StoreError, "its revision moved from commit", repository.fetch, "m.onnx")
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr("huggingface_hub.snapshot_download", Mock(side_effect=full))
    refused(EnvironmentFaultError, "no space is left for the download", "hf://org/one")


def test_a_limit_of_bytes_and_names_that_leave_the_folder(served: MockHub, encoder: bytes, monkeypatch: Patch) -> None:
    served.put("org/one", {"m.onnx": encoder})
    monkeypatch.setenv("ROBUSTCHECK_MAX_DOWNLOAD_BYTES", "10")
    refused(EnvironmentFaultError, "more than 10 bytes", "hf://org/one")
    assert not any("/cdn/" in asked for asked in served.asked)
    served.put("org/odd", {"../m.onnx": encoder, "/m.onnx": encoder, "a/../../m.onnx": encoder, "a\\m.onnx": encoder})
    refused(UsageError, "number of ONNX files in the repository is 0", "hf://org/odd")
    # names that no file can have: passed by they would hide a model beside a sidecar
    for name in ("a\0b.onnx", f"{'x' * 300}/m.onnx", "\ud800.onnx"):
        served.put("org/odd", {"m.onnx": encoder, name: b"x"})
        refused(StoreError, "can't be|surrogates", "hf://org/odd/m.onnx")


def test_a_data_set_by_its_name(served: MockHub, lookup_pass: Place, tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    model, photos = lookup_pass
    rows = [path.read_bytes() for path in photos.iterdir()]
    pq.write_table(pa.table({"image": rows}), tmp_path / "shard.parquet", row_group_size=10)
    served.put("datasets/org/photos", {"README.md": b"#", "data/t.parquet": (tmp_path / "shard.parquet").read_bytes()})
    assert check(model, images="hf://datasets/org/photos").evidence.images.n_available == len(rows)


@pytest.mark.usefixtures("wall")
def test_the_command_as_it_is_typed(served: MockHub, lookup_pass: Place, tmp_path: Path, monkeypatch: Patch) -> None:
    """In processes of their own: the client reads its environment, fetches, says how far it is, and reports nothing."""
    model, photos = lookup_pass
    served.put("org/one", {"m.onnx": model.read_bytes()})
    served.cut = 1  # the client's own warning of it would show where it downloads from, with a key
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    words = [sys.executable, "-m", "robustcheck_onnx.checker", "check", "hf://org/one", "--images", str(photos)]
    words += ["-o", "json=one-{model}.json"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    report = (tmp_path / "one-one.json").read_text()
    others = re.sub(r"^hf://org/one: \d+ s: .*\n", "", done.stderr, flags=re.MULTILINE)  # progress, on a busy machine
    assert (done.returncode, others, SECRET in done.stdout + report) == (0, "", False)
    assert sum(asked.startswith("GET /cdn/") for asked in served.asked) == 2  # what broke off is resumed
    assert not any("harness" in asked or "telemetry" in asked for asked in served.asked)


class MlflowError(Exception):
    """As MlflowException: it has a code."""

    error_code = property(lambda self: self.args[1])


@pytest.fixture
def asked(monkeypatch: Patch) -> list[Fields]:
    """With what clients are made, and which variables hold then."""
    made: list[Fields] = []

    def client(**options: str) -> str:
        made.append(options | {key: os.environ.get(key) for key in mlflow_registry.MLFLOW_ENVIRONMENT})
        return "client"

    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(MlflowClient=client))
    monkeypatch.setitem(sys.modules, "mlflow.exceptions", SimpleNamespace(MlflowException=MlflowError))
    for key in mlflow_registry.MLFLOW_ENVIRONMENT:
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", SERVER)
    return made


def test_mlflows_client_does_not_wait_long_and_leaves_the_variables(asked: list[Fields], monkeypatch: Patch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "99")  # who says so waits as long
    said = "no ada:secret here"
    before = dict(os.environ)
    kind: type[Exception]
    for fault, kind, named in (
        (MlflowError(said, "RESOURCE_DOES_NOT_EXIST"), UsageError, None),
        (MlflowError(said, "INVALID_PARAMETER_VALUE"), UsageError, SERVER),
        (MlflowError(said, "INTERNAL_ERROR"), EnvironmentFaultError, SERVER),
        (OSError(said), EnvironmentFaultError, SERVER),
        (UsageError("ours", "hint"), UsageError, "https://other.example"),
        (KeyError("a mistake of ours"), KeyError, SERVER),
    ):
        with pytest.raises(kind) as caught, mlflow_registry.mlflow_client(named):
            raise fault
        assert "secret" not in str(caught.value)
        assert dict(os.environ) == before
        where = {"tracking_uri": named or SERVER}  # which registry is MLFLOW_REGISTRY_URI's and MLflow's own to say
        assert asked.pop() == where | dict(mlflow_registry.MLFLOW_ENVIRONMENT) | {"MLFLOW_HTTP_REQUEST_TIMEOUT": "99"}
