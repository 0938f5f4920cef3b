"""The user's own folders of images, from training to the verified file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from qkd_deploy.data import load_dataset

NETWORK = "--model plaincnn --threads 1 --batch-size 50 --image-size 8"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """labelled/{train,val}/CLASS with ten corrupt files, and the same images unlabelled, as PNG."""
    root = tmp_path_factory.mktemp("own")
    digits = load_dataset("digits")
    for part, split, count in (("train", digits.train, 400), ("val", digits.test, 100)):
        for index in range(count):
            image = Image.fromarray(split.images[index, 0].numpy())
            folder = root / "labelled" / part / f"digit-{int(split.labels[index])}"
            folder.mkdir(parents=True, exist_ok=True)
            image.save(folder / f"{index:04}.png")
            if part == "train":
                (root / "unlabelled").mkdir(exist_ok=True)
                image.save(root / "unlabelled" / f"{index:04}.png")
    victims = sorted((root / "labelled/train").rglob("*.png"))[::40]
    assert len(victims) == 10
    for victim in victims:
        victim.write_bytes(victim.read_bytes()[:60])
    return root


def chain(warm_run, folder: Path, training: str, dataset: str) -> tuple[str, dict[str, object]]:  # type: ignore[no-untyped-def]
    """Train, export and verify; what training said, and the report."""
    trained = warm_run(f"train {NETWORK} --dataset {dataset} {training}", folder)
    assert trained.code == 0, trained.err
    name = training.split()[-1]
    exported = warm_run(f"export {name}/model.pt", folder)
    assert exported.code == 0, exported.err
    verify = f"verify {name}/model.onnx --dataset {dataset} --image-size 8 --checkpoint {name}/model.pt"
    verified = warm_run(f"{verify} --require-integer --json -", folder)
    assert verified.code == 0, verified.err
    return trained.out + trained.err, json.loads(verified.out)


@pytest.mark.slow
def test_a_folder_with_corrupt_files_and_then_one_without_labels(folders: Path, warm_run) -> None:  # type: ignore[no-untyped-def]
    said, report = chain(
        warm_run,
        folders,
        "--method qat --epochs 4 --pretrain-epochs 6 --augmentation none --out labelled-run",
        "imagefolder:labelled",
    )
    assert "10 of 500 images cannot be read and are left out" in said
    assert report["images"] == 100 and report["accuracy"]["runtime"] > 60  # type: ignore[index]
    strict = warm_run(f"train {NETWORK} --dataset imagefolder:labelled --strict --out no-run", folders)
    assert strict.code == 2 and ".png" in strict.err and not (folders / "no-run").exists()

    # the classes come from the teacher's file
    said, report = chain(
        warm_run,
        folders,
        "--method sqakd --teacher plaincnn:labelled-run/checkpoints/student-float.pt --epochs 4 --out free-run",
        "imagefolder:unlabelled",
    )
    assert "integer agreement with the teacher" in said
    assert report["passed"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--method qat --classes 10", "has no labels, which --method qat needs; use --method sqakd"),
        ("--method sqakd --classes 10", "has no labels to train a teacher on; give a trained one"),
    ],
)
def test_what_needs_labels_is_refused_without(folders: Path, warm_run, options: str, message: str) -> None:  # type: ignore[no-untyped-def]
    done = warm_run(f"train {NETWORK} --dataset imagefolder:unlabelled {options} --out refused", folders)
    assert done.code == 2
    assert message in done.err.splitlines()[-1]
    assert not (folders / "refused").exists()
