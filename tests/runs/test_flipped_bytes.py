"""One flipped byte in any file of a checkpoint or workdir is said, or changes nothing; older formats are read."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from orbax.checkpoint import v1 as ocp

from resnet_jax.configs import base
from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.distributed.mesh import make_mesh, replicated
from resnet_jax.errors import InputError
from resnet_jax.runs import build, workdir
from resnet_jax.runs.checkpoints import Checkpoints
from resnet_jax.runs.fingerprints import fingerprint
from resnet_jax.runs.metadata import VERSION, CheckpointMetadata, seal, unseal
from resnet_jax.runs.metrics_log import MetricsLog, read_metrics
from resnet_jax.training.state import TrainState

# Reading a damaged checkpoint leaves Orbax's other reads without anybody to wait for them.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore:coroutine .* was never awaited:RuntimeWarning"
)

RANDOM = np.random.default_rng(0)
METADATA = CheckpointMetadata(("Katze", "Hund", "Ente"), (24, 24, 3), 123_456)


def numbers(*shape):
    """Random ones, so that compression leaves each byte its meaning."""
    return jnp.asarray(RANDOM.normal(size=shape), jnp.float32)


def make_state(step):
    config = base.get_config()
    config.optimizer.schedule = "plateau"
    optimizer = build.optimizer(config, train_images=50_000)
    params = {"conv": {"kernel": numbers(3, 3, 8, 24)}, "bn": {"scale": numbers(24)}}
    opt_state: Any = optimizer.init(params)
    opt_state = (*opt_state[:3], optax.TraceState(jax.tree.map(jnp.sin, params)), *opt_state[4:])
    stats = {"bn": {"mean": numbers(24), "var": numbers(24)}}
    return TrainState(jnp.asarray(step, jnp.int32), params, stats, opt_state, jnp.asarray(step % 7, jnp.int32))


PREPROCESSING = Preprocessing(numbers(24, 24, 3), jnp.ones((1, 1, 3)), "bgr", 30, "bilinear")


@pytest.fixture(scope="module")
def states():
    return {step: jax.device_put(make_state(step), replicated(make_mesh(1))) for step in (10, 20)}


def save(states, directory):
    with Checkpoints(directory, write=True) as checkpoints:
        for step, state in states.items():
            checkpoints.save(state, PREPROCESSING, METADATA, step)
    return directory


@pytest.fixture(scope="module")
def sound(states, tmp_path_factory):
    """A workdir with two checkpoints, which tests must not change."""
    return save(states, tmp_path_factory.mktemp("sound"))


@pytest.fixture
def directory(sound, tmp_path):
    return shutil.copytree(sound, tmp_path / "run")


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def view(found):
    return bits(found), found.channel_order, found.resize_size, found.interpolation


def read_all(directory, abstract):
    """What each route restores, as comparable values, and what each of them says."""
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), abstract)
    wanted, said = {"state": shapes, "network": shapes.variables}, {"state": [], "network": []}
    with Checkpoints(directory, write=False) as checkpoints:
        found = {route: checkpoints.restore(lambda _, route=route: wanted[route], said[route].append) for route in said}
    assert all(found.values())
    return {
        route: (each.step, bits(each.state), view(each.preprocessing), each.metadata) for route, each in found.items()
    }, said


def wanted(states, step):
    state = states[step]
    return {
        "state": (step, bits(state), view(PREPROCESSING), METADATA),
        "network": (step, bits(state.eval_variables), view(PREPROCESSING), METADATA),
    }


def flip(path, place, mask=1):
    content = bytearray(path.read_bytes())
    content[place] ^= mask
    path.write_bytes(content)


def test_what_is_sound_is_restored_to_the_bit(sound, states):
    found, said = read_all(sound, states[10])
    assert found == wanted(states, 20)
    assert said == {"state": [], "network": []}


# Who says that a part is damaged: whoever uses it, and training all of them.
PARTS = {
    "variables": {"state", "network"},
    "training": {"state"},
    "preprocessing": {"state", "network"},
    "card": {"state", "network"},
}


def flip_middle(directory, part):
    """Of the largest file of a part of the newest checkpoint."""
    files = [path for path in (directory / "checkpoints" / "20" / part / "d").iterdir()]
    if part == "card":
        files = [directory / "checkpoints" / "20" / "card" / "_strings.json"]
    largest = max(files, key=lambda path: path.stat().st_size)
    flip(largest, largest.stat().st_size // 2)


def assert_noticed(directory, states, routes):
    found, said = read_all(directory, states[10])
    for route, lines in said.items():
        assert found[route] == wanted(states, 10 if route in routes else 20)[route]
        assert [line.split(": ")[0] for line in lines] == (
            ["checkpoint 20 is damaged and passed over"] if route in routes else []
        )


@pytest.mark.parametrize("part", PARTS)
def test_a_flipped_byte_in_the_middle_of_each_part(directory, states, part):
    flip_middle(directory, part)
    assert_noticed(directory, states, PARTS[part])


@pytest.mark.parametrize(
    ("part", "routes"), [("ema", {"state", "network"}), pytest.param("variables", {"state"}, marks=pytest.mark.slow)]
)
def test_a_flipped_byte_where_variables_are_averaged(states, tmp_path, part, routes):
    averaged = {
        step: jax.device_put(state.replace(ema=jax.tree.map(jnp.cos, state.variables)), state.step.sharding)
        for step, state in states.items()
    }
    save(averaged, tmp_path)
    assert_noticed(tmp_path, averaged, {})
    flip_middle(tmp_path, part)
    assert_noticed(tmp_path, averaged, routes)


@pytest.mark.slow
@pytest.mark.parametrize("part", [*PARTS, "."])
def test_bytes_of_every_file_of_a_checkpoint(directory, states, part):
    """The first, the last or another one of each file; "." is the files beside the parts."""
    draw = random.Random(part)
    root = directory / "checkpoints" / "20"
    files = sorted(path for path in ((root / part).rglob("*") if part != "." else root.iterdir()) if path.is_file())
    assert files
    noticed = 0
    for path in files:
        content = path.read_bytes()
        size = len(content)
        place = draw.choice([0, draw.randrange(size), size - 1])
        flip(path, place, draw.choice([1, 2, 4, 8, 16, 32, 64, 128, 255]))
        found, said = read_all(directory, states[10])
        for route, lines in said.items():
            assert found[route] == wanted(states, 10 if lines else 20)[route], (path, place, route)
            noticed += bool(lines)
        path.write_bytes(content)
    assert noticed > 0 or part == "."


def save_version_0(directory, states):
    """As the version before did: the card's fields lie open, and nothing says how many steps were skipped."""
    with ocp.training.Checkpointer(str(directory / "checkpoints")) as checkpointer:
        for step, state in states.items():
            training = {"step": state.step, "opt_state": state.opt_state}
            metadata = {
                "class_names": METADATA.class_names,
                "image_shape": METADATA.image_shape,
                "data_crc": METADATA.data_crc,
                "fingerprints": [int(fingerprint(part)) for part in (state.variables, training)],
                "mean_shape": [24, 24, 3],
                "std_shape": [1, 1, 3],
                "channel_order": "bgr",
                "shorter_side": 30,
                "interpolation": "bilinear",
            }
            parts = {
                "variables": state.variables,
                "training": training,
                "preprocessing": PREPROCESSING,
                "card": metadata,
            }
            checkpointer.save_checkpointables(step, parts)


def test_a_checkpoint_of_the_version_before_is_restored(states, tmp_path):
    save_version_0(tmp_path, states)
    found, said = read_all(tmp_path, states[10])
    uncounted = {step: state.replace(skipped=jnp.zeros((), jnp.int32)) for step, state in states.items()}
    assert found == wanted(uncounted, 20)
    assert said == {"state": [], "network": []}
    flip_middle(tmp_path, "training")
    found, said = read_all(tmp_path, states[10])
    assert found["state"] == wanted(uncounted, 10)["state"]
    assert len(said["state"]) == 1


def test_a_checkpoint_of_a_newer_version_is_not_called_damaged(sound, states, tmp_path, monkeypatch):
    monkeypatch.setattr("resnet_jax.runs.metadata.VERSION", VERSION + 1)
    with Checkpoints(tmp_path, write=True) as checkpoints:
        checkpoints.save(states[10], PREPROCESSING, METADATA, 10)
    monkeypatch.undo()
    said = []
    with (
        Checkpoints(tmp_path, write=False) as checkpoints,
        pytest.raises(InputError, match=f"of version {VERSION + 1}, made by a newer resnet_jax, .* update it"),
    ):
        checkpoints.restore(lambda _: states[10], said.append)
    assert said == []


def test_every_letter_of_a_card_is_under_its_checksum():
    saved = seal(METADATA, PREPROCESSING, {"variables": 1, "training": 2, "preprocessing": 3})
    assert unseal(saved)[0] == METADATA
    for place in range(len(saved["text"])):
        letter = chr(ord(saved["text"][place]) ^ 1)
        with pytest.raises(ValueError, match="its metadata are not those that were saved"):
            unseal(saved | {"text": saved["text"][:place] + letter + saved["text"][place + 1 :]})
    for other in ({"text": saved["text"]}, {"text": saved["text"], "crb": saved["crc"]}, saved | {"more": 1}, {}):
        with pytest.raises(ValueError, match="its metadata are not those that were saved"):
            unseal(other)


RESULT = {
    "step": 20,
    "split": "test",
    "train_loss": 0.25,
    "test_error": 0.125,
    "test_images": 360,
    "training_seconds": 7.5,
    "environment": {"jax": "0.10", "devices": ["cpu"]},
}


def test_a_result_comes_back_or_is_called_damaged(tmp_path):
    workdir.write_result(tmp_path, RESULT)
    path = tmp_path / "result.json"
    text = path.read_bytes()
    assert workdir.read_result(tmp_path) == RESULT
    # Two runs that differ in nothing but their times have one checksum.
    slower = json.loads(text)["checksum"]
    workdir.write_result(tmp_path, RESULT | {"training_seconds": 9.0})
    assert json.loads(path.read_text())["checksum"] == slower
    noticed = 0
    for place in range(0, len(text), 3):
        path.write_bytes(text)
        flip(path, place, 4)
        try:
            found = workdir.read_result(tmp_path)
        except InputError:
            noticed += 1
        else:
            assert found
            for name in RESULT.keys() - {"training_seconds", "environment"}:
                assert found[name] == RESULT[name]
    assert noticed > 0.7 * len(text) / 3
    path.write_bytes(text.replace(b"0.125", b"0.025"))
    with pytest.raises(InputError, match=r"result\.json is damaged: remove it, and the same command writes it again"):
        workdir.read_result(tmp_path)
    # One of the version before has no checksum.
    path.write_text(json.dumps(RESULT))
    assert workdir.read_result(tmp_path) == RESULT


LINES = [{"step": step, "train_loss": 0.5, "learning_rate": 0.1, "seconds": 1.5} for step in (10, 20, 30)]


def write_lines(directory: Path):
    path = directory / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return path


@pytest.mark.parametrize(
    "damage", [b"\xff", b"{}", b"[]", b"3", b'{"step": "20"}', b'{"step": 20, "train_loss": "0.5"}', b'{"step": 20']
)
def test_damaged_lines_are_said_and_left_out(tmp_path, damage, capsys):
    path = write_lines(tmp_path)
    first, _, third = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([first, damage, third, b""]))
    said = []
    assert read_metrics(tmp_path, said.append) == [LINES[0], LINES[2]]
    assert said == [f"{path}: line 2 is damaged and left out"]
    # A run that goes on says it once, and writes the file without them.
    with MetricsLog(tmp_path, 30) as log:
        log.write(40, {"train_loss": 0.25})
    assert capsys.readouterr().err == said[0] + "\n"
    assert [line["step"] for line in read_metrics(tmp_path)] == [10, 30, 40]
    assert capsys.readouterr().err == ""


def test_a_last_line_that_a_kill_cut_short_is_nothing_to_say(tmp_path):
    path = write_lines(tmp_path)
    path.write_bytes(path.read_bytes()[:-9])
    said = []
    assert read_metrics(tmp_path, said.append) == LINES[:2]
    assert said == []


def test_no_byte_of_the_metrics_ends_in_a_traceback(tmp_path):
    path = write_lines(tmp_path)
    text = path.read_bytes()
    for place in range(0, len(text), 5):
        for mask in (1, 128):
            path.write_bytes(text)
            flip(path, place, mask)
            said = []
            lines = read_metrics(tmp_path, said.append)
            # Numbers and names in a line have no checksum.
            assert len(lines) == len(LINES) or said
