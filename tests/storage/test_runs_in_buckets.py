"""Runs whose workdir lies in a bucket come out as those on a disk, whenever they are killed."""

import contextlib
import json
import re
import signal
import subprocess
import sys
import time
import urllib.request

import fsspec
import numpy as np
import pytest
from PIL import Image

import resnet_jax as rj
from resnet_jax.cli.main import main
from resnet_jax.errors import InputError
from resnet_jax.files import check_bucket, expanded
from small_run import FIELDS, assert_same_run, lines_of, saved_steps

pytestmark = pytest.mark.slow


def start(workdir, **fields):
    overrides = [f"--config.{field}={value}" for field, value in {**FIELDS, **fields}.items()]
    command = [sys.executable, "-m", "resnet_jax.cli.main", "train", "--config=digits", *overrides]
    return subprocess.Popen(
        [*command, f"--workdir={workdir}"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process, status=0):
    output, _ = process.communicate(timeout=300)
    assert process.returncode == status, output
    return output


def kill_when(process, happened):
    deadline = time.monotonic() + 300
    while not happened():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.2)
    process.kill()
    process.communicate()


@pytest.fixture(scope="module")
def on_a_disk(tmp_path_factory):
    directory = tmp_path_factory.mktemp("disk") / "run"
    finish(start(directory))
    return directory


def names(place):
    return sorted(fsspec.filesystem(place[:2], use_listings_cache=False).find(place))


def is_saving(place, step):
    found = [name for name in names(place) if f"/checkpoints/{step}/" in name]
    return bool(found) and not any(name.endswith(f"/{step}/commit_success.txt") for name in found)


def test_a_run_that_is_killed_again_and_again_ends_as_on_a_disk(server, place, on_a_disk, tmp_path, capsys):
    finish_first = lambda: any(name.endswith("/config.json") for name in names(place))  # noqa: E731
    kill_when(start(place), finish_first)
    server.delay = 0.1
    kill_when(start(place), lambda: is_saving(place, 20))
    assert is_saving(place, 20)
    # That of 40, which comes while 20 is on its way, is left out.
    kill_when(start(place), lambda: is_saving(place, 60))
    server.delay = 0.0
    output = finish(start(place))
    assert "going on from the checkpoint of iteration 20" in output
    assert "Traceback" not in output
    fsspec.filesystem(place[:2]).get(place, str(tmp_path / "copy"), recursive=True)
    assert_same_run(tmp_path / "copy", on_a_disk)
    assert (tmp_path / "copy" / "curves.png").read_bytes()[:4] == b"\x89PNG"
    assert len(list((tmp_path / "copy" / "events").iterdir())) >= 2

    # And all that reads it.
    assert "is complete after 60 iterations" in finish(start(place))
    assert main(["evaluate", f"--workdir={place}", "--format=json", f"--output={place}/scores"]) == 0
    error = json.loads(capsys.readouterr().out)["error"]
    assert error == pytest.approx(json.loads((on_a_disk / "result.json").read_text())["test_error"], rel=1e-6)
    assert expanded(place, remote=True).joinpath("scores", "confusion.png").exists()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "zero.png")
    assert main(["predict", f"--workdir={place}", str(tmp_path / "zero.png")]) == 0
    assert main(["convert", place, str(tmp_path / "weights.safetensors")]) == 0
    assert main(["runs", place]) == 0
    assert re.search(r"complete +60", capsys.readouterr().out)
    ours, theirs = rj.load(place), rj.load(on_a_disk)
    np.testing.assert_array_equal(*(each.variables["params"]["fc"]["kernel"] for each in (ours, theirs)))


@pytest.mark.parametrize("server", ["gs"], indirect=True)
def test_a_loop_that_is_faster_than_its_saves_does_not_wait_for_them(server, place):
    server.delay = 0.05
    kept = {"train.keep_last": 30, "train.keep_every": 100}
    finish(start(place, **{"train.iterations": 200, "train.checkpoint_every": 10, "train.eval_every": 200, **kept}))
    server.delay = 0.0
    saved = saved_steps(expanded(place, remote=True))
    assert {100, 200} <= set(saved)
    assert len(saved) < 10


def test_a_signal_loses_nothing_and_another_writer_is_refused(server, place):
    long = {"train.iterations": 20000, "train.checkpoint_every": 20000, "train.eval_every": 20000}
    process = start(place, **long)
    for line in process.stdout:
        if line.startswith("iteration"):
            break
    refused = finish(start(place, **long), 2)
    assert "another process is training in" in refused.splitlines()[-1]
    process.send_signal(signal.SIGTERM)
    output = finish(process, 75)
    stopped = int(re.search(r"the state of iteration (\d+) is saved", output)[1])
    lines = expanded(place, remote=True).joinpath("metrics.jsonl").read_bytes().decode().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(10, stopped + 1, 10))
    assert any(name.endswith(f"/checkpoints/{stopped}/commit_success.txt") for name in names(place))


def test_a_server_that_fails_for_seconds_and_one_that_refuses(server, place, on_a_disk, tmp_path):
    process = start(place)
    for line in process.stdout:
        if line.startswith("compiling"):
            break
    server.fail_for(6)
    output = finish(process)
    assert "Traceback" not in output
    fsspec.filesystem(place[:2]).get(place, str(tmp_path / "copy"), recursive=True)
    assert lines_of(tmp_path / "copy") == lines_of(on_a_disk)
    # Whoever may read and not write.
    server.fault = lambda method, path: 403 if method in ("PUT", "POST", "DELETE") else None
    output = finish(start(f"{place}-2"), 2)
    assert "must not be used with these credentials" in output.splitlines()[-1]
    assert "Traceback" not in output


def test_a_damaged_object_is_passed_over(server, place):
    finish(start(place, **{"train.keep_every": 20}))  # none is left out
    path = next(each for each in names(place) if "/checkpoints/60/variables" in each and "/d/" in each)
    fs = fsspec.filesystem(place[:2], use_listings_cache=False)
    content = bytearray(fs.cat(path))
    content[len(content) // 2] ^= 1
    fs.pipe(path, bytes(content))
    with contextlib.suppress(FileNotFoundError):
        fs.rm(f"{place}/result.json")
    output = finish(start(place, **{"train.keep_every": 20}))
    assert "checkpoint 60 is damaged and passed over" in output
    assert "going on from the checkpoint of iteration 40" in output


def test_a_bucket_that_vanishes_is_one_line_and_is_not_made_again(server):
    root = f"http://127.0.0.1:{server.target}"
    named = f"{root}/storage/v1/b/vanishing" if server.scheme == "gs" else f"{root}/vanishing"
    how = ("POST", b'{"name": "vanishing"}') if server.scheme == "gs" else ("PUT",)
    urllib.request.urlopen(
        urllib.request.Request(f"{root}/storage/v1/b" if server.scheme == "gs" else named, *how[1:], method=how[0]),
        timeout=10,
    ).close()
    # It goes on for minutes, and saves after seconds.
    process = start(f"{server.scheme}://vanishing/run", **{"train.iterations": 20000, "train.checkpoint_every": 200})
    for line in process.stdout:
        if line.startswith("iteration"):
            break
    client = fsspec.filesystem(server.scheme, use_listings_cache=False)
    for _ in range(100):
        with contextlib.suppress(Exception):  # what the run writes meanwhile keeps the bucket from being removed
            client.rm([name for name in client.find("vanishing") if not name.endswith("/")])
        with contextlib.suppress(OSError):
            urllib.request.urlopen(urllib.request.Request(named, method="DELETE"), timeout=10).close()
            break
    output = finish(process, 2)
    assert f"there is no bucket {server.scheme}://vanishing" in output.splitlines()[-1]
    assert "Traceback" not in output
    with pytest.raises(InputError, match="there is no bucket"):
        check_bucket(expanded(f"{server.scheme}://vanishing/run", remote=True))
