"""A model behind a URL, or in memory, as a file of this machine for one run, with everything that belongs to it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import onnx
from google.protobuf.message import EncodeError  # type: ignore[import-untyped]

from robustcheck_onnx.checker.errors import CannotAssessError, EnvironmentFaultError, RobustcheckError, UsageError
from robustcheck_onnx.checker.evidence import Origin
from robustcheck_onnx.checker.storage import (
    Place,
    RemoteFile,
    StoreError,
    Url,
    download,
    hub,
    limit_bytes,
    open_url,
    parse_place,
    private_folder,
)
from robustcheck_onnx.checker.storage.urls import HUB_OFFLINE, REGISTRY
from robustcheck_onnx.checker.text import quoted, type_name

from .addresses import from_registry, in_repository, refuse_unknown
from .configs import HUB_FOLDER, OWN_SUFFIX, SIDECAR_NAMES, sidecar_paths
from .contract import parse_contract, properties
from .file import external_locations
from .sidecar import says_pixels, takes_no_image

Model = str | os.PathLike[str] | Url | bytes | onnx.ModelProto
"""what `check` takes: a path, a URL, a file's bytes, or the parsed message"""
IN_MEMORY = "model.onnx"  # its name in the private folder, which no report shows


@dataclass(frozen=True)
class LocalModel:
    """A model as a file of this machine."""

    path: Path
    name: str
    """as reports name it: the path, the URL without its secrets, <bytes> or <ModelProto>"""
    fetched: bool
    """whether the file is a copy that goes away"""
    in_memory: bool = False
    """whether it was never a file"""
    origin: Origin | None = None
    """what its address stood for, of a hub or a registry"""


def parse_model(model: Model) -> Place | bytes | onnx.ModelProto:
    """Tell a path from a URL; what is no name of a file stays.

    Raises:
        TypeError: another type, which the message names.
        UsageError: as `storage.parse_place`; a scheme that is not known.
    """
    if isinstance(model, (str, os.PathLike)):
        text = os.fspath(model)
        refuse_unknown(text)
        return parse_place(text, is_model=True)
    if isinstance(model, (Url, bytes, onnx.ModelProto)):
        return model
    raise TypeError(f"model: type is {type_name(model)}; it must be a path, a URL, bytes or an onnx.ModelProto")


@contextlib.contextmanager
def on_this_machine(
    model: Place | bytes | onnx.ModelProto, *, preprocess: str | None = None, tell: Callable[[str], None] | None = None
) -> Iterator[LocalModel]:
    """Give the model as a file of this machine; of a URL, a whole copy in a private folder, removed at the end.

    So are bytes, and the serialised bytes of a ModelProto. They have no sidecar, and no weights beside them.

    With the model come the files of weights that it names, and, where neither `preprocess` nor a contract in the file
    says what the pixels are, the sidecars beside it or above its folder `onnx`: what `find_preprocessing` would look
    at. A web server can't list a folder, so that other models beside it are not seen; there only the sidecar that
    bears the model's name counts. Beside a signed URL nothing is looked for.

    Of a repository on the hub, and of an entry of MLflow's registry, the one encoder is taken (`choose_model`), and
    `origin` says what the address stood for.

    Inside, an error's text names the URL, not the copy.

    tell: called with how far a fetch is.

    Raises:
        UsageError: no such file behind a URL.
        CannotAssessError: files of weights outside the model's folder or beside a signed URL; otherwise as `read_onnx`.
        EnvironmentFaultError: fsspec or a package is missing, the store can't be reached, no space.
    """
    if isinstance(model, Path):
        yield LocalModel(model, str(model), False)
        return
    if isinstance(model, (bytes, onnx.ModelProto)):
        with _written(model) as here:
            yield here
        return
    if model.protocol in REGISTRY:
        with from_registry(model, tell) as (path, entry), _said_of(model, path):
            yield LocalModel(path, str(model), fetched=True, origin=entry)
        return
    address = hub.parse_hub(model)
    file: RemoteFile
    origin: Origin | None = None
    if address is None:
        file = open_url(model)
    else:
        file, origin = in_repository(address, tell)
    with private_folder() as folder:
        path = folder / _local_name(file)
        if file.parent.name == HUB_FOLDER:  # where sidecars are looked for above the folder, too
            path = folder / HUB_FOLDER / path.name
            path.parent.mkdir()
        try:
            _fetch(file, path, preprocess)
            yield LocalModel(path, str(file), True, origin=origin)
        except RobustcheckError as fault:
            # the copy's name would help nobody
            fault.message = _renamed(fault.message, path, file)
            fault.hint = _renamed(fault.hint, path, file)
            fault.args = (fault.message,)
            raise


@contextlib.contextmanager
def _said_of(url: Url, path: Path) -> Iterator[None]:
    """Name the address, not the copy, in errors; a command on the copy becomes one on a copy that stays."""
    try:
        yield
    except RobustcheckError as fault:
        if str(path) in fault.hint and not fault.hint.startswith("robustcheck "):
            there = fault.hint.replace(quoted(path), quoted(path.name)).replace(str(path), path.name)
            fault.hint = f"mlflow artifacts download -u {quoted(url)} -d . && {there}"
        for copy in (path, path.parent):
            fault.message, fault.hint = (text.replace(str(copy), str(url)) for text in (fault.message, fault.hint))
        fault.args = (fault.message,)
        raise


@contextlib.contextmanager
def _written(model: bytes | onnx.ModelProto) -> Iterator[LocalModel]:
    name = "<bytes>" if isinstance(model, bytes) else "<ModelProto>"
    try:
        content = model if isinstance(model, bytes) else model.SerializeToString()
    except (EncodeError, ValueError) as fault:
        raise CannotAssessError(
            f"{name}: model can't be serialised ({' '.join(str(fault).split())[:200]}); protobuf ends at 2 GiB",
            "save it with its weights as external data, and name the file",
        ) from fault
    with private_folder() as folder:
        path = folder / IN_MEMORY
        try:
            path.write_bytes(content)
        except OSError as fault:
            raise EnvironmentFaultError(
                f"{name}: temporary file can't be written ({fault.strerror}); ONNX Runtime reads a file",
                "df -h; export TMPDIR=FOLDER",
            ) from fault
        try:
            yield LocalModel(path, name, fetched=True, in_memory=True)
        except RobustcheckError as fault:
            fault.message = fault.message.replace(str(path), name).replace(str(folder), f"the folder of {name}")
            if str(folder) in fault.hint:  # a command on a file that goes away
                fault.hint = "save the model with its weights to a file, and name that file"
            fault.args = (fault.message,)
            raise


def _renamed(text: str, path: Path, file: RemoteFile) -> str:
    text = text.replace(str(path), str(file)).replace(str(path.parent), str(file.parent))
    return text.replace(str(path.parent.parent), str(file.parent.parent)) if path.parent.name == HUB_FOLDER else text


def _local_name(file: RemoteFile) -> str:
    name = "".join("_" if sign in '/\\\0<>:"|?*' else sign for sign in file.name)
    if name.strip(". ") == "":
        raise UsageError(f"{file}: model's URL ends in no file name; one .onnx file is needed", "look at the URL")
    return name


def _fetch(file: RemoteFile, path: Path, preprocess: str | None) -> None:
    budget_bytes = limit_bytes()
    try:
        budget_bytes -= download(file, path, budget_bytes)
    except FileNotFoundError as fault:
        raise UsageError(
            f"{file}: model file is missing; no such file, or a folder", "look at the URL: one .onnx file is needed"
        ) from fault
    proto, locations = external_locations(path)
    contract = parse_contract(properties(proto.metadata_props, str(path)), str(path))
    if locations and file.is_signed:
        raise CannotAssessError(
            f"{file}: model keeps weights in {locations[0]}; a signed URL opens one file alone",
            "save the model with its weights inside, or copy the folder here",
        )
    for location in locations:
        part = PurePosixPath(location).as_posix()
        target = path.parent / part
        if target.exists():  # weights in the model's own file, or named twice
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # read_onnx says which is missing
            budget_bytes -= download(file.parent / part, target, budget_bytes)
    if preprocess is None and contract is None and not file.is_signed:
        _fetch_sidecars(file, path, budget_bytes)


def _fetch_sidecars(file: RemoteFile, path: Path, budget_bytes: int) -> None:
    own = PurePosixPath(file.name).with_suffix(OWN_SUFFIX).name
    wanted = [(file.parent / own, path.with_suffix(OWN_SUFFIX))]
    if not file.url.is_http:
        beside = _names_in(file.parent, path.parent, own=file.name)
        names = [name for name in SIDECAR_NAMES if name in beside]
        wanted = wanted * (own in beside) + [(file.parent / name, path.with_name(name)) for name in names]
        if path.parent.name == HUB_FOLDER:
            above, target = file.parent.parent, path.parent.parent
            present = []
            with contextlib.suppress(StoreError):  # a folder that may not be listed has none, as on this machine
                present = _names_in(above, target)
            wanted += [(above / name, target / name) for name in SIDECAR_NAMES if name in present]
        else:
            _names_in(file.parent / HUB_FOLDER, path.parent / HUB_FOLDER)
        if isinstance(file, hub.HubFile) and not file.store.is_whole and own not in beside:
            raise UsageError(
                f"{file}: preprocessing is not known; the hub's cache does not list the sidecars and models of the "
                "repository",
                f"unset {HUB_OFFLINE} once, or give --preprocess",
            )
    for sidecar, target in wanted:
        if not target.exists():
            try:
                budget_bytes -= download(sidecar, target, budget_bytes)
            except FileNotFoundError as fault:
                target.unlink(missing_ok=True)
                if not file.url.is_http:  # a web server was asked whether there is one; another store listed it
                    raise StoreError(sidecar.shown, "it was listed, and is not there") from fault
    if isinstance(file, hub.HubFile):
        _fetch_upward(file, path, budget_bytes)


def _fetch_upward(file: hub.HubFile, path: Path, budget_bytes: int) -> None:
    """Put beside the model the nearest sidecars further up in its repository, where none nearer says what pixels are.

    Raises UsageError: models of other folders lie below such a sidecar.
    """
    folder = file.parent
    while folder.path and not any(each.is_file() and says_pixels(each) for each in sidecar_paths(path)):
        folder = folder.parent
        present = folder.names_beside()
        for sidecar in (folder / name for name in SIDECAR_NAMES if name in present):
            target = path.with_name(sidecar.name)
            budget_bytes -= download(sidecar, target, budget_bytes)
            below = f"{folder.path}/" if folder.path else ""
            models = [PurePosixPath(name) for name in file.store.files if name.startswith(below)]
            others = [
                str(model)
                for model in sorted(models)
                if model.suffix.lower() == ".onnx" and model.parent.as_posix() != (file.parent.path or ".")
                if not takes_no_image(model)
            ]
            if others and says_pixels(target):
                raise UsageError(
                    f"{sidecar}: sidecar lies beside {len(others) + 1} models, or above them ({file.path}, "
                    f"{others[0]}{', …' if len(others) > 1 else ''}); it must be clear whose preprocessing it is",
                    f"robustcheck {quoted(file)} --preprocess FILE  # a copy of it, if it is this model's",
                )


def _names_in(folder: RemoteFile, target: Path, own: str = "") -> list[str]:
    """List the files of a folder in a store; an empty file in `target` stands for each model in it but `own`.

    Sidecars that name no model are refused where they lie beside several.
    """
    try:
        names = folder.names_beside()
    except FileNotFoundError:  # no such folder
        return []
    for name in names:
        if name.lower().endswith(".onnx") and name != own and "\\" not in name:
            target.mkdir(exist_ok=True)
            (target / name).touch()
    return names
