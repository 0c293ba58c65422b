"""Checkpoints: the whole state, the pre-processing and the class names of a step. This file alone knows Orbax."""

import contextlib
import errno
import gc
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from orbax.checkpoint import v1 as ocp

from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.distributed.agreement import SEEN_WITHIN, exchange, is_lead
from resnet_jax.distributed.mesh import replicated
from resnet_jax.errors import DiskFullError, DivergedError, InputError, Preempted, causes, first_cause, is_passing
from resnet_jax.files import bucket_errors, is_remote, locked
from resnet_jax.runs.fingerprints import all_finite, check_fingerprints, crc_of_files, fingerprint
from resnet_jax.runs.metadata import CheckpointMetadata, abstract_preprocessing, seal, unseal
from resnet_jax.training.state import TrainState, must_be_finite

T = TypeVar("T")


class Restored(NamedTuple):
    """A loaded checkpoint.

    Attributes:
      step: of the checkpoint.
      state: what `abstract` asked for: a `TrainState`, or the variables of a network alone.
      preprocessing: of the run, on the same devices.
      metadata: of the network and its data.
    """

    step: int
    state: Any
    preprocessing: Preprocessing
    metadata: CheckpointMetadata


class Checkpoints:
    """The checkpoints under a run's `checkpoints/`; a context manager, which ends when everything is on disk.

    Saving is asynchronous and atomic: a run that is killed at any moment leaves whole checkpoints only. A checkpoint
    has these parts:

      "variables", "preprocessing": the arrays that make predictions;
      "ema": averaged variables, where the run keeps them;
      "training": the step, the optimiser's state, and how many of the last steps were skipped;
      "card": the metadata, a text with its checksum: class names, the images' shape, the checksum of the data, how
        images are resized, and the fingerprints of the other parts (`metadata.seal`).

    Whoever loads a part checks its fingerprint. Of several processes each writes what its own devices hold; all of them
    must call every method.

    Args:
      workdir: of the run.
      write: whether to save, which only one run at a time can do in a workdir.
      keep_last: of the last checkpoints so many are kept: a damaged one costs the steps of an interval and not the run.
      keep_every: checkpoints whose step this number divides are kept for good.
      identity: of the run, which its checkpoints keep; see `workdir.identity`.

    Attributes:
      best: the step of a checkpoint that is kept too, which may change; it goes when the next one has been saved.

    Raises:
      InputError: with `write`, when another run is writing in this workdir; or its name is one that Orbax misreads.
    """

    def __init__(
        self,
        workdir: Path,
        *,
        write: bool,
        keep_last: int = 3,
        keep_every: int | None = None,
        identity: int | None = None,
    ):
        self._identity, self._keep_every, self._began = identity, keep_every, 0.0
        self.directory = workdir.absolute() / "checkpoints"
        self.best: int | None = None
        self.check_lock: Callable[[], None] = lambda: None
        if str(workdir).startswith("s3://"):
            _open_s3()
        with contextlib.ExitStack() as held:
            folder = _without_patterns(workdir.absolute(), held)
            if write and is_lead():
                refusal = (
                    f"another process is training in {workdir}: wait for it, or use another workdir; processes of "
                    "one run on several hosts are started with --distributed"
                )
                self.check_lock = held.enter_context(locked(workdir / "lock", refusal))
            policies = ocp.training.preservation_policies
            kept: list[Any] = [policies.LatestN(keep_last), _Best(self)]
            if keep_every is not None:
                kept.append(policies.EveryNSteps(keep_every))
            # For each device to write its part of a small array, Orbax would compile a program for every shape.
            context = ocp.Context()
            context.array.saving.min_slice_bytes_for_replica_parallel = 2**24
            self._checkpointer = ocp.training.Checkpointer(
                str(folder / "checkpoints"),
                context=context,
                # The loop decides when to save; Orbax's own default would save as often as it can and keep everything.
                save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),  # pyright: ignore[reportArgumentType]
                preservation_policy=policies.AnyPreservationPolicy(kept),  # pyright: ignore[reportArgumentType]
                # What a killed run was writing; a reader must leave alone what a live run is writing.
                cleanup_tmp_directories=write,
            )
            # Orbax would ask JAX at its steps whether to stop. JAX remembers the last number that it was asked with,
            # and `Interruptible` counts otherwise: a notice would pass unseen.
            self._checkpointer._manager.reached_preemption = lambda step: False
            self._agree()
            self._held = held.pop_all()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None = None, *exception: object) -> None:
        # Closing waits for the other processes, which do not come where an error ends this one alone.
        with self._held:
            if kind is None or issubclass(kind, Preempted) or jax.process_count() == 1:
                with _clear_errors(self.directory):
                    self._checkpointer.close()

    def save(self, state: TrainState, preprocessing: Preprocessing, metadata: CheckpointMetadata, step: int) -> None:
        """Starts saving; returns as soon as the arrays have been copied from the devices.

        Raises:
          DivergedError: what `must_be_finite` names of the state is not finite.
          DiskFullError: this or the previous checkpoint could not be written.
        """
        self._began, parts = time.monotonic(), {**_parts(state), "preprocessing": preprocessing}
        fingerprints = {name: fingerprint(part) for name, part in parts.items()}
        fingerprints, finite = jax.device_get((fingerprints, all_finite(must_be_finite(state))))
        if not finite:
            raise DivergedError(
                f"the state of iteration {step} holds numbers that are not finite and was not saved: "
                "train in another workdir with a lower config.optimizer.learning_rate or a warm-up"
            )
        with _clear_errors(self.directory):
            # A run only gets to a step again when `restore` could not read its checkpoint.
            for passed_over in (each for each in self.steps() if each >= step):
                self._checkpointer.delete(passed_over)
            card = seal(
                metadata, preprocessing, {name: int(value) for name, value in fingerprints.items()}, self._identity
            )
            self._checkpointer.save_checkpointables_async(step, {**parts, "card": card})

    def may_leave_out(self, step: int) -> bool:
        """Whether the loop would wait to save: one is on its way to a bucket still. Never of what is kept for good."""
        if not is_remote(self.directory) or (self._keep_every and step % self._keep_every == 0):
            return False
        fresh = time.monotonic() - self._began < 300  # one that takes longer is waited for, and its error seen
        return all(exchange(fresh and self._checkpointer.is_saving_in_progress()))

    def wait(self) -> None:
        """Returns when everything is on disk; raises as `save`."""
        with _clear_errors(self.directory):
            self._checkpointer.wait()

    def latest_step(self) -> int | None:
        """The step of the newest checkpoint, or None."""
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    def restore(
        self,
        abstract: Callable[[CheckpointMetadata], TrainState | dict[str, Any]],
        log: Callable[[str], None],
        step: int | None = None,
        *,
        check_identity: bool = False,
    ) -> Restored | None:
        """Loads the newest whole checkpoint, or that of a step; None if there is none at all.

        Damaged ones are passed over; `save` replaces them when the run gets there again.

        Args:
          abstract: given what a checkpoint says of itself, the shapes, dtypes and shardings to restore to: of a whole
            `TrainState`, or of a network's variables alone: the averaged ones where there are some.
          log: is given one line about each damaged checkpoint.
          step: None is the newest whole one.
          check_identity: refuses checkpoints of a run of another identity, where no config.json says whose they are.

        Raises:
          InputError: there are checkpoints, and none can be read, or not the one of `step`, or a newer resnet_jax wrote
            the newest one.
        """
        steps = self.steps()
        if steps and step is not None and step not in steps:
            there = ", ".join(map(str, steps))
            raise InputError(f"there is no checkpoint of iteration {step} in {self.directory}: there are {there}")
        for each in reversed(steps) if step is None else [step] if steps else []:
            found, error = _attempt(lambda each: unseal(self._read(each, {"card": None})["card"]), each)
            if found is not None:
                metadata, fields = found
                if check_identity and fields.get("identity", self._identity) != self._identity:
                    raise InputError(
                        f"{self.directory.parent} has no config.json, and its checkpoints are of a run with other "
                        "fields than these: put a copy of it back, give the fields that it had, or use another workdir"
                    )
                found, error = _attempt(self._load, each, fields, abstract(metadata))
                if found is not None:
                    return Restored(each, *found, metadata)
            if step is not None:
                raise InputError(f"checkpoint {step} in {self.directory} is damaged: {error}: take another one")
            log(f"checkpoint {each} is damaged and passed over: {error}")
        if steps:
            raise InputError(f"no checkpoint in {self.directory} can be read; to start again use another workdir")
        return None

    def _load(self, step: int, fields: dict[str, Any], wanted: Any) -> tuple[Any, Preprocessing]:
        """The state or variables, and the pre-processing; raises ValueError where they are not what was saved."""
        whole = isinstance(wanted, TrainState)
        network = "ema" if "ema" in fields["fingerprints"] else "variables"
        parts = _parts(wanted) if whole else {network: wanted}
        if whole and not fields["version"]:
            del parts["training"]["skipped"]
        mesh = jax.tree.leaves(wanted)[0].sharding.mesh
        parts["preprocessing"] = abstract_preprocessing(fields, replicated(mesh))
        loaded = self._read(step, parts)
        # The version before had no fingerprint of the pre-processing.
        known = {name: part for name, part in loaded.items() if fields["version"] or name != "preprocessing"}
        check_fingerprints(known, fields["fingerprints"])
        preprocessing = loaded["preprocessing"]
        if not whole:
            return loaded[network], preprocessing
        training = {"skipped": jnp.zeros_like(loaded["training"]["step"]), **loaded["training"]}
        return TrainState(**loaded["variables"], **training, ema=loaded.get("ema")), preprocessing

    def _read(self, step: int, parts: dict[str, Any]) -> dict[str, Any]:
        with bucket_errors(self.directory):  # a server that does not answer damages nothing
            return self._checkpointer.load_checkpointables(step, parts)

    def steps(self) -> list[int]:
        """Of the checkpoints, the oldest first."""
        return [checkpoint.step for checkpoint in self._checkpointer.checkpoints]

    def _seen(self) -> list[list[int]]:
        """The checkpoints, and for the newest ones a checksum of the names, sizes and first bytes of their files."""
        steps = self.steps()
        return [steps, [crc_of_files(self.directory / str(step)) for step in steps[-3:]]]

    def _agree(self) -> None:
        """Waits until all processes see the same files: a network file system shows the newest ones late to some.

        Where one of them failed to read what the others read, these would wait in Orbax for minutes.
        """
        if jax.process_count() == 1:
            return
        for _ in range(int(SEEN_WITHIN) + 1):
            lead, *others = exchange(self._seen())
            if all(other == lead for other in others):
                return
            time.sleep(1)
            self._checkpointer.reload()
        raise InputError(
            f"the processes see different checkpoints in {self.directory}: use a workdir on a file system that all "
            "hosts mount"
        )


class _Best:
    """Orbax's policy that keeps the checkpoint of the step `best`, which changes while a run goes on."""

    def __init__(self, checkpoints: Checkpoints):
        self._checkpoints = checkpoints

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        return [each.step == self._checkpoints.best for each in checkpoints]


def _attempt(read: Callable[..., T], *arguments: Any) -> tuple[T | None, str | None]:
    """What was read, or None and the error of any process: all of them go on from the same checkpoint."""
    found, error = None, None
    try:
        found = read(*arguments)
    except (MemoryError, InputError):
        raise
    except Exception as exception:  # Orbax and TensorStore raise many types for damaged files.
        if is_passing(exception) or "RESOURCE_EXHAUSTED" in str(exception):
            raise
        error = first_cause(exception)
    if error is not None:
        # Orbax leaves the other reads without anybody to wait for them: Python would say so at some later time, in
        # lines that nobody can place.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
            gc.collect()
    error = next((each for each in exchange(error) if each is not None), None)
    return (found, None) if error is None else (None, error)


def _parts(state: TrainState) -> dict[str, Any]:
    training = {"step": state.step, "opt_state": state.opt_state, "skipped": state.skipped}
    averages = {} if state.ema is None else {"ema": state.ema}
    return {"variables": state.variables, "training": training, **averages}


def _without_patterns(workdir: Path, stack: contextlib.ExitStack) -> Path:
    """The folder by a name without wildcards: Orbax takes paths for patterns, and could not read those of [x]."""
    if not re.search(r"[*?\[\]\\]", str(workdir)):
        return workdir
    if jax.process_count() > 1 or is_remote(workdir) or not os.path.isdir("/proc/self/fd"):
        raise InputError(f"{workdir} cannot hold checkpoints here: use a workdir without * ? [ ] \\ in its path")
    descriptor = os.open(workdir, os.O_RDONLY | os.O_DIRECTORY)
    stack.callback(os.close, descriptor)
    return Path(f"/proc/self/fd/{descriptor}")


@contextlib.contextmanager
def _clear_errors(directory: Path) -> Iterator[None]:
    """Turns what Orbax raises when the disk is full, or a bucket cannot be used, into one clear line."""
    try:
        with bucket_errors(directory):
            yield
    except Exception as error:
        for each in causes(error):
            if "No space left" in str(each) or getattr(each, "errno", None) == errno.ENOSPC:
                wrong, advice = "the disk is full", "free some space"
            elif "Too many open files" in str(each):
                wrong, advice = "too many files are open", "allow more of them (ulimit -n 4096)"
            else:
                continue
            raise DiskFullError(
                f"{wrong}: no checkpoint could be written to {directory}; the older ones are whole: {advice} and run "
                "the same command again"
            ) from error
        raise


def _open_s3() -> None:
    """Teaches Orbax addresses of S3: version 0.12 takes all but gs:// for folders of a disk."""
    from orbax.checkpoint._src.path import gcs_utils
    from orbax.checkpoint._src.serialization import tensorstore_utils

    from resnet_jax.storage.objects import tensorstore_spec

    buckets, of_gs = ("gs://", "s3://"), gcs_utils.get_kvstore_for_gcs
    if buckets != gcs_utils._GCS_PATH_PREFIX:
        gcs_utils._GCS_PATH_PREFIX = buckets
        gcs_utils.get_kvstore_for_gcs = lambda path: (tensorstore_spec if path[:2] == "s3" else of_gs)(path)
        tensorstore_utils._use_gcs_driver = lambda path: path.startswith(buckets)
        tensorstore_utils._normalize_path = lambda path: re.sub("^(gs|s3):/+", r"\1://", os.path.normpath(path))
