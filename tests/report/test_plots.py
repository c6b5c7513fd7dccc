"""What pictures are told to draw; test_notebook.py has matplotlib draw them."""

from unittest.mock import MagicMock

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from robustcheck_onnx.checker.report import notebook
from support import but, reports


def axes() -> MagicMock:
    panel = MagicMock()
    panel.get_xlim.return_value = (0.5, 1.4)
    return panel


def test_an_interval_is_drawn_where_both_bounds_are_known_in_its_unit() -> None:
    rows = [
        (name, reports.interval(*bounds), unit, sound)
        for name, bounds, unit, sound in (
            ("both", (6.0, 4.0, 10.0), 2.0, True),
            ("zero", (6.0, 0.0, 10.0), 2.0, False),
            ("upper", (6.0, None, 10.0), 2.0, True),
            ("lower", (6.0, 4.0, None), 2.0, True),
            ("nothing", (None, None, None), 2.0, False),
            ("negative", (-6.0, -7.0, -5.0), 2.0, False),
            ("no unit", (6.0, 4.0, 10.0), 0.0, True),
        )
    ]
    panel = axes()
    notebook.intervals(panel, rows, "value / threshold")
    assert [call.args for call in panel.plot.call_args_list] == [
        ([2.0, 5.0], [0, 0]), (3.0, 0, "o"), ([1e-3, 5.0], [1, 1]), (3.0, 1, "X"), (3.0, 2, "o"), (3.0, 3, "o"),
    ]  # fmt: skip
    assert [call.args[:2] for call in panel.text.call_args_list] == [(1.0, 4), (1.0, 5), (1.0, 6)]
    (places, names), _ = panel.set_yticks.call_args
    assert (list(places), names) == (list(range(7)), [name for name, *_ in rows])


def test_a_pair_shows_both_histograms_where_they_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    known = reports.passing().evidence.statistics
    unknown = but(known, histogram_counts=(), histogram_edges=())
    ratios = [("kurtosis", reports.interval(1.0, 0.9, 1.1), True)]
    pairs = notebook.Pairs(ratios, 0.8, [(7, 5.0, 4.0), (9, -6.0, None)])
    for candidate, drawn in ((known, ["reference", "candidate"]), (unknown, ["reference"])):
        panels = [axes(), axes(), axes()]
        monkeypatch.setattr(notebook, "figure", lambda *_, panels=panels: ("made", panels))
        made: object = notebook.pair_figure("title", candidate, known, pairs)
        assert made == "made"
        assert [call.kwargs["label"] for call in panels[0].stairs.call_args_list] == drawn
        bars = {call.kwargs["label"]: call.args for call in panels[2].bar.call_args_list}
        assert_array_equal(bars["reference"][1], [5.0, -6.0])
        assert_array_equal(bars["candidate"][1], [4.0, np.nan])
