"""Networks with random weights and statistics, which tell images apart without having been trained."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.configs import base
from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.distributed.mesh import make_mesh, replicated
from resnet_jax.evaluation.classifier import Classifier
from resnet_jax.models import ResNet
from resnet_jax.runs import build, workdir
from resnet_jax.runs.checkpoints import CheckpointMetadata, Checkpoints
from resnet_jax.training.state import TrainState


def random_variables(model, side, seed, channels=3):
    random = np.random.default_rng(seed)

    def draw(path, leaf):
        name, module = path[-1].key, path[-2].key
        if name in ("scale", "var"):
            drawn = random.uniform(0.5, 1.5, leaf.shape)
        elif name in ("bias", "mean"):
            drawn = random.normal(0, 0.3, leaf.shape)
        else:
            fan_in = np.prod(leaf.shape[-4:-1] if module != "fc" else leaf.shape[:1])
            drawn = random.normal(0, (2 / fan_in) ** 0.5, leaf.shape)
        return jnp.asarray(drawn, jnp.float32)

    abstract = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, side, side, channels)), train=False))
    return jax.tree_util.tree_map_with_path(draw, abstract)


def random_preprocessing(side, **view):
    random = np.random.default_rng(5)
    mean = np.array((123.0, 117.0, 104.0)) + random.normal(0, 15, (side, side, 3))
    std = np.array((58.0, 57.0, 57.5))[None, None]
    return Preprocessing(jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32), **view)


def classifier(features, labels, classes):
    """Finds about half of the labels from features (count, width), among many classes; the others win elsewhere."""
    mean, std = features.mean(axis=0), features.std(axis=0) + 1e-6
    normal = (features - mean) / std
    kernel = np.random.default_rng(1).normal(0, 2 / len(std) ** 0.5, (len(std), classes))
    kernel[:, labels] += (normal / np.linalg.norm(normal, axis=1, keepdims=True)).T
    kernel = kernel / std[:, np.newaxis]
    return {"kernel": jnp.asarray(kernel, jnp.float32), "bias": jnp.asarray(-mean @ kernel, jnp.float32)}


@partial(jax.jit, static_argnums=0)
def last_maps(model, variables, images):
    return model.apply(variables, images, train=False, method="stages")[f"stage{len(model.stage_sizes)}"]


def pooled(model, variables, images):
    return np.asarray(last_maps(model, variables, images), np.float64).mean(axis=(1, 2))


def tiny_network(side, pictures, resize_size=None, channel_order="rgb"):
    """A network with the ImageNet stem and 1000 classes.

    Args:
      pictures: uint8 (count, side, side, 3); the classifier is chosen so that their scores differ.
    """
    model = ResNet(
        stage_sizes=(1, 1, 1, 1),
        widths=(4, 8, 16, 32),
        bottleneck=False,
        stem="imagenet",
        num_classes=1000,
        shortcut="B",
    )
    preprocessing = random_preprocessing(
        side, resize_size=resize_size, interpolation="bilinear", channel_order=channel_order
    )
    variables = random_variables(model, side, 0)
    features = pooled(model, variables, preprocessing(pictures))
    variables["params"]["fc"] = classifier(features, np.arange(len(pictures)), 1000)
    return Classifier(model, variables, preprocessing, tuple(f"n{i}" for i in range(1000)), (side, side, 3))


def save_run(
    directory,
    class_names,
    pictures,
    labels,
    *,
    depth=8,
    seed=0,
    dataset="imagenet2012",
    data_dir=None,
    data_crc=1,
    step=3,
):
    """Makes the workdir of a small network for 32 x 32 windows of photographs, which knows some of the pictures."""
    config = base.get_config()
    config.model.depth = depth
    config.dataset.name, config.dataset.data_dir = dataset, data_dir
    model = build.model(config, len(class_names))
    variables = random_variables(model, 32, seed)
    preprocessing = random_preprocessing(32, resize_size=37, interpolation="bilinear")
    features = pooled(model, variables, preprocessing(pictures))
    variables["params"]["fc"] = classifier(features, labels, len(class_names))
    state = TrainState(
        jnp.asarray(step, jnp.int32), opt_state=build.optimizer(config, 1).init(variables["params"]), **variables
    )
    state, preprocessing = jax.device_put((state, preprocessing), replicated(make_mesh()))
    workdir.claim(directory, config)
    with Checkpoints(directory, write=True) as checkpoints:
        checkpoints.save(state, preprocessing, CheckpointMetadata(tuple(class_names), (32, 32, 3), data_crc), step)
    return directory
