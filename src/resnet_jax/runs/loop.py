"""The loop: side effects only. What it drives is pure, so a run that was stopped anywhere goes on where it was."""

import contextlib
import dataclasses
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from resnet_jax.configs.base import Config
from resnet_jax.distributed import agreement
from resnet_jax.distributed.machine import check_devices, describe_environment
from resnet_jax.errors import DivergedError, InputError, Preempted, optional
from resnet_jax.files import write_whole
from resnet_jax.runs import build, checks, config_file, describe, length, starting, terminal, workdir
from resnet_jax.runs.checkpoints import Checkpoints
from resnet_jax.runs.inputs import Input, InputOpener, Program, open_input
from resnet_jax.runs.interrupt import Interruptible
from resnet_jax.runs.metadata import CheckpointMetadata
from resnet_jax.runs.metrics_log import MetricsLog, best_of, better, read_metrics
from resnet_jax.runs.run import Run
from resnet_jax.runs.tasks import Task, TaskMaker, classification
from resnet_jax.runs.terminal import Console
from resnet_jax.training.metrics import Metrics
from resnet_jax.training.state import TrainState, create_state

_ADVICE = "A lower config.optimizer.learning_rate or a warm-up may help, in another workdir"


def train(
    config: Config,
    directory: str | os.PathLike[str],
    *,
    make_task: TaskMaker = classification,
    open_input: InputOpener = open_input,
) -> Run:
    """Trains what the config describes, or goes on with what the directory holds of it.

    Of several processes (see `distributed.launch`) all call this alike, and the first one writes.

    Args:
      config: see `configs.base`.
      directory: becomes the run's workdir: config.json, metrics.jsonl, TensorBoard events, checkpoints/, curves.png,
        and at the end result.json. All processes must see it. The run that it holds may become longer, also when it is
        complete, where the learning rates until then stay what they were; see `length.change`.
      make_task, open_input: what is learnt, and from what; see `tasks.classification` and `inputs.open_input`.

    Returns:
      The run; its result has the errors after the final iteration, never the best one, and what they were measured on.
      With `train.keep_best` it also has "best", the iteration with the least validation error and that error.

    Raises:
      InputError: the config or the directory cannot be used.
      DivergedError: the loss became infinite or NaN.
      DiskFullError: a checkpoint could not be written; those before it are whole.
      Preempted: after Ctrl-C or SIGTERM, when the state of the last step is saved.
      PeerLostError: another process of the run does not answer.
    """
    if not isinstance(config, Config):
        raise InputError(f"config is {str(config)[:80]}, but it must be a config, such as configs.load('digits')")
    directory = workdir.locate(directory)
    check_devices()
    console = terminal.console(quiet=not agreement.is_lead())
    checks.check(config)
    config_file.write_text(config)  # refuses fields that no config has, before anything is read
    config_file.check_same(config)
    agreement.check_shared(directory)
    # As process 0 sees them: all go the same way, whenever they look.
    result, begun, saved = agreement.exchange(
        [workdir.read_result(directory), (directory / "config.json").exists(), workdir.saved_steps(directory)]
    )[0]
    theirs = None
    if begun:
        config = starting.as_begun(config, directory)
        theirs = workdir.claim(directory, config)  # before anything is read
    elif result and not saved:
        raise InputError(f"{directory} holds a result and neither config.json nor checkpoints: use another workdir")
    complete = False
    if theirs and result and length.is_complete(result["step"], theirs, config):
        complete = True
        console.print(f"{directory} is complete after {result['step']} iterations; nothing to train")
    else:
        result = _go_on(config, theirs, bool(saved), directory, make_task, open_input, console)
        if agreement.is_lead():
            workdir.write_result(directory, result)
    describe.outcome(directory, result, complete, console)
    return Run(directory, result, make_task)


def _go_on(
    config: Config,
    theirs: Config | None,
    saved: bool,
    directory: Path,
    make_task: TaskMaker,
    open_input: InputOpener,
    console: Console,
) -> dict[str, Any]:
    """Trains from the newest whole checkpoint, or from the beginning; returns the result.

    Args:
      theirs: the config of the workdir; None where it has none yet.
      saved: whether it holds checkpoints.
    """
    mesh, fields = build.mesh(config), config.train

    def open_checkpoints() -> Checkpoints:
        kept, identity = {"keep_last": fields.keep_last, "keep_every": fields.keep_every}, workdir.identity(config)
        return Checkpoints(directory, write=True, **kept, identity=identity)

    def abstract(metadata: CheckpointMetadata) -> TrainState:
        # An optimiser's state has the same arrays whatever the number of images.
        return make_task(config, metadata, 1, mesh).abstract_state(metadata.image_shape, mesh)

    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(open_checkpoints()) if theirs or saved else None
        restored = checkpoints.restore(abstract, console.print, check_identity=not theirs) if checkpoints else None
        preprocessing, weights = restored.preprocessing if restored else None, None
        if restored is None and config.init.weights is not None:
            weights = starting.read(config.init.weights, console.print)
            config = starting.resolved(config, weights)
            preprocessing = starting.preprocessing(config, weights)
        images = open_input(config, mesh, console.print, preprocessing)
        stack.callback(images.close)
        if restored is not None and restored.metadata != images.metadata:
            raise InputError(
                f"the data of {config.dataset.name!r} are not those that this run began with: "
                "use another workdir, or the same images for config.dataset.data_dir"
            )
        if fields.keep_best and images.eval_split == "test":
            raise InputError(
                "config.train.keep_best=true chooses by validation images, and this run has test images only: keep "
                "training images back with config.dataset.validation_images=N"
            )
        config = length.with_iterations(config, images.train_images)
        length.check(config)
        changed = length.change(directory, theirs, config, restored.step if restored else 0) if theirs else None
        task = make_task(config, images.metadata, images.train_images, mesh)
        if weights is not None:
            start = starting.begin(config, weights, images.metadata, task.model, console.print)
            task = dataclasses.replace(task, start=start)
        _ = images.preprocessing  # which can find the data to be damaged, before there is a workdir
        if theirs is not None and changed:
            workdir.lengthen(directory, theirs, config)
        if theirs is None:
            workdir.claim(directory, config)
        if checkpoints is None:
            checkpoints = stack.enter_context(open_checkpoints())
        if restored is None:
            shape = images.metadata.image_shape
            network = task.model if task.start is None else task.start
            state = create_state(network, task.optimizer, config.seed, shape, mesh, ema=task.ema)
        else:
            state = restored.state
        with optional("the description of the run", console.print):
            for line in describe.run(config, images, state.params, directory, restored and restored.step):
                console.print(line)
        for line in filter(None, (changed, length.unreached(config))):
            console.print(line)
        with optional("what has no effect", console.print):
            if idle := build.without_effect(config):
                console.print(idle)
        return _train(config, images, task, state, directory, checkpoints, console)


def _train(
    config: Config,
    images: Input,
    task: Task,
    state: TrainState,
    directory: Path,
    checkpoints: Checkpoints,
    console: Console,
) -> dict[str, Any]:
    fields, total, step, bad = config.train, config.train.iterations, int(state.step), int(state.skipped)
    scored, program = None, images.compile(task)
    metrics_log = MetricsLog(directory, step, console.print) if agreement.is_lead() else contextlib.nullcontext()
    best = None
    if fields.keep_best:
        best = agreement.exchange(best_of(read_metrics(directory), checkpoints.steps(), console.print))[0]
    checkpoints.best = best["step"] if best else None
    label = describe.name(config)
    with metrics_log, terminal.bar(console, label, total, step) as update, Interruptible() as interruption:
        reporter = describe.Reporter(console, update, config, images)
        if step < total:
            with reporter.doing("compiling"):
                compiled = program.steps(_steps(config, step))
            with optional("what a step costs", console.print):
                console.print(describe.program(config, task.model, images.metadata.image_shape, compiled))
        if agreement.exchange(_lacks_score(config, images.eval_split, directory, step))[0]:
            # It was stopped in the middle of that score.
            with reporter.doing("evaluating", step):
                scored = _score(program, state, images.eval_split, step, checkpoints, interruption.reached)
            if interruption.requested:
                raise Preempted(f"the state of iteration {step} is saved")
            means = _means(scored, images.eval_split)
            if isinstance(metrics_log, MetricsLog):
                metrics_log.amend(step, means)
            if fields.keep_best:
                best = better(best, {"step": step, **means})
                checkpoints.best = best["step"] if best else None
        while step < total:
            # The last dispatch, and the first one after a resumption, may have fewer steps and be a program of its own,
            # whose compilation is no part of the training's seconds.
            program.steps(_steps(config, step))
            started, before = time.perf_counter(), step
            state, metrics = program.run_steps(state, _steps(config, step), interruption.reached)
            metrics = jax.device_get(metrics)
            bad = _count_bad(metrics["loss"].total, bad, before, config, images, directory, checkpoints)
            step += len(metrics["loss"].total)
            line = _means(metrics, "train")
            if "learning_rate" in metrics:
                line["learning_rate"] = float(metrics["learning_rate"].total[-1])
            line["seconds"] = time.perf_counter() - started
            line["images_per_second"] = fields.batch_size * (step - before) / line["seconds"]
            reporter.trained(step - before, line["seconds"])
            evaluated = not interruption.requested and (step == total or _passes(fields.eval_every, before, step))
            if evaluated:
                with reporter.doing("evaluating", step):
                    scored = _score(program, state, images.eval_split, step, checkpoints, interruption.reached)
                if not interruption.requested:
                    line |= _means(scored, images.eval_split)
            reporter.tell(step, line, evaluated)
            if isinstance(metrics_log, MetricsLog):
                metrics_log.write(step, line)
            found = better(best, {"step": step, **line}) if fields.keep_best else None
            improved = found != best
            if found and improved:
                best, checkpoints.best = found, step
            due = _passes(fields.checkpoint_every, before, step) and not checkpoints.may_leave_out(step)
            if interruption.requested or step == total or improved or due:
                with reporter.doing("saving", step):
                    if isinstance(metrics_log, MetricsLog):
                        checkpoints.check_lock()  # before lines take the place of another process's
                        metrics_log.put()  # a run that goes on from this checkpoint has the lines until then
                    checkpoints.save(state, images.preprocessing, images.metadata, step)
            if interruption.requested:
                checkpoints.wait()
                raise Preempted(f"the state of iteration {step} is saved")
    lines = read_metrics(directory)
    # A run that ended between its last iteration and its result has not scored anything yet.
    if scored is None or images.test_split != images.eval_split:
        console.print(f"evaluating on the {images.test_split} images")
        scored = _score(program, state, images.test_split, step, checkpoints)
    result = {
        "step": step,
        **{key: line[key] for line in lines[-1:] for key in ("train_loss", "train_error") if key in line},
        "split": images.test_split,
        **_means(scored, images.test_split),
        f"{images.test_split}_images": int(scored["loss"].count),
        **({"best": best} if best else {}),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "training_seconds": sum(line.get("seconds", 0.0) for line in lines),
        "environment": describe_environment(),
    }
    checkpoints.wait()
    return result


def _lacks_score(config: Config, split: str, directory: Path, step: int) -> bool:
    """Whether the line of this step should tell how well the split went, and does not."""
    *before, last = [{"step": 0}, {"step": 0}, *read_metrics(directory)]
    due = step == config.train.iterations or _passes(config.train.eval_every, before[-1]["step"], step)
    return last["step"] == step > 0 and due and f"{split}_loss" not in last


def _score(
    program: Program,
    state: TrainState,
    split: str,
    step: int,
    checkpoints: Checkpoints,
    stop: Callable[[], bool] = lambda: False,
) -> Metrics:
    """The metrics of a split; of what was seen of it where `stop` says so.

    Raises:
      DivergedError: the loss is no finite number: that of the last step was the loss of the state before it.
    """
    found = jax.device_get(program.evaluate(state, split, stop))
    loss = found["loss"].total
    if not math.isfinite(loss):
        raise DivergedError(
            f"the loss on the {split} images is {loss} after iteration {step}; {_last_whole(checkpoints)}. {_ADVICE}"
        )
    return found


def _last_whole(checkpoints: Checkpoints) -> str:
    checkpoints.wait()  # one that is still being written is not whole
    last = checkpoints.latest_step()
    return f"the checkpoint of iteration {last} is whole" if last is not None else "there is no checkpoint yet"


def _steps(config: Config, step: int) -> int:
    """How many steps the next line of metrics.jsonl is about."""
    every = config.train.log_every
    return min(every - step % every, config.train.iterations - step)


def _means(metrics: Metrics, split: str) -> dict[str, float]:
    """Means over the steps whose loss is finite, by names such as "train_loss", and how many others there were."""
    good = np.isfinite(np.atleast_1d(metrics["loss"].total))
    skipped: dict[str, float] = {f"{split}_skipped": int((~good).sum())} if not good.all() else {}
    if not good.any():
        return skipped
    means = {
        f"{split}_{name}": float(np.atleast_1d(mean.total)[good].sum() / np.atleast_1d(mean.count)[good].sum())
        for name, mean in metrics.items()
        if name != "learning_rate"
    }
    return means | skipped


def _passes(every: int, before: int, after: int) -> bool:
    return before // every != after // every


def _count_bad(
    losses: np.ndarray, bad: int, step: int, config: Config, images: Input, directory: Path, checkpoints: Checkpoints
) -> int:
    """How many of the last steps in a row had a loss that is no finite number, of which `bad` came before.

    Raises:
      DivergedError: more of them than config.train.max_skipped_steps.
    """
    for i, loss in enumerate(losses.tolist()):
        bad = 0 if math.isfinite(loss) else bad + 1
        if bad > config.train.max_skipped_steps:
            kept = _last_whole(checkpoints)
            indices = images.batch_indices(step + i)
            if agreement.is_lead():
                found = {"iteration": step + i + 1, "loss": str(loss), "indices": indices.tolist()}
                write_whole(directory / "bad_batch.json", json.dumps(found) + "\n")
            raise DivergedError(
                f"the loss is {loss} at iteration {step + i + 1}"
                + (f", after {bad - 1} others in a row that were skipped" if bad > 1 else "")
                + f", on training images {', '.join(map(str, indices[:5]))} … (all in {directory / 'bad_batch.json'}); "
                f"{kept}. {_ADVICE}"
            )
    return bad
