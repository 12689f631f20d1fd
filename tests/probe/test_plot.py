"""The picture: the right lines and bars, in a file that is a PNG."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeserve.errors import BadRequest
from edgeserve.probe.plot import check_plot, draw, write_plot
from tests.probe.made_up import oom, report, row, token

REPORT = report(
    [row(1, output_tok_s=10.0), row(2, token(80.0, 2.0, 3.0, 4.0), output_tok_s=18.0), oom(4)]
)

pytestmark = pytest.mark.slow  # matplotlib takes half a second to import


def test_throughput_is_drawn_beside_the_ideal_line() -> None:
    throughput, _ = draw(REPORT).axes
    measured, ideal = throughput.lines

    assert np.asarray(measured.get_xydata()).tolist() == [[1, 10.0], [2, 18.0]]
    assert np.asarray(ideal.get_xydata()).tolist() == [[1, 10.0], [2, 20.0]]


def test_a_tokens_time_is_stacked_by_kind() -> None:
    _, times = draw(REPORT).axes
    bars = {str(bar.get_label()): list(bar) for bar in times.containers}

    assert list(bars) == ["compute", "transfer", "waiting", "other"]
    assert [bar[1].get_height() for bar in bars.values()] == [80.0, 2.0, 3.0, 4.0]
    assert [bar[1].get_y() for bar in bars.values()] == [0.0, 80.0, 82.0, 85.0]


def test_random_weights_are_named_in_the_title() -> None:
    assert "weights: random" in draw(REPORT).get_suptitle()


def test_a_paced_simulation_is_named_in_the_title() -> None:
    cluster = replace(REPORT.cluster, simulation="paced simulation: rtx-3060")

    title = draw(replace(REPORT, cluster=cluster)).get_suptitle()

    assert "weights: random, paced simulation: rtx-3060" in title


def test_a_report_without_a_measured_row_is_an_empty_picture() -> None:
    assert [len(axes.lines) for axes in draw(report([oom(1)])).axes] == [0, 0]


def test_the_file_is_a_png(tmp_path: Path) -> None:
    write_plot(REPORT, tmp_path / "probe.png")

    assert (tmp_path / "probe.png").read_bytes().startswith(b"\x89PNG\r\n")


@pytest.mark.parametrize(("name", "says"), [("a.pdf", "only .png"), ("no/a.png", "no folder")])
def test_a_place_that_cannot_be_written_is_refused_before_anything_is_measured(
    tmp_path: Path, name: str, says: str
) -> None:
    with pytest.raises(BadRequest, match=says):
        check_plot(tmp_path / name)
