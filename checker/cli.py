"""The command line: the only module that prints and exits, and the only one that knows every room.

`robustcheck model.onnx` is the check itself; other verbs are sub-commands. Results go to stdout, everything
else to stderr. Imports are made where they are used, so that `--help` starts fast.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.exceptions import TyperException

from robustcheck_onnx.checker.errors import RobustcheckError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from robustcheck_onnx.checker.pipeline import Progress
    from robustcheck_onnx.checker.report import Report

EXIT_CODES = {
    0: "PASS: the indication is present",
    1: "WARN: absent or not established; the report says why",
    2: "usage: an argument or a configuration file is wrong",
    3: "could not assess: no readable model, no usable image, no finite representation",
    4: "environment: an execution provider, memory, disk space or an extra is missing",
    70: "internal error: please report it",
    130: "interrupted (SIGINT)",
    143: "terminated (SIGTERM)",
}
COMPLETION = "_ROBUSTCHECK_COMPLETE"  # how a shell asks for completions
FORMATS = ("terminal", "json")
SCARCE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EMFILE, errno.ENFILE, errno.EACCES, errno.EROFS)
"""What the system says when it, and not the call, is the fault: disk, file, quota or file table full, no rights."""

app = typer.Typer(
    name="robustcheck",
    help="Deployment gate for vision encoders: looks for the outlier features that indicate robustness to "
    "distribution shift, on in-distribution photos, in any ONNX file.\n\n"
    "`robustcheck MODEL.onnx` is short for `robustcheck check MODEL.onnx`.",
    epilog="Exit codes: 0 PASS · 1 WARN · 2 usage · 3 could not assess · 4 environment · 70 internal error. "
    "Only 0 lets a release through.",
    add_completion=True,
    pretty_exceptions_enable=False,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="markdown",
)


class _Terminated(BaseException):
    """SIGTERM: unwinds like KeyboardInterrupt, so that temporary files go away."""


# ---------------------------------------------------------------------------------------------- the process


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit code (see EXIT_CODES); never raises, never returns 1 but for WARN.

    With `-o json` an error is a JSON document too, there where the report was to go. A reader of stdout that went
    away (`| head`) is told nothing, but a verdict that can't be delivered is none: exit 4, never 0.
    """
    arguments = sys.argv[1:] if argv is None else argv
    try:
        _mend_streams()
        signal.signal(signal.SIGTERM, _stop)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # nohup and `&` have it ignored
            signal.signal(signal.SIGINT, _stop)
        if arguments:
            os.environ.pop(COMPLETION, None)  # it would end any command with 0, which reads as PASS
        elif COMPLETION not in os.environ:
            with contextlib.redirect_stdout(sys.stderr):
                app(args=["--help"], prog_name="robustcheck", standalone_mode=False)
        if arguments or COMPLETION not in os.environ:
            arguments = with_default_command(arguments)
        code = app(args=arguments, prog_name="robustcheck", standalone_mode=False)
        if code == 130:  # typer's word for KeyboardInterrupt
            raise KeyboardInterrupt
        sys.stdout.flush()
        return int(code or 0)
    except BaseException as fault:  # noqa: BLE001 # the one place where errors become words and exit codes
        if isinstance(fault, SystemExit) and fault.code == 0 and (not arguments or arguments[0].startswith("--")):
            return 0  # shell completion ends this way; a verb never does
        try:
            return _end(fault, arguments)
        except BaseException:  # noqa: BLE001 # stderr is full, or a second signal: only the exit code is left
            return 70


def _end(fault: BaseException, arguments: list[str]) -> int:
    """Say what ended the run, and return its exit code."""
    code, message, hint = _words(fault, arguments)
    if isinstance(fault, OSError | SystemExit):  # stdout itself may be the fault: nothing more goes there
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if "--debug" in arguments:
        traceback.print_exception(fault)
    if message:
        try:
            _say(message, hint)
        except OSError:  # a full disk behind stderr must not change the exit code, now or when Python ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    if message and code < 128:  # after a signal nothing is written any more
        from robustcheck_onnx.checker import delivery, usage

        document = delivery.error_json(message, hint, code)
        for path in usage.json_targets(arguments):
            with contextlib.suppress(RobustcheckError, OSError):  # the error itself has been told
                if path:
                    delivery.replace_with_error(Path(path), document)
                else:
                    sys.stdout.write(document)
                    sys.stdout.flush()
    return code


def _words(fault: BaseException, arguments: list[str]) -> tuple[int, str, str]:
    """Exit code, message and hint of whatever ended a run."""
    if isinstance(fault, TyperException):
        from robustcheck_onnx.checker import usage

        return 2, *usage.explain(fault, arguments)
    if isinstance(fault, KeyboardInterrupt):
        return 130, "interrupted (SIGINT); there is no verdict, and nothing half-written is left", ""
    if isinstance(fault, _Terminated):
        return 143, "terminated (SIGTERM); there is no verdict, and nothing half-written is left", ""
    if isinstance(fault, BrokenPipeError) or isinstance(fault.__context__, BrokenPipeError):
        return 4, "", ""  # rich and typer make SystemExit(1) of it, which would read as WARN
    code = getattr(fault, "exit_code", None)
    if isinstance(code, int) and code > 1:
        return code, getattr(fault, "message", str(fault)), getattr(fault, "hint", "")
    if isinstance(fault, MemoryError) or (isinstance(fault, OSError) and fault.errno == errno.ENOMEM):
        return 4, "memory: the process ran out of it; model and batch must fit", "free -h"
    if isinstance(fault, ImportError):
        name = fault.name or "a package"
        return 4, f"{name}: package is not importable ({fault}); the installation must be whole", "pip check"
    if isinstance(fault, OSError) and fault.errno == errno.EBADF:
        return (
            4,
            "stdout is closed; a report must have somewhere to go",
            "robustcheck model.onnx -o json=report.json -q",
        )
    if isinstance(fault, OSError) and fault.errno in SCARCE:
        where, rule = fault.filename or "stdout", "space, quota, open files and rights must suffice"
        return 4, f"{where}: system says {fault.strerror}; {rule}", "df -h; ulimit -a"
    text = " ".join(f"{type(fault).__name__}: {fault}".split())[:300]
    return 70, f"internal error: {text}", "run again with --debug and report the traceback"


def _mend_streams() -> None:
    """Make stdout and stderr tell what they could not write, whatever they are.

    An unbuffered stdout (PYTHONUNBUFFERED, usual in containers) drops what a full disk takes only a part of; a
    closed one (`>&-`) is None. Names that are no text are written escaped.
    """
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 # lives as long as the process
    raw: object
    if sys.stdout is None:
        # open for reading: any write fails, as it must where a report is due
        raw, encoding = io.FileIO(os.open(os.devnull, os.O_RDONLY), "w"), "utf-8"
    else:
        raw, encoding = getattr(sys.stdout, "buffer", None), sys.stdout.encoding
    if isinstance(raw, io.FileIO):
        sys.stdout = io.TextIOWrapper(
            io.BufferedWriter(raw), encoding=encoding, errors="backslashreplace", line_buffering=raw.isatty()
        )
    elif isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def with_default_command(arguments: list[str]) -> list[str]:
    """`MODEL …` → `check MODEL …`: anything that starts with no verb and no option of the group is a check.

    Raises UsageError: no word at all; a word that is almost a verb, and no file.
    """
    from robustcheck_onnx.checker import usage

    if not arguments:
        raise UsageError("MODEL.onnx is missing; robustcheck needs a model or a command", "robustcheck model.onnx")
    verbs = [command.callback.__name__ for command in app.registered_commands if command.callback]
    if arguments[0] in verbs or arguments[0].split("=")[0] in usage.GROUP_OPTIONS:
        return arguments
    if near := usage.near_verb(arguments, verbs):
        raise UsageError(*near)
    return ["check", *arguments]


def _stop(number: int, _frame: object) -> None:
    """Unwind once: `timeout` and shells send a signal twice, and the second must not disturb the cleaning up."""
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)
    raise KeyboardInterrupt if number == signal.SIGINT else _Terminated


def _say(message: str, hint: str) -> None:
    """One line each; bytes of a file name can't forge a line or drive the terminal."""
    for label, text in (("error", " ".join(message.split())), ("hint", hint)):
        if text:
            shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
            sys.stderr.write(f"{label}: {shown}\n")
    sys.stderr.flush()


def _console(color: str = "auto", *, stderr: bool = False) -> Console:
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    piped = not stream.isatty()
    # no TTY: rich would fall back to 80 columns; COLUMNS, else 120, so that paths and digests stay whole
    width = int(os.environ["COLUMNS"]) if os.environ.get("COLUMNS", "").isdigit() else (120 if piped else None)
    return Console(
        stderr=stderr,
        width=width,
        highlight=False,
        soft_wrap=False,
        force_terminal=True if color == "always" else None,
        no_color=True if color == "never" else None,
    )


def _ascii_only(console: Console) -> bool:
    encoding = (console.file.encoding or "ascii") if hasattr(console.file, "encoding") else "utf-8"
    return not encoding.lower().replace("-", "").startswith("utf")


# ------------------------------------------------------------------------------------------------- options

Model = Annotated[Path, typer.Argument(help="The ONNX file.", metavar="MODEL.onnx", show_default=False, readable=False)]
Tensor = Annotated[str | None, typer.Option(help="Measure this tensor of the graph instead of the one found by rule.")]
Pool = Annotated[
    str | None,
    typer.Option(help="How to pool: none, cls, mean, token_cls, token_mean or spatial_mean.", metavar="POOL"),
]
PreprocessOption = Annotated[
    str | None,
    typer.Option(help="clip, imagenet, or a JSON file; overrides the file's contract and sidecars.", metavar="WHAT"),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or tensorrt; auto may fall back to the CPU.")]
Color = Annotated[str, typer.Option(help="auto, always or never (NO_COLOR is honoured).")]
Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback with an error.")]


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        sys.stdout.write(f"robustcheck {version('robustcheck-onnx')}\n")
        raise typer.Exit


@app.callback()
def _group(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


# ------------------------------------------------------------------------------------------------ commands


@app.command(epilog="Example: robustcheck model.onnx --images photos/ -o json=report.json")
def check(
    model: Model,
    images: Annotated[
        str | None,
        typer.Option(
            help="In-distribution photos: a folder, a quoted glob, a list (.txt), a manifest (.csv, .jsonl), .tar "
            "shards, .parquet, or preprocessed tensors (.npy, .npz). Default: the bundled photos.",
            metavar="PATH",
        ),
    ] = None,
    max_images: Annotated[int | None, typer.Option(min=1, help="Use at most so many images.")] = None,
    max_bad: Annotated[float, typer.Option(min=0, max=1, help="Largest share of images that may be unusable.")] = 0.01,
    seed: Annotated[int, typer.Option(help="Seed of the order in which images are taken.")] = 0,
    preprocess: PreprocessOption = None,
    tensor: Tensor = None,
    pool: Pool = None,
    device: Device = "auto",
    batch_size: Annotated[int, typer.Option(min=1, max=32, help="Images a forward pass.")] = 32,
    thresholds: Annotated[
        Path | None, typer.Option(help="A threshold profile instead of the default.", metavar="PROFILE.json")
    ] = None,
    output: Annotated[
        list[str] | None,
        typer.Option(
            "--output",
            "-o",
            help="terminal or json, each with =PATH to write a file; repeatable. Without a format on stdout the "
            "terminal report goes there.",
            metavar="FORMAT[=PATH]",
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No report on stdout unless -o asks for one.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Full digests, all limits.")] = False,
    no_time: Annotated[bool, typer.Option("--no-time", help="Leave the time block out of the report.")] = False,
    color: Color = "auto",
    debug: Debug = False,
) -> int:
    """Check a model: PASS, or WARN with reasons (the default command)."""
    from robustcheck_onnx.checker import delivery, pipeline, report

    targets = _targets(output or [], model)
    _one_of("--color", color, ("auto", "always", "never"))
    with _progress(quiet) as progress:
        result = pipeline.check(
            model,
            images=images,
            max_images=max_images,
            max_bad=max_bad,
            seed=seed,
            preprocess=preprocess,
            tensor=tensor,
            pool=pool,
            device=device,
            batch_size=batch_size,
            thresholds=thresholds,
            progress=progress,
        )
    if no_time:
        result = result.model_copy(update={"time": None})
    for form, path in targets:
        if path is not None:
            delivery.write_whole(path, report.to_json(result) if form == "json" else _plain(result, verbose=verbose))
    on_stdout = [form for form, path in targets if path is None]
    if on_stdout == ["json"]:
        sys.stdout.write(report.to_json(result))
    elif on_stdout or not quiet:
        from robustcheck_onnx.checker import report_terminal

        console = _console(color)
        console.print(report_terminal.render(result, ascii_only=_ascii_only(console), verbose=verbose))
    return 0 if result.verdict.verdict == "PASS" else 1


@app.command(epilog="Example: robustcheck export open_clip ViT-B-32 --weights openai -o model.onnx")
def export(
    source: Annotated[str, typer.Argument(help="open_clip, timm, torchvision, transformers or torch.")],
    name: Annotated[str, typer.Argument(help="The library's name of the model; for torch: package.module:factory.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The ONNX file to write.", metavar="MODEL.onnx")],
    weights: Annotated[str | None, typer.Option(help="Pretrained tag of the library, or a checkpoint file.")] = None,
    precision: Annotated[str, typer.Option(help="fp32 or fp16.")] = "fp32",
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="Allow an untrained model; the file says so.")
    ] = False,
    preprocessing: Annotated[
        Path | None, typer.Option(help="JSON file with the preprocessing (source torch).", metavar="FILE")
    ] = None,
    head: Annotated[str | None, typer.Option(help="torch: name of the last linear layer, such as fc.")] = None,
    parity_images: Annotated[
        str | None, typer.Option(help="Photos for the parity check. Default: the bundled ones.", metavar="PATH")
    ] = None,
    debug: Debug = False,
) -> int:
    """Write an ONNX file that carries its preprocessing and meaning, and prove that it agrees with the original."""
    from robustcheck_onnx.checker.images import open_images
    from robustcheck_onnx.exporters import run as exporter

    entries = open_images(parity_images, limit=8).entries
    if not all(entry.origin for entry in entries):
        raise UsageError(
            f"{parity_images}: parity photos lie inside one file; they must be image files", "--parity-images FOLDER"
        )
    photos = [Path(entry.origin) for entry in entries]
    record = exporter.run(
        source,
        name,
        out,
        weights=weights,
        precision=precision,
        random_weights=random_weights,
        preprocessing=preprocessing,
        head=head,
        photos=photos,
    )
    parity = record.parity
    sys.stdout.write(
        f"wrote {out} ({record.size_bytes / 1e6:.1f} MB, {precision}, outputs {', '.join(record.outputs)})\n"
        f"parity with the original at batch {', '.join(map(str, parity.batches))} on {parity.photos} photos: "
        f"max absolute {parity.max_abs:.2g}, max relative {parity.max_rel:.2g}, min cosine {parity.min_cosine:.7f}\n"
    )
    return 0


@app.command(epilog="Example: robustcheck inspect model.onnx")
def inspect(
    model: Model,
    tensor: Tensor = None,
    pool: Pool = None,
    preprocess: PreprocessOption = None,
    output: Annotated[str, typer.Option("--output", "-o", help="terminal or json.")] = "terminal",
    color: Color = "auto",
    debug: Debug = False,
) -> int:
    """Show what would be measured and why: tensor, alternatives, head, preprocessing, opset, sizes."""
    import json

    from robustcheck_onnx.checker import graph, report_inspect, sidecar

    _one_of("--output", output, FORMATS)
    opened = graph.open_model(model, tensor=tensor, pool=pool)
    found = sidecar.find_preprocessing(
        model, preprocess, opened.contract.preprocessing if opened.contract else None, opened.image_input.size
    )
    if output == "json":
        sys.stdout.write(json.dumps(report_inspect.inspect_json(opened, found.origins), indent=2) + "\n")
    else:
        console = _console(color)
        console.print(report_inspect.render_inspect(opened, found.origins, ascii_only=_ascii_only(console)))
    return 0


@app.command(epilog="Example: robustcheck doctor")
def doctor(
    output: Annotated[str, typer.Option("--output", "-o", help="terminal or json.")] = "terminal",
    color: Color = "auto",
    debug: Debug = False,
) -> int:
    """Explain the environment: ONNX Runtime wheels, execution providers, CUDA, GPU, versions, and what to fix."""
    import json

    from robustcheck_onnx.checker import doctor as diagnosis
    from robustcheck_onnx.checker import report_inspect

    _one_of("--output", output, FORMATS)
    findings = diagnosis.diagnose()
    if output == "json":
        sys.stdout.write(json.dumps(report_inspect.doctor_json(findings), indent=2) + "\n")
    else:
        console = _console(color)
        console.print(report_inspect.render_doctor(findings, ascii_only=_ascii_only(console)))
    return 4 if any(finding.status == "fail" for finding in findings) else 0


@app.command(epilog="Example: robustcheck explain rectified")
def explain(
    topic: Annotated[str, typer.Argument(help="A reason id, exit-codes, or reasons.")] = "reasons",
    debug: Debug = False,
) -> int:
    """Explain a reason or the exit codes."""
    import difflib
    import textwrap

    from robustcheck_onnx.checker.reasons import RULES

    if topic == "exit-codes":
        sys.stdout.write("".join(f"{code:>4}  {text}\n" for code, text in EXIT_CODES.items()))
        sys.stdout.write("      Only 0 lets a release through.\n")
    elif topic == "reasons":
        width = max(map(len, RULES))
        sys.stdout.write("".join(f"{name:<{width}}  {rule.title}\n" for name, rule in RULES.items()))
    elif topic in RULES:
        rule = RULES[topic]
        text = textwrap.fill(rule.explanation, 100)
        step = textwrap.fill("Next step: " + rule.next_step, 100)
        sys.stdout.write(f"{topic}: {rule.title}\n\n{text}\n\n{step}\n")
    else:
        near = difflib.get_close_matches(topic, [*RULES, "exit-codes", "reasons"], 1)
        raise UsageError(
            f"topic is {topic!r}; it must be a reason id, exit-codes or reasons",
            f"robustcheck explain {near[0] if near else 'reasons'}",
        )
    return 0


@app.command(epilog="Example: robustcheck reference ViT-B-32/openai")
def reference(
    name: Annotated[str, typer.Argument(help="A checkpoint, a model or a measured set; without it, the table.")] = "",
    text: Annotated[str, typer.Option("--filter", help="Words that must all occur in a row's names.")] = "",
    group: Annotated[str | None, typer.Option(help="Rows of this group only.")] = None,
    sort: Annotated[str, typer.Option(help="Column to sort by: mean, model, weights, imagenet, v2, ….")] = "mean",
    reverse: Annotated[bool, typer.Option("--reverse", help="The other way round.")] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="All rows, not only zero-shot and measured models.")
    ] = False,
    output: Annotated[str, typer.Option("--output", "-o", help="terminal, json or csv.")] = "terminal",
    color: Color = "auto",
    debug: Debug = False,
) -> int:
    """Show published effective robustness and measured statistics of known checkpoints."""
    from robustcheck_onnx.checker import reference_rows, report_reference

    _one_of("--output", output, ("terminal", "json", "csv"))
    if name and (text or group or reverse or everything or sort != "mean"):
        raise UsageError(
            f"NAME is {name!r}; --filter, --group, --sort, --reverse and --all are for the table",
            f"robustcheck reference {name}",
        )
    rows = (
        reference_rows.named(name)
        if name
        else reference_rows.select(text, group, sort, reverse=reverse, everything=everything)
    )
    if output == "terminal":
        console = _console(color)
        render = report_reference.render_named if name else report_reference.render_table
        console.print(render(rows, ascii_only=_ascii_only(console)))
    else:
        sys.stdout.write(report_reference.to_json(rows) if output == "json" else report_reference.to_csv(rows))
    return 0


@app.command()
def schema(debug: Debug = False) -> int:
    """Print the JSON Schema of the JSON report."""
    from robustcheck_onnx.checker.report import json_schema

    sys.stdout.write(json_schema())
    return 0


# ------------------------------------------------------------------------------------------------- helpers


def _one_of(option: str, value: str, valid: tuple[str, ...]) -> None:
    if value not in valid:
        import difflib

        near = difflib.get_close_matches(value, valid, 1)
        raise UsageError(
            f"{option} is {value!r}; it must be one of {', '.join(valid)}",
            f"{option} {near[0] if near else valid[0]}",
        )


def _targets(outputs: list[str], model: Path) -> list[tuple[str, Path | None]]:
    from robustcheck_onnx.checker import delivery

    targets: list[tuple[str, Path | None]] = []
    for text in outputs:
        form, separator, path = text.partition("=")
        _one_of("--output", form, FORMATS)
        if separator and not path:
            raise UsageError(f"--output is {text!r}; a path must follow the equals sign", f"-o {form}=report.{form}")
        target = None if path in {"", "-"} else Path(path)
        if target is not None:
            delivery.check_target(target, [model])
        if any(target == other for _, other in targets):
            raise UsageError(
                f"--output names {path or 'stdout'} twice; only one document fits there", "-o json=report.json"
            )
        targets.append((form, target))
    return targets


def _plain(result: Report, *, verbose: bool) -> str:
    import io

    from rich.console import Console

    from robustcheck_onnx.checker import report_terminal

    buffer = io.StringIO()
    Console(file=buffer, width=100, no_color=True).print(report_terminal.render(result, verbose=verbose))
    return buffer.getvalue()


@contextlib.contextmanager
def _progress(quiet: bool) -> Iterator[Any]:
    """A progress line on stderr, only on a terminal: images, rate, and how close the decision is."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[interval]}"),
    )
    with Progress(*columns, console=_console(stderr=True), transient=True) as bars:
        task = bars.add_task("loading model", total=None, rate="", interval="")

        def show(now: Progress_) -> None:
            bars.update(
                task,
                description="checking",
                total=now.n_total,
                completed=now.n_done,
                rate=f"{now.images_per_s:.1f} images/s",
                interval=now.interval,
            )

        yield show


if TYPE_CHECKING:
    Progress_ = Progress
else:
    Progress_ = Any

if __name__ == "__main__":
    sys.exit(main())


__all__ = ["EXIT_CODES", "RobustcheckError", "app", "main"]
