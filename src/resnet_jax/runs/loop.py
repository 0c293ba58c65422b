"""The loop: side effects only. What it drives is pure, so a run that was stopped anywhere goes on where it was."""

import contextlib
import json
import math
import os
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from resnet_jax.analysis import layer_costs
from resnet_jax.configs import Config
from resnet_jax.distributed import agreement
from resnet_jax.distributed.machine import check_devices, describe_environment
from resnet_jax.errors import InputError, Preempted, optional
from resnet_jax.files import write_whole
from resnet_jax.runs import build, config_file, terminal, workdir
from resnet_jax.runs.checkpoints import Checkpoints, saved_preprocessing
from resnet_jax.runs.interrupt import Interruptible
from resnet_jax.runs.metrics_log import MetricsLog, read_metrics
from resnet_jax.runs.task import Task, TaskMaker, make_task
from resnet_jax.runs.terminal import Console
from resnet_jax.training.metrics import Mean, Metrics
from resnet_jax.training.state import TrainState, abstract_state, create_state

_ADVICE = "A lower config.optimizer.learning_rate or a warm-up may help, in another --workdir"


def train(config: Config, directory: str | os.PathLike[str], make_task: TaskMaker = make_task) -> dict[str, Any]:
    """Trains what the config describes, or goes on with what the directory holds of it.

    Of several processes (see `launch.start_processes`) all call this alike, and the first one writes.

    Args:
      config: see `configs.base`.
      directory: becomes the run's workdir: config.json, metrics.jsonl, TensorBoard events, checkpoints/, curves.png,
        and at the end result.json. All processes must see it.
      make_task: of the config, see `task.make_task`; another one trains something else by the same rules.

    Returns:
      The result: errors after the final iteration, never the best one, and what they were measured on.

    Raises:
      InputError: the config or the directory cannot be used, the disk is full, or the loss became infinite or NaN.
      Preempted: after Ctrl-C or SIGTERM, when the state of the last step is saved.
      PeerLostError: another process of the run does not answer.
    """
    directory = workdir.locate(directory)
    check_devices()
    console = terminal.console(quiet=not agreement.is_lead())
    build.check(config)
    config_file.write_text(config)  # refuses fields that no config has, before anything is read
    agreement.check_same_config(config.to_dict())
    agreement.check_shared(directory)
    # As process 0 sees them: all go the same way, whenever they look.
    result, begun = agreement.exchange([workdir.read_result(directory), (directory / "config.json").exists()])[0]
    complete = result is not None
    if complete:
        workdir.claim(directory, config)
        console.print(f"{directory} is complete after {result['step']} iterations; nothing to train")
    else:
        if begun:
            workdir.claim(directory, config)  # before anything is read
        task = make_task(config, console.print, saved_preprocessing(directory))
        workdir.claim(directory, config)
        fields = config.train
        checkpoints = Checkpoints(directory, write=True, keep_last=fields.keep_last, keep_every=fields.keep_every)
        with contextlib.closing(task), checkpoints:
            state = _first_state(config, task, checkpoints, console)
            result = _train(config, task, state, directory, checkpoints, console)
        if agreement.is_lead():
            workdir.write_result(directory, result)
    curves = directory / "curves.png"
    if agreement.is_lead() and not (complete and curves.exists()):
        with optional(f"the picture {curves}", console.print):
            # Importing Matplotlib takes half a second, which nobody needs to wait for at the start.
            from resnet_jax.analysis.plots import plot_curves

            plot_curves({directory.resolve().name: read_metrics(directory)}, curves)
    split = result.get("split", "test")
    console.print(
        f"{split} error {result[f'{split}_error']:.2%} on {result[f'{split}_images']} images "
        f"after {result['step']} iterations"
    )
    console.print(f"checkpoint {directory / 'checkpoints' / str(result['step'])}")
    if curves.exists():
        console.print(f"curves     {curves}")
    return result


def _first_state(config: Config, task: Task, checkpoints: Checkpoints, console: Console) -> TrainState:
    """The state of the newest whole checkpoint, or a new one."""
    shape = task.metadata.image_shape
    restored = checkpoints.restore(abstract_state(task.model, task.optimizer, shape, task.mesh), console.print)
    if restored is None:
        return create_state(task.model, task.optimizer, config.seed, shape, task.mesh)
    if restored.metadata != task.metadata:
        raise InputError(
            f"the data of {config.dataset.name!r} are not those that this run began with: "
            "use another --workdir, or the same images for config.dataset.data_dir"
        )
    console.print(f"going on from the checkpoint of iteration {int(restored.state.step)}")
    return restored.state


def _train(
    config: Config, task: Task, state: TrainState, directory: Path, checkpoints: Checkpoints, console: Console
) -> dict[str, Any]:
    fields, total, step, watched, bad = config.train, config.train.iterations, int(state.step), None, int(state.skipped)
    log = MetricsLog(directory, step, console.print) if agreement.is_lead() else contextlib.nullcontext()
    label = f"{config.model.family}{config.model.depth}"
    with log, terminal.bar(console, label, total, step) as update, Interruptible() as interruption:
        if step < total:
            console.print(_describe_program(config, task, task.program(_steps(config, step))))
        if agreement.exchange(_lacks_score(config, task, directory, step))[0]:
            # It was stopped in the middle of that score.
            watched = _score(task, state, step, interruption, checkpoints)
            if watched is None:
                raise Preempted(f"the state of iteration {step} is saved")
            if isinstance(log, MetricsLog):
                log.amend(step, _means(watched, task.watched))
        while step < total:
            started, before = time.perf_counter(), step
            state, metrics, rates = task.advance(state, _steps(config, step), interruption.reached)
            metrics, rates = jax.device_get((metrics, rates))
            bad = _count_bad(metrics["loss"].total, bad, before, config, task, directory, checkpoints)
            step += len(rates)
            line = _means(metrics, "train")
            line |= {"learning_rate": float(rates[-1]), "seconds": time.perf_counter() - started}
            if not interruption.requested and (step == total or _passes(fields.eval_every, before, step)):
                watched = _score(task, state, step, interruption, checkpoints)
                if watched is not None:
                    line |= _means(watched, task.watched)
                    console.print(_describe(step, total, line))
            if isinstance(log, MetricsLog):
                log.write(step, line)
            if interruption.requested or step == total or _passes(fields.checkpoint_every, before, step):
                checkpoints.save(state, task.preprocessing, task.metadata, step)
            if interruption.requested:
                checkpoints.wait()
                raise Preempted(f"the state of iteration {step} is saved")
            speed = fields.batch_size * len(rates) / line["seconds"]
            update(step, f"{speed:,.0f} images/s")
    lines = read_metrics(directory)
    # A run that ended between its last iteration and its result has not scored anything yet.
    scored = watched if watched and task.final == task.watched else None
    if scored is None:
        scored = jax.device_get(task.score(state, task.final, lambda: False))
        _check_score(scored, task.final, step, checkpoints)
    result = {
        "step": step,
        **{key: line[key] for line in lines[-1:] for key in ("train_loss", "train_error") if key in line},
        "split": task.final,
        **_means(scored, task.final),
        f"{task.final}_images": int(scored["loss"].count),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "training_seconds": sum(line.get("seconds", 0.0) for line in lines),
        "environment": describe_environment(),
    }
    checkpoints.wait()
    return result


def _lacks_score(config: Config, task: Task, directory: Path, step: int) -> bool:
    """Whether the line of this step should tell how well the watched split went, and does not."""
    *before, last = [{"step": 0}, {"step": 0}, *read_metrics(directory)]
    due = step == config.train.iterations or _passes(config.train.eval_every, before[-1]["step"], step)
    return last["step"] == step > 0 and due and f"{task.watched}_loss" not in last


def _score(
    task: Task, state: TrainState, step: int, interruption: Interruptible, checkpoints: Checkpoints
) -> Metrics | None:
    """How well the watched split goes; None where a stop was asked for in the middle of it.

    Raises:
      InputError: the loss is no finite number: that of the last step was the loss of the state before it.
    """
    found = jax.device_get(task.score(state, task.watched, interruption.reached))
    if interruption.requested:
        return None
    _check_score(found, task.watched, step, checkpoints)
    return found


def _check_score(found: Metrics, split: str, step: int, checkpoints: Checkpoints) -> None:
    loss = found["loss"].total
    if not math.isfinite(loss):
        raise InputError(
            f"the loss on the {split} images is {loss} after iteration {step}; {_last_whole(checkpoints)}. {_ADVICE}"
        )


def _last_whole(checkpoints: Checkpoints) -> str:
    checkpoints.wait()  # one that is still being written is not whole
    last = checkpoints.latest_step()
    return f"the checkpoint of iteration {last} is whole" if last is not None else "there is no checkpoint yet"


def _steps(config: Config, step: int) -> int:
    """How many steps the next line of metrics.jsonl is about."""
    every = config.train.log_every
    return min(every - step % every, config.train.iterations - step)


def _means(metrics: Metrics, name: str) -> dict[str, float]:
    """The mean of each metric over the steps whose loss is finite, and how many others there were."""
    good = np.isfinite(np.atleast_1d(metrics["loss"].total))
    skipped: dict[str, float] = {f"{name}_skipped": int((~good).sum())} if not good.all() else {}
    if not good.any():
        return skipped
    kept = {
        key: Mean(*(np.atleast_1d(each)[good] for each in (mean.total, mean.count))) for key, mean in metrics.items()
    }
    return {f"{name}_{key}": float(kept[key]) for key in ("loss", *sorted(kept.keys() - {"loss"}))} | skipped


def _passes(every: int, before: int, after: int) -> bool:
    return before // every != after // every


def _count_bad(
    losses: np.ndarray, bad: int, step: int, config: Config, task: Task, directory: Path, checkpoints: Checkpoints
) -> int:
    """How many of the last steps in a row had a loss that is no finite number, of which `bad` came before.

    Raises:
      InputError: more of them than config.train.max_skipped_steps.
    """
    for i, loss in enumerate(losses.tolist()):
        bad = 0 if math.isfinite(loss) else bad + 1
        if bad > config.train.max_skipped_steps:
            kept = _last_whole(checkpoints)
            indices = task.batch_indices(step + i)
            if agreement.is_lead():
                found = {"iteration": step + i + 1, "loss": str(loss), "indices": indices.tolist()}
                write_whole(directory / "bad_batch.json", json.dumps(found) + "\n")
            raise InputError(
                f"the loss is {loss} at iteration {step + i + 1}"
                + (f", after {bad - 1} others in a row that were skipped" if bad > 1 else "")
                + f", on training images {', '.join(map(str, indices[:5]))} … (all in {directory / 'bad_batch.json'}); "
                f"{kept}. {_ADVICE}"
            )
    return bad


def _describe_program(config: Config, task: Task, program: Any) -> str:
    """What a step costs, and what the compiled program holds in the memory of each device."""
    height, width, channels = task.metadata.image_shape
    forward = sum(layer.multiply_adds for layer in layer_costs(task.model, height, channels)) if height == width else 0
    images = config.train.batch_size // task.mesh.size
    cost = f"a step is {3 * forward * images / 1e9:,.3g} billion multiply-adds on each of {task.mesh.size} devices"
    memory = program.memory_analysis()
    if memory is None:
        return cost
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return (
        f"{cost}, in {(held + memory.temp_size_in_bytes) / 2**20:,.1f} MiB of memory: {held / 2**20:,.1f} MiB of state "
        f"and data, {memory.temp_size_in_bytes / 2**20:,.1f} MiB to work in"
    )


def _describe(step: int, total: int, line: dict[str, float]) -> str:
    errors = ", ".join(f"{key.replace('_', ' ')} {line[key]:.2%}" for key in line if key.endswith("_error"))
    loss = f", loss {line['train_loss']:.4f}" if "train_loss" in line else ""
    return f"iteration {step}/{total}: {errors}{loss}, learning rate {line['learning_rate']:.3g}"
