"""Provide pytest's fixture and a summary of verdicts. The fixture checks a model. Imports nothing before that."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ...outside.addresses import Model
    from ...outside.image_sets.open import Images
    from ...report.check import Report
    from .assertions import AssertRobust


PROPERTY = "robustcheck"  # of a test: a line for each model that it checked; also in pytest's JUnit files


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--robustcheck-images`."""
    parser.getgroup("robustcheck").addoption(
        "--robustcheck-images",
        metavar="PATH",
        default=None,
        help="In-distribution photos for assert_robust where a test names none: a folder, glob, list or manifest. "
        "Default: the bundled photos.",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line(
        "markers", "robustcheck: checks a model with assert_robust (set by itself; to select with -m)"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that use the fixture, before `-m` selects."""
    for item in items:
        if "assert_robust" in getattr(item, "fixturenames", ()):
            item.add_marker("robustcheck")


@pytest.fixture
def assert_robust(request: pytest.FixtureRequest) -> AssertRobust:
    """Return `robustcheck_onnx.assert_robust` with a summary line. Call it as `assert_robust(model, images=..., ...)`.

    Without `images` those of `--robustcheck-images` are used, relative to where pytest was started.
    """
    option = request.config.getoption("robustcheck_images")
    # "" stays, and is refused as --images "" is: an unset variable must not mean the bundled photos
    default = option and str(request.config.invocation_params.dir / option)

    def assert_robust(model: Model, images: Images | None = None, **options: Any) -> Report:
        __tracebackhide__ = True
        from ...errors import RobustcheckError  # noqa: PLC0415
        from ...report.words import one_line  # noqa: PLC0415
        from ...text import printable  # noqa: PLC0415
        from . import assertions  # noqa: PLC0415 # pytest starts fast

        def add_line(line: str) -> None:
            request.node.user_properties.append((PROPERTY, printable(line)))

        try:
            report = assertions.assert_robust(model, default if images is None else images, **options)
        except assertions.VerdictError as warning:
            add_line(one_line(warning.report))
            raise
        except RobustcheckError as fault:
            add_line(f"no verdict (exit code {fault.exit_code}): {fault.message}")
            raise
        add_line(one_line(report))
        return report

    return assert_robust


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Write three lines where `assert_robust` has no verdict. With `--full-trace` it is the traceback."""
    report = yield
    if "assert_robust" in getattr(item, "fixturenames", ()) and call.excinfo is not None:
        from ...errors import RobustcheckError  # noqa: PLC0415
        from ...text import printable  # noqa: PLC0415

        fault = call.excinfo.value
        if isinstance(fault, RobustcheckError) and not item.config.getoption("fulltrace"):
            lines = [f"error: {fault.message}", f"hint: {fault.hint}", f"no verdict (exit code {fault.exit_code})"]
            report.longrepr = "\n".join(printable(line) for line in lines if line != "hint: ")
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Write one line for each model that was checked."""
    lines = {
        (report.nodeid, line): None
        for reports in terminalreporter.stats.values()
        for report in reports
        for name, line in getattr(report, "user_properties", ())
        if name == PROPERTY
    }
    if lines:
        terminalreporter.write_sep("=", "robustcheck")
        for test, line in lines:
            terminalreporter.write_line(f"{line}  ({test})")
