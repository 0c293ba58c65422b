"""Where a run's batches come from: a data set that lies on the devices, or one that is read while the run goes on.

An input does not know what is learnt from its batches.
"""

import functools
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from resnet_jax import rng
from resnet_jax.configs.base import Config
from resnet_jax.data import cache, images, sequential, small, stream
from resnet_jax.data.augment import augment_images
from resnet_jax.data.batch import Batch, batch_indices
from resnet_jax.data.preprocessing import Preprocessing, per_pixel_mean
from resnet_jax.data.resident import Augmentation, eval_batch, train_batch
from resnet_jax.distributed import agreement
from resnet_jax.distributed.mesh import batch_sharded, put_batch, put_everywhere
from resnet_jax.errors import InputError, warn
from resnet_jax.runs import build
from resnet_jax.runs.metadata import CheckpointMetadata
from resnet_jax.runs.tasks import Task
from resnet_jax.training.compiled import compile_evaluation, compile_steps
from resnet_jax.training.metrics import Metrics
from resnet_jax.training.state import TrainState


class Program(NamedTuple):
    """A task on an input, compiled: all that the loop sees of both.

    Attributes:
      steps: the compiled program of a dispatch of so many steps; of a streamed input each is one step.
      run_steps: (state, steps, stop) -> (state, metrics of each step); donates the state. It asks `stop` wherever it
        could end, and ends there when that is true, perhaps after fewer steps.
      evaluate: (state, split, stop) -> metrics of the whole split; where `stop` says so, of what was seen of it.
    """

    steps: Callable[[int], Any]
    run_steps: Callable[[TrainState, int, Callable[[], bool]], tuple[TrainState, Metrics]]
    evaluate: Callable[[TrainState, str, Callable[[], bool]], Metrics]


class Input(Protocol):
    """Batches of a data set, as pure functions of the seed and the step.

    Attributes:
      metadata: of the classes, the images and the data.
      train_images: how many.
      split_sizes: how many images the splits have, for people; an input may lack it.
      preprocessing: of the run, on the devices.
      eval_split: the split that is evaluated during training.
      test_split: the split whose error after the last iteration is the result.
    """

    metadata: CheckpointMetadata
    train_images: int
    eval_split: str
    test_split: str

    @property
    def preprocessing(self) -> Preprocessing: ...

    def compile(self, task: Task) -> Program:
        """The task's steps on these batches."""
        ...

    def batches(self, steps: int) -> Iterator[Batch]:
        """The first batches of the run, pre-processed and augmented, on the devices."""
        ...

    def batch_indices(self, step: int) -> np.ndarray:
        """Which training images the batch of a step holds."""
        ...

    def close(self) -> None:
        """Ends what runs beside the loop."""
        ...


# Opens the input of a config on a mesh; see `open_input`.
InputOpener: TypeAlias = Callable[[Config, Mesh, Callable[[str], None], Preprocessing | None], Input]


def open_input(
    config: Config, mesh: Mesh, log: Callable[[str], None] = warn, preprocessing: Preprocessing | None = None
) -> Input:
    """The input of a config: photographs are streamed, other data sets lie on the devices.

    Args:
      config, mesh: of the run.
      log: is given lines about the data.
      preprocessing: of the run's checkpoints, which is not measured again; None where there are none.

    Raises:
      InputError: the config names data that do not exist, or the processes have different data.
    """
    if config.dataset.name in images.NAMES:
        return StreamedInput(config, mesh, log, preprocessing)
    fields = config.dataset
    dataset = small.load(fields.name, fields.data_dir, fields.validation_images)
    return ResidentInput(dataset, config, mesh, preprocessing)


class ResidentInput:
    """A small data set, all of it on every device: batches are made inside the compiled steps; see `Input`."""

    def __init__(self, dataset: small.Dataset, config: Config, mesh: Mesh, preprocessing: Preprocessing | None = None):
        train = dataset.train
        self.metadata = CheckpointMetadata(tuple(dataset.class_names), train.images.shape[1:], small.checksum(train))
        self.train_images = len(train)
        scored = {"validation": dataset.validation, "test": dataset.test}
        self.split_sizes = {"training": len(train)} | {name: len(each) for name, each in scored.items() if each}
        self.test_split = "test"
        # Where there are images to validate on, the test images are looked at once, after the last iteration.
        self.eval_split = "test" if dataset.validation is None else "validation"
        _check_same_data(self.metadata, len(train), len(dataset.test), small.checksum(dataset.test))
        self.preprocessing = put_everywhere(
            mesh, preprocessing or Preprocessing(jnp.asarray(per_pixel_mean(train.images)))
        )
        self._train = put_everywhere(mesh, train)
        self._scored = {"test": put_everywhere(mesh, dataset.test)}
        if dataset.validation is not None:
            self._scored["validation"] = put_everywhere(mesh, dataset.validation)
        self._config, self._mesh, self._seed = config, mesh, put_everywhere(mesh, np.uint32(config.seed))
        self._augmentation = Augmentation(config.dataset.pad, config.dataset.mirror)

    def _train_batch(self, data: Any, seed: jax.Array, step: jax.Array) -> Batch:
        split, preprocessing = data
        return train_batch(split, preprocessing, self._augmentation, seed, step, self._config.train.batch_size)

    def compile(self, task: Task) -> Program:
        mesh, data = self._mesh, (self._train, self.preprocessing)
        train_steps = compile_steps(task.train_step, self._train_batch, mesh)
        size = self._config.eval.batch_size + -self._config.eval.batch_size % mesh.size
        evaluation = compile_evaluation(
            task.eval_step, lambda data, index: eval_batch(data[0], data[1], index, size), mesh
        )

        @functools.cache
        def steps(count: int) -> Any:
            state = task.abstract_state(self.metadata.image_shape, mesh)
            return train_steps.lower(state, data, self._seed, count).compile()

        def run_steps(state: TrainState, count: int, stop: Callable[[], bool]) -> tuple[TrainState, Metrics]:
            # Ended, and not only begun: a signal meanwhile stops the run here and not a dispatch later.
            made = jax.block_until_ready(steps(count)(state, data, self._seed))
            stop()
            return made

        def evaluate(state: TrainState, split: str, stop: Callable[[], bool]) -> Metrics:
            del stop  # it is one dispatch
            scored = self._scored[split]
            return evaluation(state.eval_variables, (scored, self.preprocessing), -(-len(scored) // size))

        return Program(steps, run_steps, evaluate)

    def batches(self, steps: int) -> Iterator[Batch]:
        @jax.jit
        def batch(data, seed, step):
            made = self._train_batch(data, seed, step)
            return jax.lax.with_sharding_constraint(made, batch_sharded(self._mesh))

        for step in range(steps):
            yield batch((self._train, self.preprocessing), self._seed, jnp.asarray(step, jnp.int32))

    def batch_indices(self, step: int) -> np.ndarray:
        config = self._config
        return np.asarray(batch_indices(config.seed, step, config.train.batch_size, self.train_images))

    def close(self) -> None:
        pass


# Steps that may wait on the devices: enough for them never to wait for the host, and few batches in their memory.
_AHEAD = 2


class StreamedInput:
    """Images that are read while the run goes on: each step is a dispatch; see `Input`."""

    test_split = eval_split = "validation"

    def __init__(self, config: Config, mesh: Mesh, log: Callable[[str], None], preprocessing: Preprocessing | None):
        dataset = images.open_images(config.dataset.name, config.dataset.data_dir, log)
        cache.warn_of_enlarging(dataset.resize_size, build.resize_sizes(config), log)
        size = config.stream.image_size
        self.metadata = CheckpointMetadata(dataset.class_names, (size, size, 3), dataset.crc)
        self.train_images = len(dataset.train)
        self.split_sizes = {"training": len(dataset.train), "validation": len(dataset.validation)}
        _check_same_data(self.metadata, len(dataset.train), len(dataset.validation), dataset.crc)
        self._config, self._mesh, self._log, self._dataset = config, mesh, log, dataset
        self._saved, self._placed = preprocessing, None
        self._seed = put_everywhere(mesh, np.uint32(config.seed))
        self._host = (jax.process_index(), jax.process_count())
        self._windows = stream.TrainBatches(
            dataset.train,
            build.cropping(config),
            seed=config.seed,
            batch_size=config.train.batch_size,
            start=0,
            num_workers=build.workers(config),
            host=self._host,
        )

    @property
    def preprocessing(self) -> Preprocessing:
        # Measured when it is first asked for: what cannot be trained is refused before.
        if self._placed is None:
            found = self._saved or build.image_preprocessing(self._config, self._dataset.train, self._log)
            # Each host measured the mean image of its own files, and the devices do not compare what they are given.
            _check_same({"the checksum of the mean image": zlib.crc32(np.asarray(found.mean).tobytes())})
            self._placed = put_everywhere(self._mesh, found)
        return self._placed

    def _train_batch(self, data: Any, seed: jax.Array, step: jax.Array) -> Batch:
        windows, labels, preprocessing = data
        key = jax.random.fold_in(rng.stream(seed, "augmentation"), step)
        noise, mirror = self._config.stream.pca_lighting_std, self._config.dataset.mirror
        return Batch(augment_images(key, windows, preprocessing, noise, mirror), labels, jnp.ones(labels.shape))

    def compile(self, task: Task) -> Program:
        mesh, config = self._mesh, self._config
        train_steps = compile_steps(task.train_step, self._train_batch, mesh)
        evaluation = compile_evaluation(
            task.eval_step, lambda data, _: data[0]._replace(images=data[1](data[0].images)), mesh
        )
        size = config.eval.batch_size + -config.eval.batch_size % mesh.size
        train, limit = self._dataset.train, config.stream.max_corrupt_fraction
        replaced = stream.DamageReport(train, limit, self._log)
        left_out = stream.DamageReport(self._dataset.validation, limit, self._log, "it is left out")

        @functools.cache
        def one_step() -> Any:
            state = task.abstract_state(self.metadata.image_shape, mesh)
            batch, place = config.train.batch_size, batch_sharded(mesh)
            windows = jax.ShapeDtypeStruct((batch, *self.metadata.image_shape), jnp.uint8, sharding=place)
            labels = jax.ShapeDtypeStruct((batch,), jnp.int32, sharding=place)
            return train_steps.lower(state, (windows, labels, self.preprocessing), self._seed, 1).compile()

        def run_steps(state: TrainState, count: int, stop: Callable[[], bool]) -> tuple[TrainState, Metrics]:
            self._windows.go_to(int(jax.device_get(state.step)))
            step, found, damaged = one_step(), [], []
            for _ in range(count):
                batch = next(self._windows)
                damaged += batch.damaged[batch.damaged >= 0].tolist()
                windows, labels = put_batch(mesh, (batch.images, batch.labels))
                state, metrics = step(state, (windows, labels, self.preprocessing), self._seed)
                found.append(metrics)
                if len(found) > _AHEAD:
                    jax.block_until_ready(found[-_AHEAD - 1])
                if stop():
                    break
            _report(replaced, damaged)
            # Joined here: on the devices it would be hundreds of dispatches, and a program for each number of steps.
            return state, jax.tree.map(lambda *each: np.concatenate(each), *jax.device_get(found))

        def evaluate(state: TrainState, split: str, stop: Callable[[], bool]) -> Metrics:
            source, damaged, totals = getattr(self._dataset, split), [], None
            views = sequential.central_batches(
                source, self.metadata.image_shape, self.preprocessing, size, damaged.extend, self._host
            )
            for batch in views:
                data = Batch(*put_batch(mesh, batch)), self.preprocessing
                found = jax.device_get(evaluation(state.eval_variables, data, 1))
                # One batch at a time: the devices would hold all that the host is ahead of them.
                totals = found if totals is None else jax.tree.map(np.add, totals, found)
                if stop():
                    return totals
            _report(left_out, damaged)
            if totals is None or not totals["loss"].count:
                raise InputError(f"all of the {len(source)} {split} photographs are damaged: is the data set whole?")
            return totals

        return Program(lambda _: one_step(), run_steps, evaluate)

    def batches(self, steps: int) -> Iterator[Batch]:
        batch = jax.jit(self._train_batch)
        self._windows.go_to(0)
        for step in range(steps):
            windows = next(self._windows)
            data = (*put_batch(self._mesh, (windows.images, windows.labels)), self.preprocessing)
            yield batch(data, self._seed, jnp.asarray(step, jnp.int32))

    def batch_indices(self, step: int) -> np.ndarray:
        config = self._config
        return stream.batch_indices(config.seed, step, config.train.batch_size, self.train_images)

    def close(self) -> None:
        self._windows.close()


def _report(report: stream.DamageReport, damaged: Iterable[int]) -> None:
    """Tells the report of every host which damaged images any of them met; all of them call it."""
    found = agreement.exchange(sorted({int(index) for index in damaged} - report.found))
    report(np.array(sorted(set().union(*found)), np.int64))


def _check_same_data(metadata: CheckpointMetadata, train: int, scored: int, scored_crc: int) -> None:
    _check_same(
        {
            "the number of classes": len(metadata.class_names),
            "the checksum of the classes": zlib.crc32("\0".join(metadata.class_names).encode()),
            "the number of training images": train,
            "the number of images to score": scored,
            "the checksum of the training data": metadata.data_crc,
            "the checksum of the images to score": scored_crc,
        }
    )


def _check_same(facts: Mapping[str, Any]) -> None:
    agreement.check_same("data", facts, "use the same files for config.dataset.data_dir on every host")
