"""The work of `peers.py` with this library, or the same networks in plain Linen; talks as `torch_peer.py` does.

python experiments/benchmarks/jax_peer.py train|infer MODEL BATCH_SIZE IMAGE_SIZE STEPS DTYPE ours|ours_onednn|linen
"""

import json
import sys
import time
from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
import linen
import numpy as np

import resnet_jax as rj
from resnet_jax.benchmark.roofline import roofline
from resnet_jax.distributed import make_mesh, put_everywhere
from resnet_jax.models import onednn
from resnet_jax.training.compiled import compile_steps


def rounds(work: str, model: str, batch_size: int, image_size: int, steps: int, dtype: str, form: str) -> Iterator:
    """Yields the seconds of a step, round by round. Our training takes the steps of a round in one dispatch, as a run
    does; Linen's takes one at a time.
    """
    ours, shape = rj.create(model, dtype=jnp.dtype(dtype)), (image_size, image_size, 3)
    network = linen.linen_twin(ours) if form == "linen" else ours
    images = np.random.default_rng(0).normal(size=(batch_size, *shape)).astype(np.float32)
    if work == "infer":
        variables = jax.device_put(rj.models.init(ours, shape, jax.random.key(0)))
        step = _inference(network, variables, shape, images)
    else:
        step = _training(network, images, steps if form != "linen" else 1)
    each = steps if work == "train" and form != "linen" else 1
    while True:
        started = time.perf_counter()
        for _ in range(steps // each):
            last = step()
        jax.block_until_ready(last)
        yield (time.perf_counter() - started) / steps


def _inference(network, variables, shape, images):
    if isinstance(network, rj.models.ResNet):
        names = tuple(map(str, range(network.num_classes)))
        classifier = rj.Classifier(network, variables, rj.data.Preprocessing.of_channels(), names, shape)
        given = jnp.asarray(images)
        return lambda: classifier(given)
    copied, given = linen.to_linen(variables), jnp.asarray(images)
    apply = jax.jit(lambda variables, images: network.apply(variables, images, train=False))
    return lambda: apply(copied, given)


def _training(network, images, steps):
    mesh = make_mesh()
    optimizer = rj.training.sgd(0.01, momentum=0.9, weight_decay=1e-4)
    state = rj.training.create_state(network, optimizer, 0, images.shape[1:], mesh)
    batch = rj.data.Batch(images, np.arange(len(images)) % 10, np.ones(len(images), np.float32))
    given, seed = put_everywhere(mesh, batch), put_everywhere(mesh, np.uint32(0))
    one = partial(rj.training.train_step, model=network, optimizer=optimizer, mesh=mesh)
    dispatch = compile_steps(one, lambda data, seed, step: data, mesh)

    def step():
        nonlocal state
        state, metrics = dispatch(state, given, seed, steps)
        return metrics

    return step


def main(work: str, model: str, batch_size: str, image_size: str, steps: str, dtype: str, form: str) -> None:
    """Says what it is, and answers each line of the input with a round, or "roofline" with that of the work."""
    device, images, size = jax.devices()[0], int(batch_size), int(image_size)
    if form == "ours_onednn" and not (device.platform == "cpu" and onednn.version()):
        raise SystemExit("error: oneDNN is for CPUs, and the extra that brings it is not installed or does not load")
    version = f"{jax.__version__}, oneDNN {onednn.version()}" if form == "ours_onednn" else jax.__version__
    about = {"version": version, "platform": device.platform, "device": device.device_kind}
    print(json.dumps(about), flush=True)
    measured = rounds(work, model, images, size, int(steps), dtype, form)
    for line in sys.stdin:
        if line.strip() == "roofline":
            network = rj.create(model, dtype=jnp.dtype(dtype))
            answer = roofline(network, size, images, dtype, train=work == "train")
        else:
            answer = next(measured)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
