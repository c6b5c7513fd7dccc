"""Addresses of the hub, with its unmodified client, against a hub on the loopback interface."""

from __future__ import annotations

import errno
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from robustcheck_onnx import check
from robustcheck_onnx.checker.errors import EnvironmentFaultError, RobustcheckError, UsageError
from robustcheck_onnx.checker.model.choose import choose_model
from robustcheck_onnx.checker.report.facts import blocks_of
from robustcheck_onnx.checker.storage import Url, hub
from robustcheck_onnx.checker.storage.remote import StoreError
from support import mock_hub, onnx_models
from support.hub_cache import hub_repo
from support.mock_hub import MockHub
from support.stores import SECRET

constants = pytest.importorskip("huggingface_hub.constants", reason="the extra hub is not installed")
PIXELS = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
SIDECAR = json.dumps({"preprocess_cfg": PIXELS | {"size": [8, 8]}}).encode()


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MockHub]:
    """A hub, and a cache of the client that is empty. The client has read its other variables when it was imported."""
    with mock_hub.running() as running:
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


def go_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def test_the_one_encoder_of_a_repository_is_checked_at_its_commit(
    served: MockHub, lookup_pass: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, photos = lookup_pass
    commit = served.put(
        "org/one", {"README.md": b"x", "onnx/model.onnx": model.read_bytes(), "a/text_model.onnx": b"x"}
    )
    report, here = (check(place, images=photos) for place in ("hf://org/one", model))
    facts = report.evidence.model
    origin = {"address": "hf://org/one", "revision": commit, "file": "onnx/model.onnx"}
    assert facts.origin is not None
    assert facts.origin.model_dump() == origin
    same = here.evidence.model.model_copy(update={"file": "hf://org/one/onnx/model.onnx", "origin": facts.origin})
    assert (report.verdict, report.evidence.statistics, facts) == (here.verdict, here.evidence.statistics, same)
    shown = {fact.label: (fact.value, fact.short) for block in blocks_of(report) for fact in block.facts}
    assert shown["Fetched from"] == ("hf://org/one", f"fetched at {commit[:12]}")
    assert served.tokens == {f"Bearer {SECRET}"}
    assert not any("text_model" in asked for asked in served.asked)

    blob = f"{served.url}/org/one/blob/main/onnx/model.onnx?download=true"
    for address in (f"hf://org/one@{commit}/onnx", "hf://org/one@main/onnx/model.onnx", blob):
        same_file = check(address, images=photos, max_images=3).evidence.model.origin
        assert same_file is not None
        assert same_file.model_dump() == origin | {"address": same_file.address}
    served.asked.clear()
    go_offline(monkeypatch)
    again = check("hf://org/one", images=photos)
    assert (again.evidence.model.origin, again.verdict, served.asked) == (facts.origin, report.verdict, [])


def test_weights_come_with_the_model_and_the_nearest_sidecar_above(
    served: MockHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
        with pytest.raises(UsageError, match="lies beside 2 models"):
            check("hf://org/deep/onnx/fp/m.onnx", max_images=3)
    snapshot = hub_repo(tmp_path, "org/hand")  # fetched by other means: nobody kept the listing
    for name, content in files.items():
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).write_bytes(content)
    with pytest.raises(UsageError, match="preprocessing is not known; the hub's cache does not list"):
        check("hf://org/hand", max_images=3)
    assert check("hf://org/hand", max_images=3, preprocess="clip").evidence.model.origin is not None


def test_a_model_configuration_that_says_no_pixels_hides_no_sidecar_above_it(served: MockHub, encoder: bytes) -> None:
    """What optimum writes beside an ONNX file is the model's config.json; what pixels are stands at the root."""
    timm = {"pretrained_cfg": PIXELS | {"input_size": [3, 8, 8], "crop_pct": 1.0}}
    for folder, sidecar, content, named in (
        ("a/onnx", "open_clip_config.json", SIDECAR, "open_clip_config.json"),
        ("a/b", "config.json", json.dumps(timm).encode(), "config.json"),
        ("onnx", "config.json", json.dumps(timm).encode(), "../config.json"),
    ):
        beside = {f"{folder}/m.onnx": encoder, f"{folder}/config.json": b'{"model_type": "clip"}'}
        served.put("org/nested", beside | {sidecar: content})
        assert ("mean", "0.5, 0.5, 0.5", named) in check("hf://org/nested", max_images=3).evidence.preprocessing.fields


def test_a_sidecar_above_models_of_several_folders_is_nobodys(served: MockHub, encoder: bytes) -> None:
    files = {"open_clip_config.json": SIDECAR, "vit/model.onnx": encoder, "resnet/model.ONNX": encoder}
    served.put("org/two", files)
    with pytest.raises(UsageError, match=r"beside 2 models, or above them \(vit/model.onnx, resnet/model.ONNX\)"):
        check("hf://org/two/vit/model.onnx", max_images=3)
    served.put("org/two", files | {"vit/open_clip_config.json": SIDECAR.replace(b"0.5", b"0.25")})
    fields = check("hf://org/two/vit/model.onnx", max_images=3).evidence.preprocessing.fields
    assert ("mean", "0.25, 0.25, 0.25", "open_clip_config.json") in fields
    del files["resnet/model.ONNX"]
    served.put("org/two", files | {"text/text_model.onnx": b"x"})
    assert check("hf://org/two", max_images=3).evidence.preprocessing.source == "sidecar"


def test_a_listed_sidecar_that_does_not_come_is_an_error(
    served: MockHub, encoder: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it the preprocessing would be assumed."""
    served.put("org/one", {"m.onnx": encoder, "open_clip_config.json": SIDECAR})
    real = hub.Repository.read

    def missing(self: hub.Repository, path: str, *rest: Any) -> Path:
        if path != "m.onnx":
            raise FileNotFoundError(2, "no such file", path)
        return real(self, path, *rest)

    monkeypatch.setattr(hub.Repository, "read", missing)
    with pytest.raises(StoreError, match="it was listed, and is not there"):
        check("hf://org/one", max_images=3)


def test_which_file_is_meant() -> None:
    for names, chosen in (
        ("onnx/model.onnx onnx/model_fp16.onnx onnx/model_quantized.onnx", "onnx/model.onnx"),
        ("m_fp16.onnx m_fp32.onnx", "m_fp32.onnx"),
        ("onnx/model.onnx onnx/text_model.onnx onnx/vision_model.onnx", "onnx/vision_model.onnx"),
        ("vision_model_fp16.onnx text_model.onnx", "vision_model_fp16.onnx"),
        ("model.onnx onnx/model_fp16.onnx", "model.onnx"),
        ("M.ONNX M_FP16.ONNX", "M.ONNX"),
        ("vision_model.onnx vision_model_fp16.onnx model_fp16.onnx text_model.onnx", "vision_model.onnx"),
        ("a.onnx b.onnx", None),
        ("m_fp16.onnx m_int8.onnx", None),
        ("model.onnx vision_model.onnx", None),
        ("dino.onnx resnet_fp16.onnx", None),
        ("dino_fp32.onnx resnet_int8.onnx", None),
        ("a/model.onnx b/model_fp16.onnx", None),
        ("clip/vision_model.onnx dino/model.onnx", None),
    ):
        paths = names.split()
        if chosen is not None:
            assert choose_model(paths, "hf://o/r", "hf://o/r/{}".format) == chosen
            continue
        with pytest.raises(UsageError, match=f"number of encoders is {len(paths)}") as caught:
            choose_model(paths, "hf://o/r", "hf://o/r/{}".format)
        assert caught.value.hint == f"robustcheck hf://o/r/{paths[0]}"


def test_a_name_in_a_hint_is_one_word_of_a_shell(served: MockHub, encoder: bytes) -> None:
    """Whoever owns a repository names its files; a hint is copied to a shell."""
    name = "$(touch x).onnx"
    for more, address, said in (
        ({}, "hf://org/odd", name),
        ({}, "hf://org/odd/$(touch y).onnx", name),
        ({f"a/{name}": encoder, "open_clip_config.json": SIDECAR}, f"hf://org/odd/a/{name}", f"a/{name}"),
    ):
        served.put("org/odd", {name: encoder, "b.onnx": encoder} | more)
        with pytest.raises(UsageError) as caught:
            check(address, max_images=3)
        assert shlex.split(caught.value.hint, comments=True)[:2] == ["robustcheck", f"hf://org/odd/{said}"]


def test_a_checkpoint_gets_the_two_commands_that_check_it(served: MockHub) -> None:
    served.put("org/clip", {"config.json": b'{"model_type": "clip"}'})
    served.put("org/timm", {"config.json": b'{"architecture": "vit", "num_features": 3}'})
    served.put("org/open_clip", {"open_clip_config.json": b"{}"})
    main = "hf download org/clip --revision main --local-dir checkpoint && "  # the default would be another model
    for address, before, first in (
        ("timm:vit_base_patch16_clip_224.openai", "", "timm vit_base_patch16_clip_224.openai"),
        ("open_clip:ViT-B-32/openai", "", "open_clip ViT-B-32 --weights openai"),
        ("open_clip:hf-hub:org/repo", "", "open_clip hf-hub:org/repo"),
        ("transformers:openai/clip-vit-base-patch32", "", "transformers openai/clip-vit-base-patch32"),
        ("timm:$(touch x)", "", "timm '$(touch x)'"),
        ("timn:resnet50", "", "timm resnet50"),
        ("hf://org/timm@main", "", "timm hf-hub:org/timm@main"),
        ("hf://org/clip/onnx/model.onnx", "", "transformers org/clip"),
        ("hf://org/open_clip", "", "open_clip hf-hub:org/open_clip"),
        ("hf://org/clip@main", main, "transformers ./checkpoint"),
    ):
        with pytest.raises(UsageError) as caught:
            check(address, max_images=3)
        assert caught.value.hint == f"{before}robustcheck export {first} -o model.onnx && robustcheck model.onnx"


def test_a_repository_that_can_not_be_checked(served: MockHub) -> None:
    two = {"a.onnx": b"x", "b.onnx": b"y"}
    for files, path, said, hint in (
        ({"open_clip_config.json": b"{}"}, "", "is 0; it holds a checkpoint of open_clip", "export open_clip"),
        ({"config.json": b"[" * 9, "x.bin": b""}, "", "it holds 2 other files", "export it"),
        (two, "", "number of encoders is 2", "robustcheck hf://org/x/a.onnx"),
        (two, "/onnx/c.onnx", "has no ONNX file there; it has 2", "robustcheck hf://org/x/"),
    ):
        served.put("org/x", files)
        with pytest.raises(UsageError, match=said) as caught:
            check(f"hf://org/x{path}", max_images=3)
        assert hint in caught.value.hint


def test_what_is_no_repository(served: MockHub, encoder: bytes) -> None:
    for repo in ("org/one", "org/gated"):
        served.put(repo, {"m.onnx": encoder})
    served.gated.add("org/gated")
    kind: type[RobustcheckError]
    for address, kind, said in (
        ("hf://org/nix", UsageError, "is not on the hub, or may not be read"),
        ("hf://org/one@v9", UsageError, "revision v9 is not in the repository"),
        ("hf://org/gated", EnvironmentFaultError, "is gated; its owner must give access"),
        ("hf://datasets/org/one", UsageError, "is of the hub's datasets"),
        ("hf://org", UsageError, "names no repository"),
        ("hf://org/../x", UsageError, "names no repository"),
        ("hf://org/one/../x.onnx", UsageError, r"path has a part \.\."),
    ):
        with pytest.raises(kind, match=said) as caught:
            check(address, max_images=3)
        assert SECRET not in caught.value.message + caught.value.hint


def test_a_hub_that_is_asked_too_often_or_is_not_there(
    served: MockHub, encoder: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.put("org/one", {"m.onnx": encoder})
    served.busy = 1
    with pytest.raises(EnvironmentFaultError, match="asked too often"):
        check("hf://org/one", max_images=3)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(StoreError, match="ConnectError"):
        check("hf://org/one", max_images=3)
    go_offline(monkeypatch)
    with pytest.raises(EnvironmentFaultError, match="HF_HUB_OFFLINE"):
        check("hf://org/two", max_images=3)


def test_bytes_that_are_not_those_that_the_hub_lists(
    served: MockHub, lookup_pass: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, photos = lookup_pass
    served.put("org/one", {"m.onnx": model.read_bytes()})
    served.spoiled.add("m.onnx")
    with pytest.raises(EnvironmentFaultError, match="another digest than the hub lists") as caught:
        check("hf://org/one", images=photos)
    (blob,) = (tmp_path / "hub" / "models--org--one" / "blobs").iterdir()
    assert str(blob) in caught.value.hint
    blob.unlink()
    served.spoiled.clear()
    served.asked.clear()
    served.cut = 1  # a download that breaks off is resumed
    assert check("hf://org/one", images=photos).passed
    assert sum(asked.startswith("GET /cdn/") for asked in served.asked) == 2
    blob.write_bytes(model.read_bytes()[:-1] + b"\0")  # somebody changed the cache
    go_offline(monkeypatch)
    with pytest.raises(EnvironmentFaultError, match="another digest"):
        check("hf://org/one", images=photos)


def test_how_far_a_download_is_a_revision_that_moves_meanwhile_and_a_cache_without_space(
    served: MockHub, encoder: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.put("org/one", {"m.onnx": encoder})
    address = hub.parse_hub(Url("hf://org/one", "hf"))
    assert address is not None
    said: list[str] = []
    hub.open_repository(address).read("m.onnx", said.append)
    assert said[-1].startswith("fetching m.onnx, ")
    repository = hub.open_repository(address)
    served.put("org/one", {"m.onnx": encoder, "new.txt": b"x"})
    with pytest.raises(StoreError, match="its revision moved from commit"):
        repository.read("m.onnx")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("huggingface_hub.snapshot_download", full)
    with pytest.raises(EnvironmentFaultError, match="no space is left for the download"):
        check("hf://org/one", max_images=3)


def test_a_limit_of_bytes_and_names_that_leave_the_folder(
    served: MockHub, encoder: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.put("org/one", {"m.onnx": encoder})
    monkeypatch.setenv("ROBUSTCHECK_MAX_DOWNLOAD_BYTES", "10")
    with pytest.raises(EnvironmentFaultError, match="more than 10 bytes"):
        check("hf://org/one", max_images=3)
    assert not any("/cdn/" in asked for asked in served.asked)
    served.put("org/odd", {"../m.onnx": encoder, "/m.onnx": encoder, "a/../../m.onnx": encoder, "a\\m.onnx": encoder})
    with pytest.raises(UsageError, match="number of ONNX files in the repository is 0"):
        check("hf://org/odd", max_images=3)
    # names that no file can have: passed by they would hide a model beside a sidecar
    for name in ("a\0b.onnx", f"{'x' * 300}/m.onnx", "\ud800.onnx"):
        served.put("org/odd", {"m.onnx": encoder, name: b"x"})
        with pytest.raises(StoreError, match=r"can't be|surrogates"):
            check("hf://org/odd/m.onnx", max_images=3)


def test_a_scheme_that_is_not_known_has_its_nearest() -> None:
    for word, hint in (
        ("model:/encoder/3", "models:/encoder/3"),
        ("wandb:org/run/model:v1", "wandb artifact get …"),
        ("nosuchscheme:x", "hf://org/repo, models:/name/1"),
    ):
        with pytest.raises(UsageError) as caught:
            check(word)
        assert caught.value.hint == hint


def test_a_data_set_by_its_name(served: MockHub, lookup_pass: tuple[Path, Path], tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    model, photos = lookup_pass
    rows = [{"bytes": path.read_bytes(), "path": path.name} for path in photos.iterdir()]
    pq.write_table(pa.table({"image": rows}), tmp_path / "shard.parquet", row_group_size=10)
    served.put(
        "datasets/org/photos", {"README.md": b"#", "data/t-1.parquet": (tmp_path / "shard.parquet").read_bytes()}
    )
    for name in ("", "/data/t-{1..1}.parquet"):
        assert check(model, images=f"hf://datasets/org/photos{name}").evidence.images.n_available == len(rows)
    with pytest.raises(UsageError, match="no such file or folder"):
        check(model, images="hf://datasets/org/nix")


@pytest.mark.process
@pytest.mark.usefixtures("wall")
def test_the_command_as_a_user_types_it(served: MockHub, lookup_pass: tuple[Path, Path], tmp_path: Path) -> None:
    """In processes of their own: the client reads its environment, fetches, says how far it is, and reports nothing."""
    model, photos = lookup_pass
    served.put("org/one", {"m.onnx": model.read_bytes()})
    served.cut = 1  # the client's own warning of it would show where it downloads from, with a key
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_ENDPOINT": served.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": SECRET}
    words = [sys.executable, "-m", "robustcheck_onnx.checker", "check", "hf://org/one", "--images", str(photos)]
    words += ["-o", "json=one-{model}.json"]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    report = (tmp_path / "one-one.json").read_text()
    assert (done.returncode, done.stderr, SECRET in done.stdout + report) == (0, "", False)
    assert json.loads(report)["evidence"]["model"]["origin"]["file"] == "m.onnx"
    assert {asked.split("/")[1] for asked in served.asked} == {"api", "org", "cdn"}
    assert not any("harness" in asked or "telemetry" in asked for asked in served.asked)
    assert (tmp_path / "home" / "hub" / "models--org--one").is_dir()
