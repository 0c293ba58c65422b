"""The same recipe in PyTorch: a ResNet-20 that is written and trained there errs as often as ours.

PyTorch (the extra `torch`) shares nothing with the library here but the images: the network, its initialisation, the
order of the images, the augmentation and the optimiser are written below. The seeds mean other draws there, so that
the two can only be as far from each other as their seeds are.

Small form: the digits, 400 iterations of 64 images at a rate of 0.03, three seeds; 586 CPU seconds on two busy cores,
on which PyTorch's threads wait. Short form: CIFAR-10 and the schedule of `figure1_6.py`'s short form, three seeds.

Expect means within each other's spread. The rule was written before the first run: they differ by at most two standard
errors of their difference, or by half a point where that is more.
"""

import importlib.util
import itertools
import math
import statistics
import time
from pathlib import Path
from typing import NamedTuple

import experiment
import figure1_6
import numpy as np
from experiment import Claim, shown, text

import resnet_jax as rj

if importlib.util.find_spec("torch"):
    import torch
    from torch import nn

SEEDS = (0, 1, 2)
MOMENTUM, WEIGHT_DECAY = 0.9, 1e-4
# Images that share batch-norm statistics.
GROUP = 64


class Recipe(NamedTuple):
    """What differs between two trainings; the rate is divided by ten after half and three quarters of them."""

    iterations: int
    batch_size: int
    rate: float
    pad: int
    mirror: bool


def network(channels: int):
    """A residual network of 20 layers with option A."""

    class BatchNorm(nn.BatchNorm2d):
        """In training, of `GROUP` images at a time."""

        def forward(self, x):
            groups = x.split(GROUP) if self.training else [x]
            return torch.cat([nn.BatchNorm2d.forward(self, group) for group in groups])

    class Block(nn.Module):
        def __init__(self, inside, width):
            super().__init__()
            self.stride, self.more = (1, 0) if inside == width else (2, width - inside)
            self.conv1, self.bn1 = nn.Conv2d(inside, width, 3, self.stride, 1, bias=False), BatchNorm(width)
            self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), BatchNorm(width)

        def forward(self, x):
            y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
            return torch.relu(
                y + nn.functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))
            )

    widths = [16] * 4 + [32] * 3 + [64] * 3
    blocks = [Block(inside, width) for inside, width in itertools.pairwise(widths)]
    stem = nn.Conv2d(channels, 16, 3, 1, 1, bias=False), BatchNorm(16), nn.ReLU()
    model = nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    nn.init.zeros_(model[-1].bias)
    return model


def augmented(images, pad: int, mirror: bool, draw: np.random.Generator):
    """Windows of zero-padded images (batch, channels, height, width), half of them mirrored."""
    size, padded = images.shape[-1], nn.functional.pad(images, (pad,) * 4)
    windows = []
    for image, (top, left) in zip(padded, draw.integers(0, 2 * pad + 1, (len(images), 2)), strict=True):
        window = image[:, top : top + size, left : left + size]
        windows.append(window.flip(-1) if mirror and draw.random() < 0.5 else window)
    return torch.stack(windows)


def train(data: rj.data.Dataset, recipe: Recipe, seed: int, file: Path) -> float:
    """The test error in percent after the last iteration; that of a file where it was trained before."""
    if file.exists():
        return float(file.read_text())
    steps, batch = recipe.iterations, recipe.batch_size
    torch.manual_seed(seed)
    draw = np.random.default_rng(seed)
    mean = data.train.images.mean(0)
    train_images, test_images = (
        torch.from_numpy((split.images - mean).astype(np.float32).transpose(0, 3, 1, 2).copy())
        for split in (data.train, data.test)
    )
    labels = torch.tensor(data.train.labels).long()
    model = network(train_images.shape[1])
    optimizer = torch.optim.SGD(model.parameters(), recipe.rate, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [round(part * steps) for part in (0.5, 0.75)])
    order = np.concatenate([draw.permutation(len(labels)) for _ in range(math.ceil(steps * batch / len(labels)))])
    begun = time.monotonic()
    for step in range(steps):
        rows = order[step * batch : (step + 1) * batch]
        images = augmented(train_images[rows], recipe.pad, recipe.mirror, draw)
        loss = nn.functional.cross_entropy(model(images), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % 100 == 0:
            print(f"PyTorch, seed {seed}: {step + 1} of {steps}, loss {loss:.3f}, {time.monotonic() - begun:.0f} s")
    model.eval()
    with torch.no_grad():
        answers = torch.cat([model(images).argmax(1) for images in test_images.split(500)])
    error = 100 * float(np.mean(answers.numpy() != data.test.labels))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(repr(error))
    return error


def claims(
    runs: list[rj.runs.Run], data: rj.data.Dataset, recipe: Recipe, workdir: Path, told: tuple[str, str]
) -> list[Claim]:
    """Ours beside PyTorch's."""
    statement, paper = "ResNet-20 errs as often as the same recipe in PyTorch does.", "not in the paper"
    if not importlib.util.find_spec("torch"):
        command = "python experiments/paper/pytorch_twin.py"
        return [Claim(statement, paper, "", "not run", "%", 0, *told, command=command)]
    ours = [100 * run.result["test_error"] for run in runs]
    theirs = [train(data, recipe, seed, workdir / f"{seed}.txt") for seed in SEEDS]
    difference = abs(statistics.mean(ours) - statistics.mean(theirs))
    error = math.sqrt((statistics.variance(ours) + statistics.variance(theirs)) / len(SEEDS))
    found = f"{text(ours, ' %', 2)}; PyTorch {text(theirs, ' %', 2)}"
    return [
        Claim(statement, paper, found, shown(difference <= max(2 * error, 0.5)), "%", len(SEEDS), *told,
              numbers={"ours": ours, "PyTorch": theirs}),
    ]  # fmt: skip


def small(workdir: Path) -> list[Claim]:
    """On the digits."""
    runs = [experiment.digits(workdir, "cifar_resnet", 20, seed) for seed in SEEDS]
    told = "digits", "400 iterations of 64 images, rate 0.03"
    return claims(runs, rj.data.load("digits"), Recipe(400, 64, 0.03, 1, False), workdir, told)


def short(workdir: Path) -> list[Claim]:
    """On CIFAR-10."""
    data, name = experiment.cifar10_data()
    runs = experiment.cifar10(workdir, "cifar_resnet", 20, len(SEEDS), figure1_6.ITERATIONS)
    recipe = Recipe(figure1_6.ITERATIONS, 128, 0.1, 4, True)
    return claims(runs, data, recipe, workdir / "short", (name, figure1_6.BUDGET))


if __name__ == "__main__":
    experiment.main(__file__)
