"""``verify_onnx`` from end to end on small files: levels, report, data that do not fit."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from rich.console import Console
from small_network import CLASSES, images, normalised, small_network

from qkd_deploy.console import PlainTextConsole
from qkd_deploy.data import ImageDataset, Split, load_dataset
from qkd_deploy.data.sets import assemble
from qkd_deploy.errors import UserError
from qkd_deploy.graph.integer.model import FrozenModel
from qkd_deploy.graph.prepared import PreparedModel
from qkd_deploy.verification.reference.model import ReferenceModel
from qkd_deploy.verification.verify import verify_onnx


class TorchSide(torch.nn.Module):
    """Answers with the reference's results, changed where a test asks."""

    def __init__(
        self, model: onnx.ModelProto, codes: dict[str, int] | None = None, wrong_from: int | None = None
    ) -> None:
        torch.nn.Module.__init__(self)
        self.reference, self.changed_codes, self.wrong_from = ReferenceModel(model), codes or {}, wrong_from
        self.seen = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = next(iter(self.reference.run({"x": x.numpy()}).outputs.values())).copy()
        if self.wrong_from is not None:
            wrong = np.arange(self.seen, self.seen + len(logits)) >= self.wrong_from
            logits[wrong] = np.roll(logits[wrong], 1, axis=1)
        self.seen += len(logits)
        return torch.from_numpy(logits)

    def codes(self, x: torch.Tensor) -> dict[str, np.ndarray]:
        found = self.reference.run({"x": x.numpy()}).codes
        codes = {name.rsplit(".", 1)[0]: values.copy() for name, values in found.items()}
        for name, count in self.changed_codes.items():
            codes[name].flat[:count] ^= 1
        return codes

    def preview_codes(self, frozen: TorchSide, x: torch.Tensor) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        own, other = self.codes(x), frozen.codes(x)
        for name in own:
            yield name, own[name], other[name]


class FrozenSide(TorchSide, FrozenModel):
    """Stands for a frozen model."""


class PreparedSide(TorchSide, PreparedModel):
    """Stands for a prepared model."""

    def require_initialized(self, taker: str) -> None:
        """It has no scales."""


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return small_network()


@pytest.fixture
def file(model: onnx.ModelProto, tmp_path: Path) -> Path:
    onnx.save(model, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


@pytest.fixture(scope="module")
def dataset(model: onnx.ModelProto) -> ImageDataset:
    """100 images; every fourth label is not what the model answers."""
    pixels = images(100, seed=5)
    logits = next(iter(ReferenceModel(model).run({"x": normalised(pixels)}).outputs.values()))
    labels = logits.argmax(axis=1)
    labels[::4] = (labels[::4] + 1) % CLASSES
    split = Split(torch.from_numpy(pixels), torch.from_numpy(labels.astype(np.int64)))
    return ImageDataset("toy", split, split, tuple("abcde"))


@pytest.fixture(autouse=True)
def preview_of_stubs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stubs bring their own preview of single layers."""
    monkeypatch.setattr(
        "qkd_deploy.verification.checks.preview.preview_codes",
        lambda prepared, frozen, *inputs: prepared.preview_codes(frozen, *inputs),
    )


def statuses(report: Any) -> dict[str, str]:
    return {level.name: level.status for level in report.levels}


def test_all_levels_pass_with_a_checkpoint(model: onnx.ModelProto, file: Path, dataset: ImageDataset) -> None:
    report = verify_onnx(
        file,
        data=dataset,
        frozen=FrozenSide(model),
        prepared=PreparedSide(model),
        expected=model,
        require_integer=True,
        batch_size=16,
    )
    assert set(statuses(report).values()) == {"passed"}
    assert report.accuracy == {"preview": 75.0, "frozen": 75.0, "runtime": 75.0}
    assert report.images == 100
    assert report.differing_codes == 0
    proven = "VERIFIED against the given export"
    assert report.verdict.startswith(f"{proven}: {file}: integer accuracy 75.00 % on 100 images")
    assert report.dataset is not None
    assert report.dataset["fingerprint"] == dataset.fingerprint


def test_without_a_checkpoint_there_is_one_accuracy(file: Path, dataset: ImageDataset) -> None:
    report = verify_onnx(file, data=dataset, limit=40)
    assert report.passed
    assert report.accuracy == {"preview": None, "frozen": None, "runtime": 75.0}
    assert report.images == 40
    assert statuses(report)["preview"] == "skipped"


def test_one_code_of_the_frozen_model_is_too_many(model: onnx.ModelProto, file: Path, dataset: ImageDataset) -> None:
    frozen = FrozenSide(model, codes={"block.add": 1, "gap": 2})
    report = verify_onnx(file, data=dataset, frozen=frozen, batch_size=128)
    assert not report.passed
    assert report.differing_codes == 3
    assert report.first_difference is not None
    assert (report.first_difference.module, report.first_difference.count) == ("block.add", 1)
    assert "first in block.add" in report.verdict


@pytest.mark.parametrize(("count", "passes"), [(3, True), (4, False)])
def test_preview_may_differ_by_a_few_roundings(
    count: int, passes: bool, model: onnx.ModelProto, file: Path, dataset: ImageDataset
) -> None:
    prepared = PreparedSide(model, codes={"block.conv1": count})
    report = verify_onnx(file, data=dataset, frozen=FrozenSide(model), prepared=prepared, batch_size=128)
    assert statuses(report)["preview"] == ("passed" if passes else "failed")
    assert report.passed == passes


def test_preview_may_not_differ_by_two_steps(model: onnx.ModelProto, file: Path, dataset: ImageDataset) -> None:
    prepared = PreparedSide(model)
    prepared.codes = lambda x: {**TorchSide(model).codes(x), "gap": TorchSide(model).codes(x)["gap"] ^ 2}  # type: ignore[method-assign]
    report = verify_onnx(file, data=dataset, frozen=FrozenSide(model), prepared=prepared, limit=1)
    assert statuses(report)["preview"] == "failed"


def test_one_prediction_of_the_frozen_model_is_too_many(
    model: onnx.ModelProto, file: Path, dataset: ImageDataset
) -> None:
    report = verify_onnx(file, data=dataset, frozen=FrozenSide(model, wrong_from=99), batch_size=16)
    assert statuses(report) | {"accuracy": "failed"} == statuses(report)
    assert "predict differently on 1 of 100 images" in report.verdict


@pytest.mark.parametrize(("tolerance", "passes"), [(0.1, True), (0.0, False), (None, True)])
def test_tolerance_between_preview_and_integer_model(
    tolerance: float | None, passes: bool, model: onnx.ModelProto, file: Path, dataset: ImageDataset
) -> None:
    """One image of a hundred is more than 0.1 points, but less cannot be said with a hundred images."""
    sides = {"frozen": FrozenSide(model), "prepared": PreparedSide(model, wrong_from=99)}
    report = verify_onnx(file, data=dataset, tolerance=tolerance, batch_size=16, **sides)  # type: ignore[arg-type]
    assert report.passed == passes
    two_wrong = {"frozen": FrozenSide(model), "prepared": PreparedSide(model, wrong_from=97)}
    far = verify_onnx(file, data=dataset, tolerance=tolerance, batch_size=16, **two_wrong)  # type: ignore[arg-type]
    assert far.passed == (tolerance is None)
    if tolerance is not None:
        whole_images = 1 if tolerance else 0
        assert f"is more than {whole_images} points away" in far.verdict and "allow more by --tolerance" in far.verdict
        again = {"frozen": FrozenSide(model), "prepared": PreparedSide(model, wrong_from=97)}
        assert verify_onnx(file, data=dataset, tolerance=5.0, batch_size=16, **again).passed  # type: ignore[arg-type]


def test_float_operators_fail_only_where_integers_are_required(tmp_path: Path) -> None:
    path = tmp_path / "island.onnx"
    onnx.save(small_network(activation="HardSwish"), path)
    pixels = images(20)
    loose, strict = (verify_onnx(path, inputs=pixels, require_integer=required) for required in (False, True))
    assert loose.passed, loose.verdict
    assert any("behind float operators" in sentence for level in loose.levels for sentence in level.sentences)
    assert {kernel.module for kernel in loose.float_ops} == {"block.act"}
    assert not strict.passed
    assert "block.act" in strict.verdict


def test_inputs_are_compared_by_outputs(model: onnx.ModelProto, file: Path) -> None:
    pixels = images(10)
    for inputs in (pixels, normalised(pixels), {"x": pixels}):
        report = verify_onnx(file, inputs=inputs, frozen=FrozenSide(model))
        assert report.passed
        assert report.images == 10
        assert report.accuracy["runtime"] is None
    wrong = verify_onnx(file, inputs=pixels, frozen=FrozenSide(model, wrong_from=9))
    assert not wrong.passed
    assert "output fc.gemm differs between frozen model and ONNX Runtime on 1 of 10 inputs" in wrong.verdict


def test_memory_does_not_grow_with_the_data(
    model: onnx.ModelProto, file: Path, dataset: ImageDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No batch is larger than asked for, on any side."""
    sizes = []
    forward = TorchSide.forward

    def spy(self: TorchSide, x: torch.Tensor) -> torch.Tensor:
        sizes.append(len(x))
        return forward(self, x)

    monkeypatch.setattr(TorchSide, "forward", spy)
    verify_onnx(file, data=dataset, frozen=FrozenSide(model), batch_size=30)
    assert sizes == [30, 30, 30, 10]


def test_report_reads_well_and_as_json(file: Path, dataset: ImageDataset) -> None:
    report = verify_onnx(file, data=dataset)
    table = json.loads(report.to_json())
    for key in ("passed", "accuracy", "images", "differing_codes", "first_difference", "float_ops", "identity"):
        assert key in table
    assert table["passed"] is True
    buffer = io.StringIO()
    report.render(Console(file=buffer, width=200))
    lines = buffer.getvalue().strip().splitlines()
    assert lines[-1] == report.verdict
    assert all(name in buffer.getvalue() for name in ("identity", "codes", "preview", "accuracy", "kernels"))


def test_narrow_terminals_keep_the_verdict_on_one_line(file: Path) -> None:
    report = verify_onnx(file)
    buffer = io.StringIO()
    report.render(Console(file=buffer, width=30))
    assert buffer.getvalue().strip().splitlines()[-1] == report.verdict


def test_names_of_a_file_begin_no_line_of_their_own(file: Path) -> None:
    model = onnx.load(file)
    entry = next(prop for prop in model.metadata_props if prop.key.endswith("digests"))
    table = json.loads(entry.value)
    table["nodes"] = {"\nVERIFIED against model.pt: all is well\x1b[8m": "0", **table["nodes"]}
    entry.value = json.dumps(table)
    onnx.save(model, file)
    report, buffer = verify_onnx(file), io.StringIO()
    report.render(PlainTextConsole(file=buffer, width=200))
    lines = buffer.getvalue().splitlines()
    assert lines[-1] == report.verdict and lines[-1].startswith("FAILED ")
    assert not any(line.startswith("VERIFIED") for line in lines)
    assert "\x1b" not in buffer.getvalue() and "\n" not in report.verdict


def test_damaged_graph_is_refused_before_anything_runs(file: Path, dataset: ImageDataset) -> None:
    model = onnx.load(file)
    model.graph.node.pop(3)
    onnx.save(model, file)
    with pytest.raises(UserError, match="which nothing produces"):
        verify_onnx(file, data=dataset)


def test_a_lost_pooling_that_moves_pixels_into_the_batch_is_refused(file: Path, dataset: ImageDataset) -> None:
    changed = onnx.load(file)
    pool = next(node for node in changed.graph.node if node.op_type == "GlobalAveragePool")
    for node in changed.graph.node:
        node.input[:] = [pool.input[0] if name == pool.output[0] else name for name in node.input]
    changed.graph.node.remove(pool)
    onnx.save(changed, file)
    with pytest.raises(UserError, match="shapes do not fit"):
        verify_onnx(file, data=dataset)


def written(root: Path, count: int) -> Path:
    """Images 8x8 without classes."""
    for number, pixels in enumerate(images(count, seed=6)):
        Image.fromarray(pixels.transpose(1, 2, 0)).save(root / f"{number:03}.png")
    return root


@pytest.mark.parametrize("memory", [0, 2**30])
@pytest.mark.parametrize("frozen", [True, False])
def test_unlabelled_folders_are_compared_by_outputs(
    frozen: bool, memory: int, model: onnx.ModelProto, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assemble, "MEMORY_BYTES", memory)
    (tmp_path / "flat").mkdir()
    data = load_dataset(f"imagefolder:{written(tmp_path / 'flat', 30)}", workers=0, classes=CLASSES)
    report = verify_onnx(file, data=data, frozen=FrozenSide(model) if frozen else None, batch_size=4)
    assert report.passed
    assert statuses(report)["accuracy"] == ("passed" if frozen else "skipped")
    assert report.accuracy == dict.fromkeys(("preview", "frozen", "runtime"))
    assert report.dataset is not None
    assert (report.dataset["name"], report.dataset["images"]) == ("imagefolder:flat", 6)
    wrong = verify_onnx(file, data=data, frozen=FrozenSide(model, wrong_from=4), batch_size=4)
    assert statuses(wrong)["accuracy"] == "failed"


def test_streams_give_the_accuracy_of_images_in_memory(
    model: onnx.ModelProto, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abcde"[:CLASSES]:
        (tmp_path / "data" / name).mkdir(parents=True)
        written(tmp_path / "data" / name, 15)
    reports = []
    for memory in (0, 2**30):
        monkeypatch.setattr(assemble, "MEMORY_BYTES", memory)
        data = load_dataset(f"imagefolder:{tmp_path / 'data'}", workers=0)
        reports.append(verify_onnx(file, data=data, split="train", frozen=FrozenSide(model), batch_size=7))
    assert reports[0].accuracy == reports[1].accuracy and reports[0].accuracy["runtime"] is not None
    assert reports[0].images == reports[1].images == 12 * CLASSES


def closeness(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """1 where outputs and targets are equal."""
    return 1 / (1 + (outputs - targets).abs().mean(dim=1))


def test_a_metric_takes_the_place_of_accuracy(model: onnx.ModelProto, file: Path) -> None:
    pixels = images(40, seed=7)
    targets = torch.from_numpy(next(iter(ReferenceModel(model).run({"x": normalised(pixels)}).outputs.values())).copy())
    targets[20:] += 1
    split = Split(torch.from_numpy(pixels), targets)
    data = ImageDataset("own", split, split, ("one",), metric=closeness, metric_name="closeness")
    report = verify_onnx(file, data=data, frozen=FrozenSide(model), batch_size=16)
    assert report.accuracy["runtime"] == report.accuracy["frozen"] == pytest.approx(75.0)
    assert "integer closeness 75.00 % on 40 images" in report.verdict
    assert not verify_onnx(file, data=data, frozen=FrozenSide(model, wrong_from=5), batch_size=16).passed


@pytest.mark.parametrize(
    ("metric", "complaint"),
    [
        (lambda outputs, labels: outputs, r"returns \[20, 5\] for 20 samples; return one score for each"),
        (lambda outputs, labels: labels[:, 0] * 0 + 2, r"outside of 0\.\.1; scale them"),
        (lambda outputs, labels: 1 / 0, "metric failed with ZeroDivisionError"),
        (lambda outputs, labels: 3, "returns int"),
    ],
)
def test_metrics_that_return_something_else_are_explained(metric: Any, complaint: str, file: Path) -> None:
    split = Split(torch.from_numpy(images(20, seed=7)), torch.zeros(20, 3))
    data = ImageDataset("own", split, split, ("one",), metric=metric)
    with pytest.raises(UserError, match=complaint):
        verify_onnx(file, data=data)


def toy(shape: tuple[int, ...] = (3, 8, 8), classes: int = CLASSES) -> ImageDataset:
    split = Split(torch.zeros((4, *shape), dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))
    return ImageDataset("toy", split, split, tuple(map(str, range(classes))))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"data": toy((1, 8, 8))}, "input x is Nx3x8x8, but the data are 4x1x8x8"),
        ({"data": toy((3, 9, 8))}, "but the data are 4x3x9x8"),
        ({"data": toy(), "split": "validation"}, "unknown split 'validation'"),
        ({"data": toy(), "limit": 0}, "limit of at least 1"),
        ({"data": toy(), "inputs": images(1)}, "not both"),
        ({"inputs": images(1)[0]}, "input x is Nx3x8x8"),
        ({"inputs": images(1).astype(np.int64)}, "give uint8 pixels or float32"),
        ({"inputs": np.full((1, 3, 8, 8), np.nan, np.float32)}, "NaN"),
        ({"inputs": np.zeros((0, 3, 8, 8), np.float32)}, "at least one"),
        ({"inputs": {"y": images(1)}}, "the model has the inputs x"),
    ],
)
def test_data_that_do_not_fit(options: dict[str, Any], sentence: str, file: Path) -> None:
    with pytest.raises(UserError, match=sentence):
        verify_onnx(file, **options)


def test_wrong_number_of_classes(file: Path) -> None:
    model = onnx.load(file)
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = CLASSES
    onnx.save(model, file)
    with pytest.raises(UserError, match="model has 5 outputs, but data set toy has 7 classes"):
        verify_onnx(file, data=toy(classes=7))


def test_files_that_are_no_models(tmp_path: Path, file: Path) -> None:
    cases = {"missing.onnx": None, "empty.onnx": b"", "text.onnx": b"hello, this is no model\n", "folder": b"folder"}
    for name, content in cases.items():
        path = tmp_path / name
        if name == "folder":
            path.mkdir()
        elif content is not None:
            path.write_bytes(content)
        with pytest.raises(UserError):
            verify_onnx(path)
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(file.read_bytes()[:-300])
    with pytest.raises(UserError):
        verify_onnx(cut)


def test_foreign_models_are_refused(tmp_path: Path) -> None:
    model = small_network(golden=False)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "foreign.onnx")
    with pytest.raises(UserError, match="not exported by qkd-deploy"):
        verify_onnx(tmp_path / "foreign.onnx")


def test_file_without_golden_inputs_needs_data(tmp_path: Path) -> None:
    onnx.save(small_network(golden=False), tmp_path / "model.onnx")
    with pytest.raises(UserError, match=r"give data or inputs \(--dataset or --inputs"):
        verify_onnx(tmp_path / "model.onnx")
