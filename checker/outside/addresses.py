"""Turn an address into a model file on this machine: a path, a URL, a name on the hub or in MLflow's registry.

A model in memory becomes a file, too.
"""

import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path, PurePosixPath

from google.protobuf.message import EncodeError  # type: ignore[import-untyped]
from onnx import ModelProto

from ..core.evidence import Evidence, Origin
from ..core.model.contract import parse_contract
from ..core.model.file import external_locations
from ..core.model.sidecar import (
    HUB_FOLDER,
    OWN_SUFFIX,
    SIDECAR_NAMES,
    choose_model,
    says_pixels,
    sidecar_paths,
    takes_no_image,
)
from ..core.progress import TellLine
from ..errors import CallError, CannotAssessError, EnvironmentFaultError, RobustcheckError, UsageError
from ..text import frozen, is_onnx, one_line, quoted, type_name
from .storage import hub, mlflow_registry
from .storage.places import HTTP, HUB_OFFLINE, ON_THIS_MACHINE, REGISTRY, Place, Url, parse_place, redact
from .storage.stores import RemoteFile, StoreError, download, limit_bytes, open_url, private_folder

Model = str | os.PathLike[str] | Url | bytes | ModelProto
"""what `check` takes: a path, a URL, a file's bytes, or the parsed message"""
IN_MEMORY = "model.onnx"  # its name in the private folder, which no report shows
SCHEMES = ("hf", *HTTP, *REGISTRY, *ON_THIS_MACHINE)  # those of fsspec's stores have two slashes
LIBRARIES = ("open_clip", "timm", "torchvision", "transformers")  # of checkpoints: `robustcheck export` loads them
OTHERS = {"wandb": "wandb artifact get", "oci": "oras pull"}  # not read here: their own clients fetch them
ShownPaths = Mapping[Path, object]
"""by the path of a copy, what is shown in its place"""
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9_+.-]+):(?!//)")


@frozen
class LocalModel:
    """A model as a file on this machine."""

    path: Path
    name: str
    """as reports name it: the path, the URL without its secrets, <bytes> or <ModelProto>"""
    fetched: bool
    """whether the file is a copy that goes away"""
    in_memory: bool = False
    """whether it was never a file"""
    origin: Origin | None = None
    """what its address meant, of a hub or a registry"""
    names: ShownPaths = field(default_factory=dict)
    other_models: tuple[Path, ...] | None = None
    """where copies of the other models of its folders would be, which were listed and not fetched; None: what is there
    on the disk"""

    def shown(self, text: str) -> str:
        """Return a text with names in place of the paths of a copy."""
        return _with_names(text, self.names)

    def named(self, evidence: Evidence) -> Evidence:
        """Return evidence that names the address of a copy, not its path."""
        if not self.fetched:
            return evidence
        facts = evidence.model.model_copy(update={"file": self.name, "origin": self.origin})
        return evidence.model_copy(update={"model": facts})


def parse_address(model: str | os.PathLike[str] | Url) -> Place:
    """Return the path or URL of a text. Raises as `parse_model`, and CallError for a model in memory."""
    place = parse_model(model)
    if isinstance(place, (Path, Url)):
        return place
    raise CallError(f"model: type is {type_name(model)}; here it must be a path or a URL")


def parse_model(model: Model) -> Place | bytes | ModelProto:
    """Return the path or URL of a text, and bytes and messages as they are.

    Raises:
        CallError: another type, which the message names.
        UsageError: as `parse_place`; a scheme that is not known.
    """
    if isinstance(model, (str, os.PathLike)):
        text = os.fspath(model)
        _refuse_unknown(text)
        return parse_place(text, is_model=True)
    if isinstance(model, (Url, bytes, ModelProto)):
        return model
    raise CallError(f"model: type is {type_name(model)}; it must be a path, a URL, bytes or an onnx.ModelProto")


def _refuse_unknown(text: str) -> None:
    """Refuse a word with an unknown scheme, unless a file has that name."""
    match = _SCHEME.match(text)
    if match is None or os.path.lexists(text):
        return
    scheme = match[1].lower()
    if scheme in SCHEMES:
        return
    name = text[match.end() :]
    shown = redact(text)
    near = "".join(get_close_matches(scheme, [*SCHEMES, *LIBRARIES], 1))
    if name.startswith("/") and not near:
        return  # `Path("s3://bucket")` has one slash; parse_place says so
    if scheme in LIBRARIES:
        raise UsageError(
            f"{shown}: {scheme} is a library of checkpoints; a check needs an ONNX file", _export_first(scheme, name)
        )
    if scheme in OTHERS:
        raise UsageError(f"{shown}: scheme {scheme} is not read; the file must be fetched first", f"{OTHERS[scheme]} …")
    hint = f"{near}:{name}" if near else "hf://org/repo, models:/name/1"
    if near in LIBRARIES:
        hint = _export_first(near, name)
    raise UsageError(
        f"{shown}: no such file, and {scheme} is not a scheme; an address starts with {', '.join(SCHEMES)}", hint
    )


def _export_first(library: str, name: str) -> str:
    """Return the commands that export and check a checkpoint."""
    words = [name]
    if library in ("open_clip", "torchvision") and ":" not in name and "/" in name:  # NAME/WEIGHTS, no hf-hub:org/repo
        model, _, weights = name.partition("/")
        words = [model, "--weights", weights]
    export = shlex.join(["robustcheck", "export", library, *words, "-o", "model.onnx"])
    return f"{export} && robustcheck model.onnx"


@contextmanager
def on_this_machine(
    model: Place | bytes | ModelProto, *, preprocess: str | None = None, tell: TellLine | None = None
) -> Iterator[LocalModel]:
    """Yield the model as a local file: the content of a URL, of bytes or of a ModelProto in a folder that goes away.

    Models in memory have no sidecar, and no weights of their own.

    With the model come its files of weights, and, where neither `preprocess` nor a contract in the file describes the
    pixels, the sidecars next to it or above its folder `onnx`: those that `find_preprocessing` reads. A web server
    can't list a folder, so only the sidecar with the model's name counts there. Next to a signed URL nothing is looked
    for. Of a repository on the hub, and of an entry of MLflow's registry, the one encoder is taken (`choose_model`).

    Inside, an error's text names the URL, not the copy.

    Args:
        model: as `parse_model` returns it.
        preprocess: the user's preprocessing, in place of sidecars.
        tell: called with how far a fetch is.

    Raises:
        UsageError: no such file behind a URL.
        CannotAssessError: weights outside the model's folder or next to a signed URL; otherwise as `read_onnx`.
        EnvironmentFaultError: fsspec or a package is missing, the store can't be reached, no space.
    """
    if isinstance(model, Path):
        yield LocalModel(model, str(model), False)
        return
    with private_folder() as folder:
        if isinstance(model, (bytes, ModelProto)):
            source = _in_memory(model, folder)
        elif model.protocol in REGISTRY:
            source = _registered(model, folder, tell)
        else:
            source = _remote(model, folder, preprocess, tell)
        with source as local:
            yield local


@contextmanager
def _renamed(names: ShownPaths, hint_of: Callable[[str], str] = str) -> Iterator[None]:
    """Replace the paths of copies in errors by names, after `hint_of` has changed the hint."""
    try:
        yield
    except RobustcheckError as fault:
        fault.message = _with_names(fault.message, names)
        fault.hint = _with_names(hint_of(fault.hint), names)
        raise


def _with_names(text: str, names: ShownPaths) -> str:
    for path, name in names.items():
        text = text.replace(str(path), str(name))
    return text


@contextmanager
def _in_memory(model: bytes | ModelProto, folder: Path) -> Iterator[LocalModel]:
    name = "<bytes>" if isinstance(model, bytes) else "<ModelProto>"
    path = folder / IN_MEMORY
    try:
        path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    except (EncodeError, ValueError) as fault:
        raise CannotAssessError(
            f"{name}: model can't be serialised ({one_line(fault, 200)}); protobuf ends at 2 GiB",
            "save it with its weights as external data, and name the file",
        ) from fault
    except OSError as fault:
        raise EnvironmentFaultError(
            f"{name}: temporary file can't be written ({fault.strerror}); ONNX Runtime reads a file",
            "df -h; export TMPDIR=FOLDER",
        ) from fault

    def saved_first(hint: str) -> str:  # in place of a command on the copy
        return "save the model with its weights to a file, and name that file" if str(folder) in hint else hint

    with _renamed({path: name, folder: f"the folder of {name}"}, saved_first):
        yield LocalModel(path, name, fetched=True, in_memory=True)


@contextmanager
def _registered(url: Url, folder: Path, tell: TellLine | None) -> Iterator[LocalModel]:
    """Yield a model of MLflow's registry, or of a run, with all its files."""
    if tell is not None:
        tell(f"fetching {url}")
    with mlflow_registry.mlflow_client() as client:
        entry = mlflow_registry.resolve_mlflow(client, url)
        files = mlflow_registry.fetch_mlflow(client, entry, folder)
    if not files.models:
        raise CannotAssessError(
            f"{url}: number of ONNX files there is 0; at least one is needed", "log the model in the ONNX flavour"
        )
    shown = str(url)
    chosen = choose_model(files.models, shown, lambda path: f"{shown.rstrip('/')}/{path}")
    path = files.folder / chosen

    def fetched_first(hint: str) -> str:  # a command on the copy becomes one on a copy that stays
        if str(path) not in hint or hint.startswith("robustcheck "):
            return hint
        command = hint.replace(quoted(path), quoted(path.name))
        command = command.replace(str(path), path.name)
        return f"mlflow artifacts download -u {quoted(url)} -d . && {command}"

    names: ShownPaths = {path: url, path.parent: url}
    with _renamed(names, fetched_first):
        origin = Origin(address=shown, revision=entry.revision, file=chosen)
        yield LocalModel(path, shown, fetched=True, origin=origin, names=names)


@contextmanager
def _remote(url: Url, folder: Path, preprocess: str | None, tell: TellLine | None) -> Iterator[LocalModel]:
    address = hub.parse_hub(url)
    origin = None
    if address is None:
        file = open_url(url)
    else:
        file, origin = _in_repository(address, tell)
    name = re.sub(r'[/\\\0<>:"|?*]', "_", file.name)
    if name.strip(". ") == "":
        raise UsageError(f"{file}: model's URL ends in no file name; one .onnx file is needed", "look at the URL")
    path = folder / name
    names: ShownPaths = {}
    if file.parent.name == HUB_FOLDER:  # sidecars are looked for above that folder, too
        path = folder / HUB_FOLDER / name
        path.parent.mkdir()
        names = {folder: file.parent.parent}
    names = {path: file, path.parent: file.parent, **names}
    with _renamed(names):
        copy = _Download(file, path, limit_bytes())
        copy.run(is_described=preprocess is not None)
        others = tuple(sorted(copy.other_models))
        yield LocalModel(path, str(file), fetched=True, origin=origin, names=names, other_models=others)


def _in_repository(address: hub.Address, tell: TellLine | None) -> tuple[RemoteFile, Origin]:
    """Return the ONNX file of a hub address, unread. Raises UsageError, StoreError."""
    if tell is not None:
        tell(f"asking what {address} holds")
    repository = hub.open_repository(address)
    below = f"{address.path}/" if address.path else ""
    models = sorted(filter(is_onnx, repository.files))
    if address.path in models:
        chosen = address.path
    elif inside := [name for name in models if name.startswith(below)]:
        chosen = choose_model(inside, str(address), lambda path: str(replace(address, path=path)))
    else:
        raise _no_model(address, repository, models)
    origin = Origin(address=str(address), revision=repository.commit, file=chosen)
    return hub.open_hub_file(repository, chosen, tell), origin


def _no_model(address: hub.Address, repository: hub.Repository, models: Sequence[str]) -> UsageError:
    if models and address.path:
        near = get_close_matches(address.path, models, 1) or models
        return UsageError(
            f"{address}: repository has no ONNX file there; it has {len(models)}",
            f"robustcheck {quoted(replace(address, path=near[0]))}",
        )
    if not repository.is_complete:
        return UsageError(
            f"{address}: number of ONNX files in the hub's cache is 0; {HUB_OFFLINE} forbids to fetch one",
            f"unset {HUB_OFFLINE}",
        )
    library = hub.library_of(repository)
    content = f"a checkpoint of {library}" if library else f"{len(repository.files)} other files"
    hint = _export_of(library, address) if library else "export it, and name the ONNX file"
    return UsageError(f"{address}: number of ONNX files in the repository is 0; it holds {content}", hint)


def _export_of(library: str, address: hub.Address) -> str:
    """Return the commands that export and check a checkpoint on the hub."""
    schema = "" if library == "transformers" else "hf-hub:"
    if address.revision is None:
        return _export_first(library, f"{schema}{address.repo}")
    if library == "timm":  # only timm loads another revision than main itself
        return _export_first(library, f"{schema}{address.repo}@{address.revision}")
    copy = "./checkpoint" if library == "transformers" else "local-dir:checkpoint"
    download = f"hf download {address.repo} --revision {quoted(address.revision)} --local-dir checkpoint"
    return f"{download} && {_export_first(library, copy)}"


@dataclass
class _Download:
    """A model's download: its file, its weights, its sidecars."""

    file: RemoteFile
    path: Path
    left_bytes: int
    other_models: list[Path] = field(default_factory=list)
    """where copies of the models would be that lie in the same folders, as far as those were listed"""

    def run(self, *, is_described: bool) -> None:
        """Fetch all files, without sidecars where the preprocessing is described already."""
        file = self.file
        path = self.path
        try:
            self._take(file, path)
        except FileNotFoundError as fault:
            raise UsageError(
                f"{file}: model file is missing; no such file, or a folder", "look at the URL: one .onnx file is needed"
            ) from fault
        proto, locations = external_locations(path)
        contract = parse_contract(proto, str(path))
        if locations and file.is_signed:
            raise CannotAssessError(
                f"{file}: model keeps weights in {locations[0]}; a signed URL opens one file alone",
                "save the model with its weights inside, or copy the folder here",
            )
        for part in map(PurePosixPath, locations):
            target = path.parent / part
            target.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):  # read_onnx says which is missing
                self._take(file.parent / part.as_posix(), target)
        if not is_described and contract is None and not file.is_signed:
            self._take_sidecars()

    def _take(self, file: RemoteFile, target: Path) -> None:
        if not target.exists():  # named twice, or weights in the model's own file
            self.left_bytes -= download(file, target, self.left_bytes)

    def _take_sidecar(self, sidecar: RemoteFile, target: Path) -> None:
        try:
            self._take(sidecar, target)
        except FileNotFoundError as fault:
            target.unlink(missing_ok=True)
            if not sidecar.url.is_http:  # a web server was asked whether there is one; another store listed it
                raise StoreError(sidecar.shown, "it was listed, and is not there") from fault

    def _take_sidecars(self) -> None:
        file = self.file
        folder = self.path.parent
        own = PurePosixPath(file.name).with_suffix(OWN_SUFFIX).name
        own_target = self.path.with_suffix(OWN_SUFFIX)
        if file.url.is_http:
            self._take_sidecar(file.parent / own, own_target)
            return
        names = self._names_in(file.parent, folder)
        if own in names:
            self._take_sidecar(file.parent / own, own_target)
        elif isinstance(file, hub.HubFile) and not file.store.is_complete:
            raise UsageError(
                f"{file}: preprocessing is not known; the hub's cache does not list the sidecars and models of the "
                "repository",
                f"unset {HUB_OFFLINE} once, or give --preprocess",
            )
        self._take_listed(file.parent, folder, names)
        if folder.name == HUB_FOLDER:
            above = file.parent.parent
            names = []
            with suppress(StoreError):  # a folder that may not be listed has none, as on this machine
                names = self._names_in(above, folder.parent)
            self._take_listed(above, folder.parent, names)
        else:
            self._names_in(file.parent / HUB_FOLDER, folder / HUB_FOLDER)
        if isinstance(file, hub.HubFile):
            self._take_upward(file)

    def _names_in(self, folder: RemoteFile, target: Path) -> list[str]:
        """List the files of a folder, and add its other models to `other_models`, as if they were copied to `target`.

        Sidecars that name no model are refused where they lie next to several.
        """
        try:
            names = folder.child_names()
        except FileNotFoundError:  # no such folder
            return []
        for name in names:
            is_own = (folder.path, name) == (self.file.parent.path, self.file.name)
            if is_onnx(name) and not is_own:
                self.other_models.append(target / name)
        return names

    def _take_listed(self, folder: RemoteFile, target: Path, names: Sequence[str]) -> None:
        for name in SIDECAR_NAMES:
            if name in names:
                self._take_sidecar(folder / name, target / name)

    def _take_upward(self, file: hub.HubFile) -> None:
        """Fetch the nearest sidecars from folders further up, unless a nearer one describes the pixels.

        Raises UsageError: models of other folders lie below such a sidecar.
        """
        folder: RemoteFile = file.parent
        while folder.path and not any(path.is_file() and says_pixels(path) for path in sidecar_paths(self.path)):
            folder = folder.parent
            listed = folder.child_names()
            for name in SIDECAR_NAMES:
                if name not in listed:
                    continue
                sidecar = folder / name
                target = self.path.with_name(name)
                target.unlink(missing_ok=True)  # one that describes no pixels
                self._take_sidecar(sidecar, target)
                others = self._models_below(folder)
                if others and says_pixels(target):
                    more = ", …" if len(others) > 1 else ""
                    raise UsageError(
                        f"{sidecar}: sidecar lies next to {len(others) + 1} models, or above them ({file.path}, "
                        f"{others[0]}{more}); it must be clear whose preprocessing it is",
                        f"robustcheck {quoted(file)} --preprocess FILE  # a copy of it, if it is this model's",
                    )

    def _models_below(self, folder: RemoteFile) -> list[str]:
        """Return the models with an image input in other folders below a folder of the repository."""
        start = f"{folder.path}/" if folder.path else ""
        own_folder = self.file.parent.path or "."
        others = []
        for name in sorted(filter(is_onnx, self.file.store.files)):
            model = PurePosixPath(name)
            is_elsewhere = name.startswith(start) and model.parent.as_posix() != own_folder
            if is_elsewhere and not takes_no_image(model):
                others.append(name)
        return others
