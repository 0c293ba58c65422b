"""The work of `peers.py` in PyTorch, as its documentation advises: channels last, and bfloat16 by autocast.

It needs PyTorch alone and runs in any environment that has it:

    python experiments/benchmarks/torch_peer.py train|infer MODEL BATCH_SIZE IMAGE_SIZE STEPS DTYPE FORM

The dtype is float32 or bfloat16, the form eager or one of `MODES`. It says first, as JSON, what version it is and what
it runs on. Each line of its input starts a round, to which it answers with the seconds of a step; the first round
compiles and tries cuDNN's algorithms.
"""

import contextlib
import json
import sys
import time

import torch
from torch import nn

# Of torch.compile: its default, CUDA graphs around that, and the search among kernels that takes minutes.
MODES = {"compile": "default", "graphs": "reduce-overhead", "autotune": "max-autotune"}


class Block(nn.Module):
    """Two 3x3 convolutions with option A around them, or a bottleneck with option B, stride in its 1x1 convolution."""

    def __init__(self, inside: int, width: int, stride: int, bottleneck: bool):
        super().__init__()
        out, sizes = (4 * width, (1, 3, 1)) if bottleneck else (width, (3, 3))
        channels = [inside, *[width] * (len(sizes) - 1), out]
        layers = []
        for i, size in enumerate(sizes):
            conv = nn.Conv2d(*channels[i : i + 2], size, stride if i == 0 else 1, size // 2, bias=False)
            layers += [conv, nn.BatchNorm2d(channels[i + 1]), nn.ReLU(inplace=True)]
        self.branch, self.project, self.stride, self.more = nn.Sequential(*layers[:-1]), None, stride, out - inside
        if bottleneck and self.more:
            self.project = nn.Sequential(nn.Conv2d(inside, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x):
        if self.project is not None:
            shortcut = self.project(x)
        elif self.more:
            shortcut = nn.functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))
        else:
            shortcut = x
        return torch.relu(self.branch(x) + shortcut)


def network(name: str) -> nn.Module:
    """ "cifar_resnet20", "cifar_resnet110" or another such depth, or "resnet50"."""
    if name == "resnet50":
        widths, blocks, classes, bottleneck = (64, 128, 256, 512), (3, 4, 6, 3), 1000, True
        stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
        stem.append(nn.MaxPool2d(3, 2, ceil_mode=True))
    else:
        count = (int(name.removeprefix("cifar_resnet")) - 2) // 6
        widths, blocks, classes, bottleneck = (16, 32, 64), (count,) * 3, 10, False
        stem = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    plan = [(width, 1 + (i > 0 and j == 0)) for i, width in enumerate(widths) for j in range(blocks[i])]
    outs = [widths[0], *(width * (4 if bottleneck else 1) for width, _ in plan)]
    body = [Block(inside, width, stride, bottleneck) for inside, (width, stride) in zip(outs, plan, strict=False)]
    return nn.Sequential(*stem, *body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(outs[-1], classes))


def rounds(work: str, model: str, batch_size: int, image_size: int, steps: int, dtype: str, form: str):
    """Yields the seconds of a step, round by round."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    if device == "cuda":
        # By default JAX computes products and convolutions of float32 as TF32, and PyTorch convolutions alone.
        torch.set_float32_matmul_precision("high")
    net = network(model).to(device, memory_format=torch.channels_last)
    images = torch.randn(batch_size, 3, image_size, image_size, device=device)
    images, labels = images.to(memory_format=torch.channels_last), torch.arange(batch_size, device=device) % 10
    optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9, weight_decay=1e-4, fused=device == "cuda")
    half = dtype == "bfloat16"
    forward = torch.compile(net, mode=MODES[form]) if form in MODES else net

    def autocast():
        return torch.autocast(device, torch.bfloat16) if half else contextlib.nullcontext()

    def train():
        with autocast():
            loss = nn.functional.cross_entropy(forward(images), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss

    def infer():
        with torch.inference_mode(), autocast():
            return forward(images)

    net.train(work == "train")
    step = train if work == "train" else infer
    while True:
        started = time.perf_counter()
        for _ in range(steps):
            last = step()
        last.sum().item()  # waits for the device
        yield (time.perf_counter() - started) / steps


def main(work: str, model: str, batch_size: str, image_size: str, steps: str, dtype: str, form: str) -> None:
    """Says what it is, and answers each line of the input with a round."""
    gpu = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if gpu else "cpu"
    about = {"version": torch.__version__, "platform": "gpu" if gpu else "cpu", "device": device}
    print(json.dumps(about), flush=True)
    measured = rounds(work, model, int(batch_size), int(image_size), int(steps), dtype, form)
    for _, seconds in zip(sys.stdin, measured, strict=False):
        print(json.dumps(seconds), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
