"""The verbs of the cache: what is kept of earlier checks, and how to be rid of it."""

from __future__ import annotations

import sys

import typer

from robustcheck_onnx.checker.cli_options import Debug, Output

cache = typer.Typer(name="cache", help="Show or clear what is kept of earlier checks.", no_args_is_help=False)


@cache.command(epilog="Example: robustcheck cache info")
def info(output: Output = "terminal", debug: Debug = False) -> int:
    """Show where records are kept, how many, and how large they are."""
    from robustcheck_onnx.checker import cache as records
    from robustcheck_onnx.checker.delivery import as_json

    size = records.size()
    if output == "json":
        sys.stdout.write(as_json(size.model_dump(mode="json")))
    else:
        off = f"switched off by {records.OFF}\n" if records.is_off() else ""
        sys.stdout.write(
            f"{size.folder}\n{size.records} records, {size.size_bytes / 2**20:.1f} MiB of at most "
            f"{size.limit_bytes / 2**20:.0f} MiB; the ones not used for the longest time go first\n{off}"
        )
    return 0


@cache.command(epilog="Example: robustcheck cache clear")
def clear(debug: Debug = False) -> int:
    """Remove every record."""
    from robustcheck_onnx.checker import cache as records

    sys.stdout.write(f"removed {records.clear()} records from {records.folder()}\n")
    return 0
