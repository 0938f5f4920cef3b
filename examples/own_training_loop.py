"""Your own network in your own training loop: prepare, initialize, train, export, verify.

python examples/own_training_loop.py [model.onnx]
"""

import sys

import torch
from torch import nn

import qkd_deploy as qkd
from qkd_deploy.data import batches, normalize


def network() -> nn.Module:
    """Any network that torch.fx can trace."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.1), nn.Linear(128, 10),
    )  # fmt: skip


def main(file: str) -> int:
    """Train at 4 bits, write ``file`` and verify it; returns the exit code."""
    torch.manual_seed(0)
    digits = qkd.load_dataset("digits")
    images = normalize(digits.train.images[:256])
    # pixels normalised by (p - 128) / 64; the codes of the integer model are the pixels themselves
    student = qkd.prepare(network(), "w4a4", (images,), normalization="centered")
    print(student.account)
    qkd.initialize(student, images)
    groups = qkd.parameter_groups(student, lr=3e-3)
    optimizers = torch.optim.Adam(groups.weights), qkd.RelativeAdam(groups.steps)
    generator = torch.Generator().manual_seed(0)
    for epoch in range(8):
        student.train()
        for inputs, labels in batches(digits.train, 64, generator, digits.augmentation):
            loss = nn.functional.cross_entropy(student(inputs), labels)
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
        print(f"epoch {epoch + 1}  loss {loss.item():.3f}")
    student.eval()
    qkd.export_onnx(student, file)
    report = qkd.verify_onnx(file, data=digits, frozen=qkd.freeze(student), prepared=student, require_integer=True)
    print(report.verdict)
    return 0 if report.passed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "own_model.onnx"))
