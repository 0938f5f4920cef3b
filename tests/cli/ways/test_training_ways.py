"""Ways out of mistakes with what a run trains on: its data, its networks, its device and its rates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from command_ways import Line, follow, require_all, runs

from qkd_deploy.models import create_model

TEST = "tests/cli/ways/test_training_ways.py::test_the_way_out_works"
BASE = "train --model plaincnn --epochs 1 --pretrain-epochs 1 --batch-size 20"
QAT = f"{BASE} --method qat"
TRAIN = f"{QAT} --dataset data.npz"
NEW = f"{TRAIN} --out new"
FLOAT = f"{NEW} --init float.pt"
SQAKD = f"{BASE} --method sqakd --teacher-pretrain-epochs 1 --out new"
OTHERS = f"{QAT} --dataset other.npz --out new"
PLAIN = f"{TRAIN} --model own:Plain --pretrain-epochs 3"
CO_STUDY = (
    "train --dataset data.npz --model own:Straight --init new/checkpoints/student-float.pt --batch-size 40 "
    "--teacher own:Straight:new/checkpoints/student-float.pt --method qkd --phases co-study --epochs 5 "
    "--schedule constant --weight-step-ratio 0 --activation-step-ratio 0"
)
DECAYS = f"{FLOAT} --epochs 3 --weight-decay 1e15 --weight-step-ratio 0 --activation-step-ratio 0"
DIVERGES = f"{PLAIN} --pretrain-lr 1000 --out new"
PHOTOS = f"{QAT} --dataset own:photos --model own:net --init photos.pt"
UNLABELLED = "--dataset unlabelled.npz --classes 3"


def images(count: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, 8, 8, 1), dtype=np.uint8)


def unlabelled(folder: Path) -> None:
    np.savez(folder / "unlabelled.npz", images=images(40))


def few(count: int, folder: Path) -> None:
    np.savez(
        folder / "other.npz",
        x_train=images(count),
        y_train=np.arange(count) % 3,
        x_test=images(9),
        y_test=np.arange(9) % 3,
    )


def half_labelled(folder: Path) -> None:
    np.savez(folder / "other.npz", x_train=images(40), y_train=np.arange(40) % 3, x_test=images(9))


def photo_weights(folder: Path) -> None:
    torch.save(create_model("plaincnn", 3, 3).state_dict(), folder / "photos.pt")


WAYS = {
    "one image": Line(
        OTHERS,
        "training needs {} or more",
        OTHERS,
        before=lambda folder: few(1, folder),
        mend=lambda folder: few(2, folder),
        advice="training needs 2 or more",
    ),
    "held-out images without labels": Line(
        OTHERS,
        "has no teacher to agree with",
        OTHERS,
        before=half_labelled,
        mend=lambda folder: few(40, folder),
    ),
    "held-out images without labels that are left out": Line(
        OTHERS,
        "has no teacher to agree with",
        OTHERS,
        before=half_labelled,
        mend=lambda folder: np.savez(folder / "other.npz", images=images(40), labels=np.arange(40) % 3),
    ),
    "no labels": Line(
        f"{QAT} --out new {UNLABELLED}",
        "has no labels, which --method {} needs",
        f"{SQAKD} {UNLABELLED} --teacher plaincnn:float.pt",
        before=unlabelled,
        advice="--teacher plaincnn:FILE",
    ),
    "no labels for a teacher": Line(
        f"{SQAKD} {UNLABELLED}",
        "has no labels to train a teacher on",
        f"{SQAKD} {UNLABELLED} --teacher plaincnn:float.pt",
        before=unlabelled,
        advice="--teacher plaincnn:FILE",
    ),
    "no labels to mix": Line(
        f"{SQAKD} {UNLABELLED} --teacher plaincnn:float.pt --mixup 1",
        "mixup and cutmix mix labels",
        f"{SQAKD} {UNLABELLED} --teacher plaincnn:float.pt",
        before=unlabelled,
    ),
    "another teacher than the student": Line(
        f"{SQAKD} --dataset data.npz --teacher resnet8",
        "leave --teacher out, or",
        f"{SQAKD} --dataset data.npz",
        advice="leave --teacher out",
    ),
    "weights of another teacher": Line(
        f"{SQAKD} --dataset data.npz --teacher resnet8:float.pt",
        "leave --teacher out, or",
        f"{SQAKD} --dataset data.npz --teacher plaincnn:float.pt",
        advice="--teacher plaincnn:FILE",
    ),
    "logits of other classes": Line(
        f"{NEW} --model own:five",
        "training needs logits of shape",
        f"{NEW} --model own:net",
        advice="logits of shape [2, 3]",
    ),
    "pixels of which nothing is known": Line(
        f"{PHOTOS} --out new",
        "name it, such as --normalization imagenet",
        f"{PHOTOS} --out other --normalization imagenet",
        before=photo_weights,
        code=0,
    ),
    "a device that is not there": Line(f"{NEW} --device gpu", "is not available here", f"{NEW} --device auto"),
    "a device by number": Line(f"{NEW} --device mps:7", "is not available here", f"{NEW} --device cpu"),
    "divergence in full precision": Line(
        DIVERGES,
        "the loss is no longer finite",
        f"{PLAIN} --pretrain-lr 0.1 --out other",
        advice="with a lower --pretrain-lr, or with",
    ),
    "divergence of a teacher that learns": Line(
        f"{CO_STUDY} --lr 1000 --out other",
        "the loss is no longer finite",
        f"{CO_STUDY} --lr 0.001 --out another",
        before=runs(f"{NEW} --model own:Straight"),
        advice="with a lower --lr, or with",
    ),
    "a scale that leaves its tensor": Line(
        f"{FLOAT} --lr 1000", "{}, which went from {} to {}", f"{FLOAT} --lr 0.01 --out other"
    ),
    "a scale that is not finite": Line(
        f"{DECAYS} --lr 1000", "which is not finite, because", f"{DECAYS} --lr 1e-19 --out other"
    ),
    "divergence by rounding": Line(
        f"{NEW} --model own:Coarse --precision bf16",
        "the loss is no longer finite",
        f"{NEW} --model own:Coarse --precision fp32 --out other",
        advice="with a lower --pretrain-lr or --precision fp32, or with",
    ),
}


@pytest.mark.parametrize("name", WAYS)
def test_the_way_out_works(folder: Path, name: str) -> None:
    follow(WAYS[name], folder, TEST)


def test_every_sentence_has_a_row() -> None:
    require_all(WAYS, TEST)
