"""The loop: side effects only. What it drives is pure, so a run that was stopped anywhere goes on where it was."""

import contextlib
import math
import time
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from resnet_jax import build, workdir
from resnet_jax.analysis.plots import plot_curves
from resnet_jax.checkpoint import Checkpoints, saved_preprocessing
from resnet_jax.configs import Config
from resnet_jax.environment import describe_environment
from resnet_jax.errors import InputError
from resnet_jax.training.interrupt import Interruptible
from resnet_jax.training.state import TrainState, abstract_state, create_state
from resnet_jax.training.step import Metrics
from resnet_jax.training.task import Task, make_task


def train(config: Config, directory: Path) -> dict[str, Any]:
    """Trains what the config describes, or goes on with what the directory holds of it.

    Args:
      config: see `configs.base`.
      directory: becomes the run's workdir: config.json, metrics.jsonl, TensorBoard events, checkpoints/, curves.png,
        and at the end result.json.

    Returns:
      The result: errors after the final iteration, never the best one, and what they were measured on.

    Raises:
      InputError: the config or the directory cannot be used, the disk is full, or the loss became infinite or NaN.
      KeyboardInterrupt: after Ctrl-C, when the running dispatch has ended and its state is saved.
    """
    console = Console(soft_wrap=True, highlight=False)
    build.check(config)
    result = workdir.read_result(directory)
    if result is not None:
        workdir.claim(directory, config)
        console.print(f"{directory} is complete after {result['step']} iterations; nothing to train")
    else:
        if (directory / "config.json").exists():
            workdir.claim(directory, config)  # before anything is read
        task = make_task(config, console.print, saved_preprocessing(directory))
        workdir.claim(directory, config)
        with contextlib.closing(task), Checkpoints(directory, write=True) as checkpoints:
            state = _first_state(config, task, checkpoints, console)
            result = _train(config, task, state, directory, checkpoints, console)
        plot_curves({directory.name: workdir.read_metrics(directory)}, directory / "curves.png")
        workdir.write_result(directory, result)
    split = result.get("split", "test")
    console.print(
        f"{split} error {result[f'{split}_error']:.2%} on {result[f'{split}_images']} images "
        f"after {result['step']} iterations\n"
        f"checkpoint {directory / 'checkpoints' / str(result['step'])}\n"
        f"curves     {directory / 'curves.png'}"
    )
    return result


def _first_state(config: Config, task: Task, checkpoints: Checkpoints, console: Console) -> TrainState:
    """The state of the newest whole checkpoint, or a new one."""
    shape = task.card.image_shape
    restored = checkpoints.restore(abstract_state(task.model, task.optimizer, shape, task.everywhere), console.print)
    if restored is None:
        return create_state(task.model, task.optimizer, config.seed, shape, task.everywhere)
    if restored.card != task.card:
        raise InputError(
            f"the data of {config.dataset.name!r} are not those that this run began with: "
            "use another --workdir, or the same images for config.dataset.data_dir"
        )
    console.print(f"going on from the checkpoint of iteration {int(restored.state.step)}")
    return restored.state


def _train(
    config: Config, task: Task, state: TrainState, directory: Path, checkpoints: Checkpoints, console: Console
) -> dict[str, Any]:
    fields, total, step, watched = config.train, config.train.iterations, int(state.step), None
    with workdir.MetricsLog(directory, step) as log, _progress(console) as progress, Interruptible() as interruption:
        bar = progress.add_task(f"{config.model.family}{config.model.depth}", total=total, completed=step, speed="")
        while step < total:
            started, before = time.perf_counter(), step
            steps = min(fields.log_every - step % fields.log_every, total - step)
            state, metrics, rates = task.advance(state, steps)
            metrics, rates = jax.device_get((metrics, rates))
            _stop_if_not_finite(metrics.loss, step, checkpoints)
            step += steps
            line = _means(metrics, "train")
            line |= {"learning_rate": float(rates[-1]), "seconds": time.perf_counter() - started}
            if step == total or _passes(fields.eval_every, before, step):
                watched = jax.device_get(task.score(state, task.watched))
                # The loss of the last step was that of the state before it.
                _stop_if_not_finite([watched.loss], step, checkpoints)
                line |= _means(watched, task.watched)
                console.print(_describe(step, total, line))
            log.write(step, line)
            if step == total or interruption.requested or _passes(fields.checkpoint_every, before, step):
                checkpoints.save(state, task.preprocessing, task.card, step)
            if interruption.requested:
                raise KeyboardInterrupt
            speed = fields.batch_size * steps / line["seconds"]
            progress.update(bar, completed=step, speed=f"{speed:,.0f} images/s")
    lines = workdir.read_metrics(directory)
    # A run that ended between its last iteration and its result has not scored anything yet.
    scored = watched if watched and task.final == task.watched else jax.device_get(task.score(state, task.final))
    result = {
        "step": step,
        **{key: line[key] for line in lines[-1:] for key in ("train_loss", "train_error")},
        "split": task.final,
        **_means(scored, task.final),
        f"{task.final}_images": int(scored.count),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "training_seconds": sum(line["seconds"] for line in lines),
        "environment": describe_environment(),
    }
    checkpoints.wait()
    return result


def _means(metrics: Metrics, name: str) -> dict[str, float]:
    count = metrics.count.sum()
    return {f"{name}_loss": float(metrics.loss.sum() / count), f"{name}_error": float(metrics.errors.sum() / count)}


def _passes(every: int, before: int, after: int) -> bool:
    return before // every != after // every


def _stop_if_not_finite(losses: Any, step: int, checkpoints: Checkpoints) -> None:
    """Raises where a step found a loss that is no number; the state is not saved."""
    bad = next((i for i, loss in enumerate(losses) if not math.isfinite(loss)), None)
    if bad is not None:
        last = checkpoints.latest_step()
        kept = f"the checkpoint of iteration {last} is whole" if last is not None else "there is no checkpoint yet"
        raise InputError(
            f"the loss is {losses[bad]} at iteration {step + bad + 1}; {kept}. "
            "A lower config.optimizer.learning_rate or a warm-up may help, in another --workdir"
        )


def _describe(step: int, total: int, line: dict[str, float]) -> str:
    errors = ", ".join(f"{key.replace('_', ' ')} {line[key]:.2%}" for key in line if key.endswith("_error"))
    return (
        f"iteration {step}/{total}: {errors}, loss {line['train_loss']:.4f}, learning rate {line['learning_rate']:.3g}"
    )


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}"))
    return Progress(*columns, TimeRemainingColumn(), TextColumn("left"), console=console, disable=console.is_jupyter)
