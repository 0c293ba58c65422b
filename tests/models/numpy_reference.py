"""The networks once more, as slow plain NumPy in float64 that shares no code with `resnet_jax`."""

import numpy as np


def conv(x, kernel, stride, padding, mode="constant"):
    x = np.pad(x.astype(np.float64), ((0, 0), *padding, (0, 0)), mode)
    size_h, size_w, _, features = kernel.shape
    height = (x.shape[1] - size_h) // stride + 1
    width = (x.shape[2] - size_w) // stride + 1
    out = np.zeros((x.shape[0], height, width, features))
    for i in range(height):
        for j in range(width):
            window = x[:, i * stride : i * stride + size_h, j * stride : j * stride + size_w]
            out[:, i, j] = np.tensordot(window, kernel.astype(np.float64), 3)
    return out


def max_pool(x, alignment):
    """Caffe: no padding, sizes rounded up; Torch: one pixel of padding, sizes rounded down. Windows end at the
    border.
    """
    pad = {"caffe": 0, "torch": 1}[alignment]
    rounded = {"caffe": np.ceil, "torch": np.floor}[alignment]
    height, width = (max(int(rounded((side + 2 * pad - 3) / 2)) + 1, 1) for side in x.shape[1:3])
    out = np.zeros((x.shape[0], height, width, x.shape[3]))
    for i in range(height):
        for j in range(width):
            top, left = 2 * i - pad, 2 * j - pad
            out[:, i, j] = x[:, max(top, 0) : top + 3, max(left, 0) : left + 3].max((1, 2))
    return out


def resnet(model, variables, images):
    """The logits and, as a list in the order of computation, the outputs of all batch norms of the residual branches.

    It takes fields from `model`, a `ResNet`, and normalises by the running statistics.
    """
    responses = []

    def conv_bn(tree, conv_name, bn_name, x, stride=1):
        params, stats = tree
        kernel = params[conv_name]["kernel"]
        pad = (kernel.shape[0] // 2,) * 2
        y = conv(x, kernel, stride, (pad, pad))
        y = (y - stats[bn_name]["mean"]) / np.sqrt(stats[bn_name]["var"] + model.epsilon)
        return y * params[bn_name]["scale"] + params[bn_name]["bias"]

    def branch(tree, x, stride):
        strides = (stride, 1, 1)[: model.block_layers]
        if model.bottleneck:
            strides = {"1x1": (stride, 1, 1), "3x3": (1, stride, 1)}[model.bottleneck_stride]
        for i, stride_i in enumerate(strides, 1):
            x = conv_bn(tree, f"conv{i}", f"bn{i}", np.maximum(x, 0) if i > 1 else x, stride_i)
            responses.append(x)
        return x

    def shortcut(tree, x, features, stride):
        if model.shortcut is None:
            return 0.0
        changes = stride != 1 or x.shape[-1] != features
        if model.shortcut == "C" or (model.shortcut == "B" and changes):
            return conv_bn((tree[0]["shortcut"], tree[1]["shortcut"]), "conv", "bn", x, stride)
        x = x[:, ::stride, ::stride]
        out = np.zeros((*x.shape[:3], features))
        first = (features - x.shape[-1]) // 2 if model.shortcut_padding == "both" else 0
        out[..., first : first + x.shape[-1]] = x
        return out

    def block(tree, x, stride):
        y = branch(tree, x, stride)
        return np.maximum(y + shortcut(tree, x, y.shape[-1], stride), 0)

    def layer(tree, i):
        return {k: layer(v, i) if isinstance(v, dict) else v[i] for k, v in tree.items()}

    variables = {collection: arrays(tree) for collection, tree in variables.items()}
    params, stats = variables["params"], variables["batch_stats"]
    x = conv_bn((params, stats), "conv1", "bn1", images, 2 if model.stem == "imagenet" else 1)
    responses.append(x)
    x = np.maximum(x, 0)
    if model.stem == "imagenet":
        x = max_pool(x, model.stem_pool_padding)
    for s, blocks in enumerate(model.stage_sizes, 1):
        stage = params[f"stage{s}"], stats[f"stage{s}"]
        x = block([tree["first"] for tree in stage], x, 1 if s == 1 else 2)
        for i in range(blocks - 1):
            x = block([layer(tree["rest"], i) for tree in stage], x, 1)
    return x.mean((1, 2)) @ params["fc"]["kernel"] + params["fc"]["bias"], responses


def arrays(tree):
    return {k: arrays(v) if isinstance(v, dict) else np.asarray(v, np.float64) for k, v in tree.items()}
