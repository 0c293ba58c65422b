"""What a run tells people, with clocks that stand still."""

import io
import itertools
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from resnet_jax import configs, models
from resnet_jax.runs import describe, terminal
from resnet_jax.runs.run import Run
from small_run import parts, small_config


@pytest.mark.parametrize(("total", "every"), [(60, 20), (65, 20), (10, 20), (60, 1)])
def test_what_is_left_is_every_step_and_every_evaluation(total, every):
    for step in range(total + 1):
        expected = 0.0
        for later in range(step + 1, total + 1):
            expected += 0.5 + (7 if later % every == 0 or later == total else 0)
        assert describe.seconds_left(step, total, every, 0.5, 7) == pytest.approx(expected)


def test_a_run_is_shown_in_a_line():
    result = {"step": 1200, "test_error": 0.0167, "environment": {"python": "3.11"}}
    said = repr(Run(Path("runs/digits"), result))
    assert said == (
        "Run(workdir=PosixPath('runs/digits'), result={'step': 1200, 'test_error': 0.0167, 'environment': …})"
    )


IMAGES: Any = SimpleNamespace(split_sizes={"training": 960, "test": 480}, train_images=960, eval_split="test")


def told(seconds, pause=0.0, is_terminal=False):
    """What is printed of 12 lines of 5 steps, each of which takes so long, and what a bar is told."""
    now, file, notes = [0.0], io.StringIO(), []
    console = terminal.console(file, force_terminal=is_terminal, width=200)
    config = small_config({"train.log_every": 5})

    def update(completed=None, note=None, left=None):
        notes.append((completed, note, left))

    reporter = describe.Reporter(console, update, config, IMAGES, clock=lambda: now[0])
    for step in range(5, 61, 5):
        now[0] += 5 * seconds
        reporter.trained(5, 5 * seconds)
        evaluated = step % 20 == 0
        if evaluated:
            with reporter.doing("evaluating", step):
                now[0] += 60
        line = {"train_error": 0.5, "train_loss": 1.5, "learning_rate": 0.1, "images_per_second": 16 / seconds}
        reporter.tell(step, line | ({"test_error": 0.25} if evaluated else {}), evaluated)
        with reporter.doing("saving", step):
            now[0] += pause
    return file.getvalue().splitlines(), notes


def test_a_log_has_the_first_the_last_and_the_evaluated_lines_and_others_at_a_distance():
    lines, _ = told(0.1)
    steps = [int(line.split("/")[0].removeprefix("iteration ")) for line in lines]
    assert steps == [5, 20, 40, 60]  # 0.5 s for a line
    # (55 x 0.1 s, and 3 evaluations of 480 images: a third of 480 / 16 steps each)
    assert lines[0] == (
        "iteration 5/60: train error 50.00%, loss 1.5000, learning rate 0.1, 160 images/s, 0:00:08 left"
    )
    assert lines[1].startswith("iteration 20/60: train error 50.00%, test error 25.00%, loss 1.5000, ")
    assert lines[-1].endswith("160 images/s")
    assert len(told(1)[0]) == 12  # 5 s
    steps = [int(line.split("/")[0].removeprefix("iteration ")) for line in told(0.4, pause=0.5)[0]]
    assert steps == [5, 15, 20, 30, 40, 50, 60]


def test_a_terminal_has_the_evaluated_lines_and_a_bar_that_says_what_it_does():
    lines, notes = told(1, is_terminal=True)
    assert [line.split("/")[0] for line in lines] == ["iteration 20", "iteration 40", "iteration 60"]
    assert [step for step, note, _ in notes if note == "evaluating"] == [20, 40, 60]
    assert notes[-2:] == [(60, "saving", None), (None, "loss 1.500, 16 images/s", None)]
    assert {note for _, note, left in notes if left is not None} == {"loss 1.500, 16 images/s"}


def test_the_estimate_does_not_jump_at_evaluations():
    """Once one was measured, it is what is left of a time that was known."""
    _, notes = told(1)
    left = {step: left for step, _, left in notes if left is not None}
    assert left[60] == 0
    end, spent = 60 + 3 * 60, 0
    for step in range(5, 61, 5):
        spent += 5 + (60 if step % 20 == 0 else 0)
        if step >= 20:
            assert left[step] == pytest.approx(end - spent)


def test_a_run_says_what_it_is(tmp_path):
    config = small_config({"dataset.validation_images": 100, "train.keep_best": True})
    images, *_ = parts(config)
    new = describe.run(config, images, {"kernel": SimpleNamespace(size=1_234)}, tmp_path, None)
    assert new[0].startswith("device    no GPU found: training on ")
    assert new[1:] == [
        "network   cifar_resnet8, 1,234 parameters",
        "data      digits: 1,337 training, 100 validation, 360 test images, 10 classes",
        "training  0.718 epochs, 60 iterations of 16 images",
        f"workdir   {tmp_path}, new",
        "keeps     the checkpoint with the least validation error too",
    ]
    again = describe.run(config, images, {}, tmp_path, 20)
    assert again[4] == f"workdir   {tmp_path}, going on from the checkpoint of iteration 20"
    own: Any = SimpleNamespace(metadata=images.metadata, train_images=7, eval_split="test", test_split="test")
    assert "data      digits: 7 training images, 10 classes" in describe.run(config, own, {}, tmp_path, None)


def test_every_line_is_written_at_once(tmp_path):
    with (tmp_path / "log").open("w") as file:
        console = terminal.console(file)
        for count in itertools.count(1):
            console.print("a line")
            assert (tmp_path / "log").read_text() == "a line\n" * count
            if count == 2:
                break


def test_the_bar_of_a_run_fits_80_columns():
    def shown(**told):
        file = io.StringIO()
        console = terminal.console(file, force_terminal=True, width=80)
        with terminal.bar(console, "cifar_resnet110", 64_000) as update:
            update(**told)
        return " ".join(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue()).split())

    line = shown(completed=32_000, note="loss 1.234, 1,234 images/s", left=3_661.3)
    assert line.endswith("32000/64000 loss 1.234, 1,234 images/s 1:01:01 left")
    assert shown(note="evaluating").endswith(" 0/64000 evaluating -:--:-- left")


def test_frozen_parts_cost_no_backward_pass():
    compiled = SimpleNamespace(memory_analysis=lambda: None)
    config = configs.load("cifar10", {"train.batch_size": 128, "mesh.data": 1})

    def billions(freeze):
        model = models.create("cifar_resnet20", freeze=freeze)
        return float(describe.program(config, model, (32, 32, 3), compiled).split()[3])

    # Of 19 convolutions 16 are alike; the first one has 3 channels, and the first ones of two stages half of theirs.
    alike = 32 * 32 * 9 * 16 * 16
    forward = (16 * alike + alike * 3 / 16 + 2 * alike / 2) / 1e9
    assert billions(None) == pytest.approx(3 * 128 * forward, rel=5e-3)
    assert billions("backbone") == pytest.approx(128 * forward, rel=5e-3)
    assert billions("backbone") < billions("stage2") < billions("stage1") < billions("stem") < billions(None)
