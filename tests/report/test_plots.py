"""What pictures are told to draw; test_notebook.py has matplotlib draw them."""

from unittest.mock import MagicMock

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from robustcheck_onnx.checker.report import notebook
from support import but, reports
from support.comparisons import judged, planted


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
    report = judged(planted(features=(7, 40)), planted(features=(7, 40)))
    fates = [but(each, candidate_mean_z=z) for each, z in zip(report.features, (4.0, None), strict=True)]
    known = but(report, features=fates)
    statistics = "candidate__evidence__statistics__histogram"
    unknown = but(known, **{f"{statistics}_counts": (), f"{statistics}_edges": ()})
    for compared, drawn in ((known, ["reference", "candidate"]), (unknown, ["reference"])):
        panels = [axes(), axes(), axes()]
        monkeypatch.setattr(notebook, "figure", lambda *_, panels=panels: ("made", panels))
        made: object = compared.plot()
        assert made == "made"
        assert [call.kwargs["label"] for call in panels[0].stairs.call_args_list] == drawn
        bars = {call.kwargs["label"]: call.args for call in panels[2].bar.call_args_list}
        assert_array_equal(bars["reference"][1], [each.mean_z for each in report.features])
        assert_array_equal(bars["candidate"][1], [4.0, np.nan])
