"""The example of a published detector: its network, what its answer means, and how well two networks agree."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from box_files import write_yolo

from qkd_deploy import prepare
from qkd_deploy.data import load_dataset

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(autouse=True)
def examples(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the example be imported, as from its folder."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "fastestdet"]:
        del sys.modules[name]


def test_the_network_is_the_published_one_in_size_and_answer() -> None:
    from fastestdet.network import FastestDet

    network = FastestDet().eval()
    assert sum(parameter.numel() for parameter in network.parameters()) == 244_490
    assert len(network.state_dict()) == 420
    with torch.no_grad():
        answer = network(torch.zeros(1, 3, 352, 352))
    assert answer.shape == (1, 85, 22, 22)
    assert torch.allclose(answer[:, 5:].sum(dim=1), torch.ones(1, 22, 22))


def test_all_its_convolutions_are_integers() -> None:
    from fastestdet.network import FastestDet

    prepared = prepare(FastestDet(3), "w8a8", (torch.randn(1, 3, 64, 64),))
    convolutions = [node for node in prepared.graph.nodes if node.kind == "conv"]
    assert len(convolutions) == 70 and all(node.quantizer is not None for node in convolutions)


def test_weights_of_bgr_become_weights_of_rgb(tmp_path: Path) -> None:
    from fastestdet import weights
    from fastestdet.network import FastestDet

    published = FastestDet(2).eval()
    torch.save(published.state_dict(), tmp_path / "bgr.pth")
    weights.main(str(tmp_path / "bgr.pth"), str(tmp_path / "rgb.pt"))
    ours = FastestDet(2).eval()
    ours.load_state_dict(torch.load(tmp_path / "rgb.pt", weights_only=True))
    rgb = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(ours(rgb), published(rgb.flip(1)), atol=1e-6)


def answer_of(*objects: tuple[int, int, int, float]) -> torch.Tensor:
    """An answer [1, 5 + 3, 4, 6] with objects: column, row, class and certainty; boxes of 32 x 16 pixels."""
    maps = torch.zeros(1, 8, 4, 6)
    maps[:, 3] = torch.logit(torch.tensor(32 / 96))
    maps[:, 4] = torch.logit(torch.tensor(16 / 64))
    for column, row, label, certainty in objects:
        maps[0, 0, row, column], maps[0, 5 + label, row, column] = certainty, 1.0
    return maps


def test_detections_are_where_the_places_are() -> None:
    from fastestdet.task import detections

    (found,) = detections(answer_of((2, 1, 1, 0.5), (4, 3, 2, 0.75), (3, 1, 1, 0.25)))
    wanted = [[2, 48, 40, 80, 56, 0.75], [1, 16, 8, 48, 24, 0.5], [1, 32, 8, 64, 24, 0.25]]
    assert torch.allclose(found, torch.tensor(wanted), atol=1e-4)


def test_the_task_measures_and_imitates(tmp_path: Path) -> None:
    from fastestdet.task import GridDetection

    task, answer = GridDetection(), answer_of((2, 1, 1, 0.5), (4, 3, 2, 0.75))
    targets = task.decisions(answer)
    score = task.score()
    score.add(answer, targets)
    assert score.figures() == {"mAP50": 100.0, "mAP50-95": 100.0} and next(iter(score.figures())) == task.measure
    assert {name: round(float(term), 5) for name, term in task.soft_loss(answer, answer, 1).items()}["box"] == 0
    other = answer_of((2, 1, 2, 0.5)).requires_grad_()
    terms = task.soft_loss(other, answer, 1.0)
    assert terms["class"] > 0 and terms["object"] > task.soft_loss(answer, answer, 1.0)["object"]
    sum(terms.values()).backward()  # type: ignore[union-attr]
    assert other.grad is not None and other.grad.isfinite().all()
    data = load_dataset(f"yolo:{write_yolo(tmp_path)}", image_size=32, workers=0)
    task.check_targets(data.train.labels, data.classes, data.name)


def test_agreement_is_the_share_of_detections_with_a_partner() -> None:
    from fastestdet.task import detections
    from grid_detector import partners

    whole = detections(answer_of((2, 1, 1, 0.5), (4, 3, 2, 0.75)))
    assert partners(whole, whole) == 100
    assert partners(whole, detections(answer_of((2, 1, 1, 0.5)))) == pytest.approx(200 / 3)
    assert partners(whole, detections(answer_of((2, 1, 2, 0.5)))) == 0
    assert partners(whole, detections(answer_of((2, 1, 1, 0.2), (4, 3, 2, 0.75)))) == pytest.approx(200 / 3)


@pytest.mark.slow
def test_every_form_gets_a_row(run: Callable[..., str], tmp_path: Path) -> None:
    from fastestdet.network import FastestDet

    torch.manual_seed(0)
    torch.save(FastestDet(2).state_dict(), tmp_path / "net.pth")
    printed = run(
        "grid_detector.py",
        "net.pth",
        f"yolo:{write_yolo(tmp_path / 'boxes')}",
        "--tolerance",
        "100",
        "--json",
        "out.json",
    )
    report = json.loads((tmp_path / "out.json").read_text())
    assert list(report["results"]) == ["float", "w8a8"] and report["results"]["float"]["agreement"] == 100
    assert report["results"]["w8a8"]["verified"] and report["results"]["w8a8"]["differing_codes"] == 0
    assert "| w8a8 |" in printed and {"commit", "cpu", "packages"} <= report["provenance"].keys()
