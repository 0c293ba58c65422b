"""The loop: side effects only. What it drives is pure, so a run that was stopped anywhere goes on where it was."""

import math
import time
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from resnet_jax import build, sharding, workdir
from resnet_jax.analysis.plots import plot_curves
from resnet_jax.checkpoint import Card, Checkpoints
from resnet_jax.configs import Config
from resnet_jax.data import sources
from resnet_jax.data.augment import Preprocessing, per_pixel_mean
from resnet_jax.data.pipeline import put_split
from resnet_jax.errors import InputError
from resnet_jax.training.state import abstract_checkpoint, create_state
from resnet_jax.training.step import compile_evaluate, compile_train_steps


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
    """
    console = Console(soft_wrap=True, highlight=False)
    build.check(config)
    mesh = sharding.make_mesh(config.train.batch_size, config.mesh.data)
    sharding.check_divides(mesh, config.eval.batch_size, "config.eval.batch_size")
    dataset = sources.load(config.dataset.name, config.dataset.data_dir, config.dataset.validation_images)
    model = build.model(config, len(dataset.class_names))
    workdir.claim(directory, config)
    result = workdir.read_result(directory)
    if result is not None:
        console.print(f"{directory} is complete after {result['step']} iterations; nothing to train")
        _print_result(console, directory, result)
        return result

    everywhere = sharding.replicated(mesh)
    optimizer = build.optimizer(config, len(dataset.train))
    card = Card(dataset.class_names, dataset.train.images.shape[1:])
    train_split, test_split = put_split(dataset.train, everywhere), put_split(dataset.test, everywhere)
    # The test images are looked at once, after the last iteration, where there are images to validate on.
    watched = ("validation", put_split(dataset.validation, everywhere)) if dataset.validation else ("test", test_split)
    preprocessing = Preprocessing(jax.device_put(per_pixel_mean(dataset.train.images), everywhere))
    train_steps = compile_train_steps(
        model,
        optimizer,
        mesh,
        seed=config.seed,
        batch_size=config.train.batch_size,
        augmentation=build.augmentation(config),
    )
    evaluate = compile_evaluate(model, mesh, batch_size=config.eval.batch_size)

    def scores(state, name, split):
        totals = jax.device_get(evaluate(state, split, preprocessing))
        return {f"{name}_loss": float(totals.loss / totals.count), f"{name}_error": float(totals.errors / totals.count)}

    with Checkpoints(directory) as checkpoints:
        restored = checkpoints.restore(
            lambda card: abstract_checkpoint(model, optimizer, card.image_shape, everywhere), console.print
        )
        if restored is None:
            state = create_state(model, optimizer, config.seed, card.image_shape, everywhere)
        else:
            state = restored.state
            console.print(f"going on from the checkpoint of iteration {int(state.step)}")
        total, step = config.train.iterations, int(state.step)
        with workdir.MetricsLog(directory, step) as log, _progress(console) as progress:
            bar = progress.add_task(f"{config.model.family}{config.model.depth}", total=total, completed=step, speed="")
            while step < total:
                started, before = time.perf_counter(), step
                steps = min(config.train.log_every - step % config.train.log_every, total - step)
                state, metrics, rates = train_steps(state, train_split, preprocessing, steps)
                metrics, rates = jax.device_get((metrics, rates))
                _stop_if_not_finite(metrics.loss, step, checkpoints)
                step += steps
                line = {
                    "train_loss": float(metrics.loss.sum() / metrics.count.sum()),
                    "train_error": float(metrics.errors.sum() / metrics.count.sum()),
                    "learning_rate": float(rates[-1]),
                    "images_per_second": float(metrics.count.sum() / (time.perf_counter() - started)),
                }
                if step == total or _passes(config.train.eval_every, before, step):
                    line |= scores(state, *watched)
                    console.print(_describe(step, total, line))
                log.write(step, line)
                if step == total or _passes(config.train.checkpoint_every, before, step):
                    checkpoints.save(state, preprocessing, card, step)
                progress.update(bar, completed=step, speed=f"{line['images_per_second']:,.0f} images/s")
        last = workdir.read_metrics(directory)[-1]
        result = {
            "step": step,
            **{key: last[key] for key in ("train_loss", "train_error")},
            **scores(state, "test", test_split),
            "test_images": len(test_split),
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        }
        checkpoints.wait()
    plot_curves({directory.name: workdir.read_metrics(directory)}, directory / "curves.png")
    workdir.write_result(directory, result)
    _print_result(console, directory, result)
    return result


def _passes(every: int, before: int, after: int) -> bool:
    return before // every != after // every


def _stop_if_not_finite(losses: Any, step: int, checkpoints: Checkpoints) -> None:
    """Raises before the state that holds no number is saved."""
    bad = next((i for i, loss in enumerate(losses) if not math.isfinite(loss)), None)
    if bad is not None:
        last = checkpoints.latest_step()
        kept = f"the checkpoint of iteration {last} is whole" if last is not None else "there is no checkpoint yet"
        raise InputError(
            f"the loss is {losses[bad]} at iteration {step + bad + 1}; {kept}. "
            "A lower config.optimizer.learning_rate or a warm-up may help"
        )


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}"))
    return Progress(*columns, TimeRemainingColumn(), TextColumn("left"), console=console, disable=console.is_jupyter)


def _describe(step: int, total: int, line: dict[str, float]) -> str:
    errors = ", ".join(f"{key.replace('_', ' ')} {line[key]:.2%}" for key in line if key.endswith("_error"))
    rate, speed = line["learning_rate"], line["images_per_second"]
    return (
        f"iteration {step}/{total}: {errors}, train loss {line['train_loss']:.4f}, lr {rate:g}, {speed:,.0f} images/s"
    )


def _print_result(console: Console, directory: Path, result: dict[str, Any]) -> None:
    console.print(
        f"test error {result['test_error']:.2%} on {result['test_images']} images after {result['step']} iterations\n"
        f"checkpoint {directory / 'checkpoints' / str(result['step'])}\n"
        f"curves     {directory / 'curves.png'}"
    )
