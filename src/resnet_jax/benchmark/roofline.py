"""How fast the devices at hand can compute and move bytes, and the least that a network asks of them."""

import functools
import math
import statistics
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax import models, rng
from resnet_jax.analysis import layer_costs
from resnet_jax.analysis.complexity import Network
from resnet_jax.benchmark.measuring import DTYPES, check_choice
from resnet_jax.distributed.mesh import batch_sharded, make_mesh, replicated
from resnet_jax.evaluation.classifier import Classifier

# Rounds whose median is taken, and calls in a round: many where one is over in a millisecond.
_ROUNDS, _CALLS = 5, 10


def device_peaks(dtype: str = "float32") -> dict[str, float]:
    """Measures what all devices together do at best, once in a process: it takes about a second on two CPU cores.

    Args:
      dtype: "float32" or "bfloat16", of a matrix product on each device at JAX's default precision, as the layers have
        it: of 8192 x 8192 numbers on each device, or on a CPU 1024 x 1024 in all.

    Returns:
      "operations_per_second": additions and multiplications of that product, and "bytes_per_second": read and written
      where 1 is added in place to an array of 1 GiB on each device, or on a CPU 256 MiB in all. Medians of 5 rounds.

    Raises:
      InputError: another dtype, or no device.

    >>> device_peaks("float8")
    Traceback (most recent call last):
    resnet_jax.errors.InputError: dtype is 'float8', but it must be one of float32, bfloat16
    """
    check_choice("dtype", dtype, DTYPES)
    operations, moved = _measured(dtype)
    return {"operations_per_second": operations, "bytes_per_second": moved}


@functools.cache
def _measured(dtype: str) -> tuple[float, float]:
    mesh = make_mesh()
    cpu = mesh.devices.flat[0].platform == "cpu"
    side, length, calls = (math.isqrt(2**20 // mesh.size), 2**26 // mesh.size, 1) if cpu else (8192, 2**28, _CALLS)
    jit = functools.partial(jax.jit, out_shardings=batch_sharded(mesh))
    key = jax.device_put(rng.stream(0, "peaks"), replicated(mesh))
    # Zeros would cost a GPU less power than numbers do.
    factor = jit(lambda key: jax.random.normal(key, (mesh.size, side, side), DTYPES[dtype]))(key)
    multiply = jit(lambda factor, _: factor @ factor)
    # In place: on a CPU new memory costs more than what is written to it.
    add = jit(lambda array: array + 1, donate_argnums=0)

    def rate(call: Any, array: Any, amount: float) -> float:
        seconds = []
        for _ in range(_ROUNDS + 1):
            started = time.perf_counter()
            for _ in range(calls):
                array = call(array)
            jax.block_until_ready(array)
            seconds.append(time.perf_counter() - started)
        return calls * mesh.size * amount / statistics.median(seconds[1:])

    operations = rate(functools.partial(multiply, factor), factor, 2 * side**3)
    return operations, rate(add, jit(lambda: jnp.zeros((mesh.size, length), jnp.float32))(), 2 * 4 * length)


class Work(NamedTuple):
    """The least that a layer computes and moves, see `least_work`.

    Attributes:
      name: of the layer, as `analysis.Layer` has it.
      operations: additions and multiplications for each image.
      image_bytes: to and from memory for each image.
      step_bytes: to and from memory in each step, on each device, however many images there are.
    """

    name: str
    operations: int
    image_bytes: int
    step_bytes: int


def least_work(model: Network | Classifier | str, image_size: int | None = None, *, train: bool) -> list[Work]:
    """Counts the least that each layer of a network computes and moves, in the order of execution.

    Operations are two for each multiply-add of convolutions and the classifier, as the paper counts them: with those of
    zeros at the borders, which on maps of few pixels a program may leave out. Training takes three times those of the
    forward pass, for the gradients of a layer's input and of its kernel cost as much as its output each; but two times
    in the first layer, since images need no gradient.

    Bytes are those of feature maps, in the dtype of the computation, and of float32 parameters, where layers run one
    after another and no map stays on the chip between two of them:

    A convolution, a pooling and the classifier read their input once and write their output once. Backwards they read
    the gradient of the output and the input, and write the gradient of the input, but for the images. Of its input
    a 1x1 convolution of stride 2 needs every fourth pixel.

    Batch norm moves nothing in inference, where a convolution can normalise what it writes. In training the statistics
    are known when the whole map is written, so that it is read once more and written again, normalised. Backwards, two
    sums over the map and its gradient must be known before: the map is read when its gradient is written, then both
    are read, and the gradient of the input is written.

    Of parameters, inference reads each once. Training reads and writes the parameter, its gradient and its momentum.

    Not counted, since it can be done while a map is at hand or is small: ReLUs, sums of shortcuts with what they read,
    averages before the classifier, pre-processing, statistics and the loss. Frozen parts are counted as if they were
    not. What a program computes again, keeps in a wider dtype or sends to other devices comes on top; one whose maps
    stay in a cache can move less.

    Args:
      model, image_size: of `analysis.layer_costs`, whose errors are this one's.
      train: a step of training, or else of inference.

    >>> first = least_work("cifar_resnet8", 32, train=False)[0]
    >>> first == Work("conv1", 2 * 32 * 32 * 27 * 16, 4 * 32 * 32 * (3 + 16), 4 * 27 * 16)
    True
    """
    model = models.create(model) if isinstance(model, str) else model
    network: Any = model.model if isinstance(model, Classifier) else model
    work = []
    for i, layer in enumerate(layer_costs(model, image_size)):
        given, made = math.prod(layer.input), math.prod(layer.output)
        if layer.multiply_adds:
            given = min(given, layer.multiply_adds // layer.output[-1])
        passes = (3 if i else 2) if train else 1
        values = passes * given + (2 if train else 1) * made
        if layer.kind == "batch_norm":
            values = 6 * made if train else 0
        # The classifier computes in float32 at least.
        dtype = np.promote_types(network.dtype, jnp.float32) if layer.name == "fc" else np.dtype(network.dtype)
        step_bytes = (6 if train else 1) * 4 * layer.parameters
        work.append(Work(layer.name, 2 * passes * layer.multiply_adds, values * dtype.itemsize, step_bytes))
    return work


def roofline(network: Network, image_size: int, batch_size: int, dtype: str, *, train: bool) -> dict[str, Any]:
    """The peaks of all devices, and the least that a step of so many images takes with them.

    Returns:
      a JSON-able dict: "peaks", see `device_peaks`; "operations" and "bytes" of a step, see `least_work`; and
      "least_time": seconds in which these devices cannot do more, which is the sum over the layers of the operations
      at the peak or the bytes at the peak, whichever takes longer.
    """
    peaks, devices = device_peaks(dtype), jax.device_count()
    layers = [
        (batch_size * layer.operations, batch_size * layer.image_bytes + devices * layer.step_bytes)
        for layer in least_work(network, image_size, train=train)
    ]
    rates = peaks["operations_per_second"], peaks["bytes_per_second"]
    operations, moved = (sum(column) for column in zip(*layers, strict=True))
    least = sum(max(amount / rate for amount, rate in zip(layer, rates, strict=True)) for layer in layers)
    return {"peaks": peaks, "operations": operations, "bytes": moved, "least_time": least}


def shares(bound: dict[str, Any], step_time: float) -> dict[str, float]:
    """What a step of so many seconds reaches of a `roofline`.

    >>> bound = {"peaks": {"operations_per_second": 100.0}, "operations": 50, "least_time": 0.75}
    >>> shares(bound, 1.0)
    {'share_of_peak': 0.5, 'share_of_roofline': 0.75}
    """
    return {
        "share_of_peak": bound["operations"] / step_time / bound["peaks"]["operations_per_second"],
        "share_of_roofline": bound["least_time"] / step_time,
    }


def roofline_lines(result: dict[str, Any]) -> list[str]:
    """Writes the `roofline` of a result for people."""
    bound, peaks = result["roofline"], result["roofline"]["peaks"]
    speed, bandwidth = peaks["operations_per_second"] / 1e9, peaks["bytes_per_second"] / 1e9
    work, moved, least = bound["operations"] / 1e9, bound["bytes"] / 2**20, 1e3 * bound["least_time"]
    return [
        f"peaks     {speed:,.0f} G operations/s and {bandwidth:,.1f} GB/s, measured, all devices together",
        f"least     {work:,.2f} G operations and {moved:,.1f} MiB moved in a step, in {least:,.2f} ms",
    ]
