"""The phases of QKD inside a loop of Lightning Fabric: self-study, co-study with a teacher, tutoring; then verify.

python examples/fabric_loop.py [model.onnx]
"""

import sys

import torch
from lightning_fabric import Fabric
from torch import nn

import qkd_deploy as qkd
from qkd_deploy.data import batches, normalize
from qkd_deploy.distill import MethodOptions, Outputs, Phase, method_named
from qkd_deploy.distill.losses import labels_only


def optimizers_of(network: nn.Module, lr: float) -> list[torch.optim.Optimizer]:
    """SGD for the weights, and where there are quantization steps, relative moves for them."""
    groups = qkd.parameter_groups(network, lr, weight_decay=1e-4)
    weights = torch.optim.SGD(groups.weights, momentum=0.9, nesterov=True)
    return [weights, qkd.RelativeAdam(groups.steps)] if groups.steps else [weights]


def main(file: str) -> int:
    """Train student and teacher, write ``file`` and verify it; returns the exit code."""
    torch.manual_seed(0)
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    digits = qkd.load_dataset("digits").to(fabric.device)
    images = normalize(digits.train.images[:256])
    student = qkd.prepare(qkd.create_model("plaincnn", 10, 1), "w4a4", (images,), normalization="centered")
    qkd.initialize(student, images)  # before Fabric wraps it
    models = {"student": student, "teacher": qkd.create_model("resnet8", 10, 1)}
    networks = {role: fabric.setup_module(model) for role, model in models.items()}
    phases = [
        Phase("teacher alone", 6, {"teacher": labels_only("teacher")}),
        *method_named("qkd").phases((2, 5, 3), MethodOptions(temperature=2.0)),
    ]
    generator = torch.Generator().manual_seed(0)
    for phase in phases:
        optimizers = [
            fabric.setup_optimizers(optimizer)
            for role in phase.losses
            for optimizer in optimizers_of(models[role], 0.05 * phase.learning_rate_factor(role))
        ]
        for role, network in networks.items():
            network.train(role in phase.losses)
        for _ in range(phase.epochs):
            for inputs, labels in batches(digits.train, 64, generator, digits.augmentation):
                logits = {role: networks[role](inputs) for role in phase.networks}
                losses = [loss(Outputs(labels, logits)) for loss in phase.losses.values()]
                fabric.backward(sum(term for terms in losses for term in terms.values()))
                for optimizer in optimizers:
                    optimizer.step()
                    optimizer.zero_grad()
        fabric.print(phase.name, [{name: round(term.item(), 3) for name, term in terms.items()} for terms in losses])
    student.cpu().eval()
    qkd.export_onnx(student, file)
    report = qkd.verify_onnx(
        file, data=digits.to("cpu"), frozen=qkd.freeze(student), prepared=student, require_integer=True
    )
    fabric.print(report.verdict)
    return 0 if report.passed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "fabric_model.onnx"))
