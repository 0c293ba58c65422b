"""The layouts that weights come in, as torch modules: torchvision's and akamaster's. This file can be imported without
PyTorch, which tests marked `torch` need.
"""

import importlib.util

import jax
import numpy as np

from resnet_jax import models
from resnet_jax.interop import torch_weights

torch = importlib.import_module("torch") if importlib.util.find_spec("torch") else None
nn = torch.nn if torch else None
Module = nn.Module if torch else object

DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


class Blur(Module):
    """Every second pixel of the map smoothed with 1 2 1: what anti-aliased networks have, and no parameters."""

    def forward(self, x):
        line = torch.tensor([1.0, 2.0, 1.0], dtype=x.dtype) / 4
        kernel = torch.outer(line, line).expand(x.shape[1], 1, 3, 3)
        return nn.functional.conv2d(nn.functional.pad(x, (1, 1, 1, 1), "reflect"), kernel, None, 2, 0, 1, x.shape[1])


class Block(Module):
    def __init__(self, inside, width, stride, bottleneck, bottleneck_stride="3x3", blur=False):
        super().__init__()
        sizes, out = ((1, 3, 1), 4 * width) if bottleneck else ((3, 3), width)
        channels = [inside, *[width] * (len(sizes) - 1), out]
        strided = int(bottleneck and bottleneck_stride == "3x3")
        strides = [stride if i == strided and not blur else 1 for i in range(len(sizes))]
        self.count, self.blurred = len(sizes), strided + 1 if blur and stride == 2 else 0
        for i, size in enumerate(sizes):
            conv = nn.Conv2d(channels[i], channels[i + 1], size, strides[i], size // 2, bias=False)
            setattr(self, f"conv{i + 1}", conv)
            setattr(self, f"bn{i + 1}", nn.BatchNorm2d(channels[i + 1]))
        if stride != 1 or inside != out:
            self.downsample = nn.Sequential(nn.Conv2d(inside, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x):
        y = x
        for i in range(1, self.count + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            y = torch.relu(y) if i < self.count else y
            y = Blur()(y) if i == self.blurred else y
        return torch.relu(y + (self.downsample(x) if hasattr(self, "downsample") else x))


class TorchResNet(Module):
    """torchvision's ResNet of version 1.5, written from its names and shapes, and others with the same tensors.

    Those with `blur` are anti-aliased, as timm's resnetblur18; `bottleneck_stride="1x1"` and `ceil_mode` (of the stem's
    pooling, which then has no padding) make Caffe's.
    """

    def __init__(self, depth, classes, bottleneck_stride="3x3", ceil_mode=False, blur=False):
        super().__init__()
        self.ceil_mode, self.blur = ceil_mode, blur
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        inside, bottleneck = 64, depth >= 50
        for stage, blocks in enumerate(DEPTHS[depth]):
            width, made = 64 * 2**stage, []
            for i in range(blocks):
                made.append(Block(inside, width, 2 if stage and not i else 1, bottleneck, bottleneck_stride, blur))
                inside = width * (4 if bottleneck else 1)
            setattr(self, f"layer{stage + 1}", nn.Sequential(*made))
        self.fc = nn.Linear(inside, classes)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        if self.blur:
            x = Blur()(torch.max_pool2d(x, 3, 1, 1))
        else:
            x = torch.max_pool2d(x, 3, 2, 0 if self.ceil_mode else 1, ceil_mode=self.ceil_mode)
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
        return self.fc(x.mean((2, 3)))


def random_torch_resnet(depth, classes=10, seed=0, **kind):
    """A network whose every parameter and running statistic is random, and whose activations stay near 1."""
    generator = torch.Generator().manual_seed(seed)
    model = TorchResNet(depth, classes, **kind)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.3, 0.9, generator=generator)
                module.bias.normal_(0, 0.2, generator=generator)
                module.running_mean.normal_(0, 0.2, generator=generator)
                module.running_var.uniform_(0.5, 2.0, generator=generator)
            elif isinstance(module, nn.Conv2d):
                fan_in = module.weight[0].numel()
                module.weight.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
            elif isinstance(module, nn.Linear):
                module.weight.normal_(0, 0.05, generator=generator)
                module.bias.normal_(0, 0.5, generator=generator)
    return model


def tensors_of(model):
    return {name: tensor.detach().numpy().copy() for name, tensor in model.state_dict().items()}


def nchw(images):
    return torch.from_numpy(np.ascontiguousarray(np.asarray(images).transpose(0, 3, 1, 2)))


def tensors_of_ours(name, classes=3, channels=3, **fields):
    """Random tensors of a network of ours by their torch names, made without torch."""
    model = models.create(name, num_classes=classes, **fields)
    rng = np.random.default_rng(0)
    abstract = models.abstract_variables(model, (32, 32, channels))
    return torch_weights.to_torch(jax.tree.map(lambda leaf: rng.random(leaf.shape, np.float32), abstract))
