"""A YOLO of ultralytics at 4 bits: their network and loss, distilled from the network in float, seen on a photograph.

    pip install 'qkd-deploy[yolo]'
    python examples/yolo.py voc:BCCD --image-size 224 --float-epochs 60 --epochs 15 --out runs/yolo

Boxes may come from `coco:`, `yolo:` and `voc:` folders. `--weights yolov8n.pt` starts from weights of ultralytics'
instead of from scratch. Ends with `yolo.onnx`, all in integers, `yolo.decode.onnx`, which makes boxes of its maps, and
`boxes.png`: what the float model sees on a held-out image on the left, and what the two files see on the right.
"""

import argparse
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn
from torch.nn import functional as F

import qkd_deploy as qkd
from qkd_deploy.data import ImageDataset, batches, normalize
from qkd_deploy.pixels.normalization import Normalization
from qkd_deploy.tasks.detection.score import MeanPrecision

os.environ["YOLO_OFFLINE"] = "True"
try:
    from ultralytics.nn.tasks import DetectionModel, load_checkpoint
    from ultralytics.utils.nms import non_max_suppression
except ImportError as error:
    print(f"this example needs ultralytics ({error}); install it with pip install 'qkd-deploy[yolo]'", file=sys.stderr)
    sys.exit(2)

PIXELS = Normalization.parse("0/1")  # as ultralytics has it: pixels / 255


def targets(boxes: Tensor, size: int) -> dict[str, Tensor]:
    """Boxes [N, M, 6] (class, corners in pixels, crowd; class -1 is padding) as ultralytics' loss takes them."""
    image, row = (boxes[:, :, 0] >= 0).nonzero(as_tuple=True)
    real = boxes[image, row]
    middle, extent = (real[:, 1:3] + real[:, 3:5]) / 2, real[:, 3:5] - real[:, 1:3]
    return {"batch_idx": image.float(), "cls": real[:, :1], "bboxes": torch.cat([middle, extent], 1) / size}


def imitation(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> Tensor:
    """Scores and distributions of distances as the teacher has them, at the places where it sees something."""
    wanted = theirs["scores"].detach().sigmoid()
    seen = wanted.amax(1)
    scores = F.binary_cross_entropy_with_logits(ours["scores"], wanted, reduction="none").sum(1)
    mine, other = (answer["boxes"].unflatten(1, (4, -1)).log_softmax(2) for answer in (ours, theirs))
    sides = F.kl_div(mine, other.detach(), reduction="none", log_target=True).sum((1, 2))
    return (scores.sum() + (seen * sides).sum()) / seen.sum()


def train(
    network: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], data: ImageDataset, epochs: int, lr: float, name: str
) -> None:
    """Minimise ``loss(images, boxes)`` by AdamW, with the augmentation of the data set."""
    optimizer = torch.optim.AdamW(network.parameters(), lr, weight_decay=0.01)
    steps = max(1, epochs * -(-len(data.train) // 8))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, steps)
    generator = torch.Generator().manual_seed(0)
    for epoch in range(epochs):
        network.train()
        values = []
        for images, boxes in batches(data.train, 8, generator, data.augmentation):
            value = loss(images, boxes)
            value.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 10.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            values.append(value.item())
        print(f"{name}: epoch {epoch + 1}/{epochs}, loss {np.mean(values):.2f}", flush=True)
    network.eval()


def detections(answers: Tensor, confidence: float) -> list[Tensor]:
    """Rows [D, 6] (class, corners, score) of every image, by ultralytics' own suppression of doubles."""
    # without its limit of time, which would drop images on a busy machine
    found = non_max_suppression(answers, confidence, 0.6, max_det=100, max_time_img=float("inf"))
    return [torch.cat([rows[:, 5:], rows[:, :5]], 1).cpu() for rows in found]


def precision(answers: Callable[[Tensor], Tensor], data: ImageDataset) -> str:
    """mAP50-95 and mAP50 on the held-out images."""
    score = MeanPrecision()
    for images, boxes in batches(data.test, 8):
        score.add_detections(detections(answers(images), 0.001), boxes)
    return ", ".join(f"{name} {value:.2f} %" for name, value in score.figures().items())


def deployed(file: Path) -> Callable[[Tensor], Tensor]:
    """What the two files answer, one behind the other; the first takes pixels."""
    integer, decode = (onnxruntime.InferenceSession(path) for path in (file, file.with_suffix(".decode.onnx")))
    names = [value.name for value in decode.get_inputs()]

    def answers(images: Tensor) -> Tensor:
        pixels = (images * 255).round().byte().numpy()
        maps = integer.run(names, {integer.get_inputs()[0].name: pixels})
        return torch.from_numpy(decode.run(None, dict(zip(names, maps, strict=True)))[0])

    return answers


def drawn(image: np.ndarray, rows: Tensor, classes: tuple[str, ...], title: str) -> Image.Image:
    """Draw detections [D, 6] into an image, with a caption."""
    picture = Image.fromarray(image).resize((448, 448))
    pen, scale = ImageDraw.Draw(picture), 448 / image.shape[1]
    for kind, *corners, score in rows.tolist():
        colour = ("red", "blue", "green", "orange", "purple", "black")[int(kind) % 6]
        pen.rectangle([corner * scale for corner in corners], outline=colour, width=2)
        pen.text((corners[0] * scale + 3, corners[1] * scale + 2), f"{classes[int(kind)]} {score:.2f}", fill=colour)
    pen.text((8, 434), f"{title}: {len(rows)} boxes", fill="black")
    return picture


def main() -> int:
    """Train in float, distil at few bits, export, verify, draw; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="coco:PATH, yolo:PATH or voc:PATH")
    parser.add_argument("--network", default="yolov8n.yaml", help="a configuration of ultralytics'")
    parser.add_argument("--weights", help="a checkpoint of ultralytics' to start from")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--bits", default="w4a4")
    parser.add_argument("--float-epochs", type=int, default=60)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--image", type=int, default=0, help="number of the held-out image to draw")
    parser.add_argument("--out", type=Path, default=Path("runs/yolo"))
    options = parser.parse_args()
    torch.manual_seed(0)
    data = qkd.load_dataset(options.data, image_size=options.image_size).normalized(PIXELS)

    network = DetectionModel(options.network, nc=len(data.classes), verbose=False)
    if hasattr(network.model[-1], "one2one_cv2"):
        raise qkd.UserError(
            f"{options.network} has two heads; give a network with one, such as yolov8n.yaml or yolo11n.yaml"
        )
    if options.weights:
        network.load(load_checkpoint(options.weights)[0])
    network.args = argparse.Namespace(box=7.5, cls=0.5, dfl=1.5)  # the weights of ultralytics' loss
    criterion = network.init_criterion()

    def hard(student: nn.Module, images: Tensor, boxes: Tensor) -> Tensor:
        return criterion(student(images), targets(boxes, options.image_size))[0].sum()

    train(network, partial(hard, network), data, options.float_epochs, 2e-3, "float")

    some = normalize(data.train.images_at(torch.arange(min(64, len(data.train)))), PIXELS)
    student = qkd.prepare(network, options.bits, (some[:2],), normalization=PIXELS)
    qkd.initialize(student, some)

    def distilled(images: Tensor, boxes: Tensor) -> Tensor:
        with torch.no_grad():
            teacher = network(images)[1]  # in eval mode: decoded boxes, and the maps that they are made of
        ours = student(images)
        return criterion(ours, targets(boxes, options.image_size))[0].sum() + imitation(ours, teacher)

    train(student, distilled, data, options.epochs, 5e-4, options.bits)

    file = options.out / "yolo.onnx"
    qkd.export_onnx(student, file, input="uint8")  # raw pixels: their normalisation is part of the first layer
    held_out = data.test.images_at(torch.arange(len(data.test)))
    report = qkd.verify_onnx(
        file,
        inputs=held_out.numpy(),
        frozen=qkd.freeze(student),
        prepared=student,
        require_integer=True,
    )
    print(report.verdict)
    answers = {"float": lambda images: network(images)[0], f"integer, {options.bits}": deployed(file)}
    with torch.no_grad():
        for title, answer in answers.items():
            print(f"{title}: {precision(answer, data)}")
        image = held_out[options.image : options.image + 1]
        rows = {title: detections(answer(normalize(image, PIXELS)), 0.4)[0] for title, answer in answers.items()}
    pixels = image[0].permute(1, 2, 0).numpy()
    both = [np.asarray(drawn(pixels, found, data.classes, title)) for title, found in rows.items()]
    Image.fromarray(np.concatenate(both, axis=1)).save(options.out / "boxes.png")
    print(f"drew {options.out / 'boxes.png'}")
    return 0 if report.passed else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except qkd.UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
