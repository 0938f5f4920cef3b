from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from epochs import PRETRAINING, RECORD
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from qkd_deploy.errors import UserError
from qkd_deploy.training.monitoring.metrics import EpochRecord
from qkd_deploy.training.monitoring.plot import plot_run

STUDENT_ONLY = replace(RECORD, phase="self-study", losses={"student": {"ce": 0.75}}, learning_rates={"student": 0.02})
RUN = [
    PRETRAINING,
    replace(PRETRAINING, epoch=2, accuracy=90.0),
    replace(STUDENT_ONLY, accuracy=80.0),
    replace(STUDENT_ONLY, epoch=2, accuracy=None),
    replace(RECORD, epoch=3, accuracy=95.0),
    replace(RECORD, epoch=4, accuracy=94.0),
]


def write(folder: Path, records: list[EpochRecord]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(asdict(record)) + "\n" for record in records))
    return folder


@pytest.fixture
def draw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[list[EpochRecord]], list[Axes]]:
    """Plots a run and returns the panels as they were drawn."""
    drawn: list[Figure] = []

    def savefig(self: Figure, path: Path, **_: object) -> None:  # other tests look at real pictures, which take longer
        drawn.append(self)
        path.touch()

    monkeypatch.setattr(Figure, "savefig", savefig)

    def panels_of(records: list[EpochRecord]) -> list[Axes]:
        plot_run(write(tmp_path / "run", records))
        return drawn[-1].axes

    return panels_of


@pytest.fixture
def panels(draw: Callable[[list[EpochRecord]], list[Axes]]) -> list[Axes]:
    return draw(RUN)


def points(axes: Axes) -> dict[str, list[tuple[float, float]]]:
    """The finite points of every line, and of its continuations, by label."""
    found: dict[str, list[tuple[float, float]]] = {}
    colours: dict[tuple[object, object], str] = {}
    for line in axes.get_lines():
        style = (line.get_color(), line.get_linestyle())
        label = str(line.get_label())
        label = colours.setdefault(style, label) if label.startswith("_") else label
        colours[style] = label
        pairs = zip(line.get_xdata(), line.get_ydata(), strict=True)
        found.setdefault(label, []).extend((float(x), float(y)) for x, y in pairs if y == y)
    return found


def test_the_curves_are_those_of_the_metrics(panels: list[Axes]) -> None:
    loss, accuracy, rate, movement = panels
    assert points(loss) == {
        "student ce": [(3, 0.75), (4, 0.75), (5, 0.5), (6, 0.5)],
        "student kl": [(5, 0.25), (6, 0.25)],
        "teacher ce": [(1, 1.5), (2, 1.5), (5, 0.125), (6, 0.125)],
        "teacher kl": [(5, 1.0), (6, 1.0)],
    }
    assert points(accuracy) == {
        "float teacher\nbest 90.00, last 90.00": [(1, 60), (2, 90)],
        "integer model\nbest 95.00, last 94.00": [(3, 80), (5, 95), (6, 94)],
    }
    assert points(rate) == {
        "student": [(3, 0.02), (4, 0.02), (5, 0.01), (6, 0.01)],
        "teacher": [(1, 0.1), (2, 0.1), (5, 0.001), (6, 0.001)],
    }
    assert points(movement) == {
        "activation steps": [(epoch, 0.01) for epoch in (3, 4, 5, 6)],
        "weight steps": [(epoch, 0.001) for epoch in (3, 4, 5, 6)],
    }


def test_a_line_does_not_run_from_one_stage_into_the_next(panels: list[Axes]) -> None:
    teachers = [line for line in panels[0].get_lines() if line.get_color() == "tab:orange"]
    assert not any({2.0, 5.0} <= {float(x) for x in line.get_xdata()} for line in teachers)


def test_a_phase_in_which_a_network_does_not_learn_is_a_gap(draw: Callable[[list[EpochRecord]], list[Axes]]) -> None:
    loss = draw([RECORD, STUDENT_ONLY, RECORD])[0]
    (teacher,) = [line for line in loss.get_lines() if line.get_label() == "teacher ce"]
    assert [str(float(y)) for y in teacher.get_ydata()] == ["0.125", "nan", "0.125"]


def test_epochs_without_evaluation_are_bridged(panels: list[Axes]) -> None:
    integer = [line for line in panels[1].get_lines() if str(line.get_label()).startswith("integer")]
    assert [[float(x) for x in line.get_xdata()] for line in integer] == [[3.0, 5.0, 6.0]]


def test_the_phases_are_shaded_and_named(panels: list[Axes]) -> None:
    assert [text.get_text() for text in panels[0].texts] == ["pretrain-teacher", "self-study", "co-study"]
    for axes in panels:
        spans = [(patch.get_x(), patch.get_width()) for patch in axes.patches]  # type: ignore[attr-defined]
        assert spans == [(0.5, 2.0), (2.5, 2.0), (4.5, 2.0)]


def test_every_curve_is_in_sight(panels: list[Axes]) -> None:
    assert panels[2].get_yscale() == "log" and panels[1].get_yscale() == "linear"
    assert panels[1].get_ylim()[0] > 60  # the way up from chance is not
    for axes in panels:
        low, high = axes.get_ylim()
        assert all(any(low <= y <= high for _, y in curve) for curve in points(axes).values())


def test_the_picture_is_written_without_a_display_or_global_state(tmp_path: Path) -> None:
    write(tmp_path, RUN)
    code = "import sys; from qkd_deploy.training.monitoring.plot import plot_run; "
    code += f"print(plot_run({str(tmp_path)!r}).name, 'matplotlib.pyplot' in sys.modules)"
    environment = {**os.environ, "MPLBACKEND": "TkAgg", "DISPLAY": ""}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert (result.stdout, result.returncode) == ("plot.png False\n", 0), result.stderr
    with Image.open(tmp_path / "plot.png") as picture:
        assert picture.format == "PNG" and min(picture.size) > 1000
        assert len(picture.convert("RGB").getcolors(1 << 20) or []) > 20


@pytest.mark.parametrize("records", [RUN[:1], RUN[:2], [replace(RECORD, losses={"student": {"ce": 0.0}})]])
def test_runs_that_have_just_begun_can_be_drawn(tmp_path: Path, records: list[EpochRecord]) -> None:
    assert plot_run(write(tmp_path, records)) == tmp_path / "plot.png"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "plot.png"]


def test_what_cannot_be_drawn_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no finished epoch"):
        plot_run(write(tmp_path, []))
    with pytest.raises(UserError, match="cannot read"):
        plot_run(tmp_path / "nowhere")
    write(tmp_path, RUN)
    (tmp_path / "plot.png").mkdir()
    with pytest.raises(UserError, match=r"cannot write .*plot\.png"):
        plot_run(tmp_path)
