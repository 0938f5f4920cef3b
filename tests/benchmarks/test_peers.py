"""A deployed file of another tool is measured as ours are; what the numbers are is for the real run."""

from __future__ import annotations

from pathlib import Path

import cifar_resnet_a
import numpy as np
import peers
import torch


def test_a_file_has_its_kernels_told_apart_and_its_speed_beside_the_float_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(cifar_resnet_a.resnet20().state_dict(), tmp_path / "net.pt")
    rows = np.random.default_rng(0).integers(0, 256, (10, 3073), np.uint8)
    rows[:, 0] %= 10
    for name in ("data_batch_1.bin", "test_batch.bin"):
        rows.tofile(tmp_path / name)
    start = peers.Start(tmp_path / "net.pt", tmp_path)
    makers = peers.post_training(start, tmp_path)
    paths = {}
    for name in ("Float", "quantize_static, W8A8"):
        file, make = makers[name]
        paths[name] = tmp_path / file
        make(paths[name])
    found = {name: peers.measure(start, path) for name, path in paths.items()}
    assert found["Float"]["kernels"]["integer"] == {} and found["Float"]["kernels"]["float"]["Conv"] == 19
    static = found["quantize_static, W8A8"]
    assert static["kernels"]["integer"]["QLinearConv"] == 19 and static["kernels"]["float"] == {}
    assert static["bytes"] == paths["quantize_static, W8A8"].stat().st_size < found["Float"]["bytes"]
    with torch.no_grad():
        right = start.network(start.spec.normalize(start.images.held_out)).argmax(1) == start.images.labels
    assert round(found["Float"]["accuracy"]) == 10 * int(right.sum())
    for name, speed in peers.speeds(paths, start, 2).items():
        found[name]["speed"] = speed
    assert found["Float"]["speed"]["median"] == 1
    assert f"| quantize_static, W8A8 | {static['accuracy']:.2f} | 30 | 0 |" in peers.table(found)
