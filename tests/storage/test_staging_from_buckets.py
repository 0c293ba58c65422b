"""Copies of folders in buckets against what was put there, whenever they are killed."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from typing import Any, cast

import fsspec
import numpy as np
import pytest
from PIL import Image

import resnet_jax as rj
from resnet_jax.cli.main import main
from resnet_jax.errors import InputError, is_passing
from resnet_jax.files import expanded
from trees import tree

pytestmark = pytest.mark.slow

CLASSES = ("cat", "white dog #1 50%?")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """An image folder of 48 PNGs, with a file of three parts beside them."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for split, count in (("train", 20), ("val", 4)):
        for name in CLASSES:
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                Image.fromarray(rng.integers(0, 256, (12, 14, 3), np.uint8)).save(root / split / name / f"é{i}.png")
    (root / "large.bin").write_bytes(rng.bytes(20 * 2**20 + 7))
    (root / "empty").touch()
    return root


@pytest.fixture
def there(place, photos):
    """The same in a bucket, with the empty objects by which consoles mark folders."""
    fs = fsspec.filesystem(place[:2], use_listings_cache=False)
    for name in tree(photos):
        fs.put_file(str(photos / name), f"{place}/{name}")
    mark(place, "train/")
    return place


def mark(place, name):
    """Makes an empty object with a slash at its end, which the clients of fsspec would take away."""
    bucket, _, key = place.partition("://")[2].partition("/")
    client = fsspec.filesystem(place[:2])
    if place.startswith("s3"):
        client.call_s3("put_object", Bucket=bucket, Key=f"{key}/{name}", Body=b"")
    else:
        client.call(
            "POST", f"{client._location}/upload/storage/v1/b/{bucket}/o", uploadType="media", name=f"{key}/{name}"
        )


# In the background of a shell tests ignore Ctrl-C, and with them the processes that they start.
HEEDING = (
    "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "runpy.run_module('resnet_jax.cli.main', run_name='__main__', alter_sys=True)"
)


def start(place, to):
    command = [sys.executable, "-c", HEEDING, "prepare", "stage", place, f"--to={to}"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for_files(process, partial, count):
    """Waits until so many files are whole, and returns their names."""
    deadline = time.monotonic() + 300
    while True:
        # By their names alone: what is read may be renamed meanwhile.
        found = [os.path.relpath(os.path.join(path, name), partial) for path, _, ns in os.walk(partial) for name in ns]
        names = [name for name in found if not name.endswith((".partial", ".lock"))]
        if len(names) >= count:
            return names
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def watch(server):
    """The requests from now on."""
    seen = []
    server.fault = lambda method, path: seen.append((method, path))
    return seen


def asked_for(seen, name):
    quoted = (
        name.replace("/", "%2F") if any("/storage/v1/" in path or "/download/" in path for _, path in seen) else name
    )
    return sum(method == "GET" and path.partition("?")[0].endswith(quoted) for method, path in seen)


def test_a_copy_is_what_was_put_there(server, there, photos, tmp_path):
    seen = watch(server)
    assert rj.data.stage(there, tmp_path / "copy", log=print) == tmp_path / "copy"
    assert tree(tmp_path / "copy") == tree(photos)
    assert asked_for(seen, "/large.bin") == 3
    images = rj.data.image_folder(tmp_path / "copy", image_size=8, resize_size=8)
    assert (images.class_names, len(images.train), len(images.validation)) == (CLASSES, 40, 8)
    with (
        Image.open(photos / images.train[0].name) as image,
        Image.open(tmp_path / "copy" / images.train[0].name) as ours,
    ):
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(image))
    # The times are those of the originals, by which changed ones are told.
    changed = (tmp_path / "copy" / "large.bin").stat().st_mtime
    assert changed == pytest.approx(expanded(f"{there}/large.bin", remote=True).stat().st_mtime, abs=1)


def test_the_server_says_what_is_there(server, there, photos):
    found = {name: (size, md5) for name, size, _, md5 in cast(Any, expanded(there, remote=True)).contents()}
    for name, data in tree(photos).items():
        assert found[name] == (len(data), hashlib.md5(data).digest() if server.scheme == "gs" else None)


def test_a_killed_copy_goes_on_and_copies_nothing_again(server, there, photos, tmp_path):
    to, partial = tmp_path / "copy", tmp_path / ".copy.partial"
    server.delay = 0.3
    process = start(there, to)
    whole = wait_for_files(process, partial, 10)
    process.kill()
    process.communicate()
    assert not to.exists()
    assert len(whole) < 50
    server.delay = 0.0
    whole = [name for name in tree(partial) if not name.endswith((".partial", ".lock"))]
    before = {name: (partial / name).stat().st_ino for name in whole}
    process = start(there, to)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert f"{len(whole)} of 50 files are copied already" in output
    assert tree(to) == tree(photos)
    assert {name: (to / name).stat().st_ino for name in whole} == before
    assert os.listdir(tmp_path) == ["copy"]


def test_an_interrupted_copy_ends_at_once_and_goes_on(server, there, photos, tmp_path):
    to, partial = tmp_path / "copy", tmp_path / ".copy.partial"
    server.delay = 0.3
    process = start(there, to)
    wait_for_files(process, partial, 5)
    server.delay = 10.0
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 130, output
    assert output.splitlines()[-1] == "interrupted: run the same command again to go on"
    assert "Traceback" not in output
    assert not to.exists()
    server.delay = 0.0
    assert main(["prepare", "stage", there, f"--to={to}"]) == 0
    assert tree(to) == tree(photos)


def test_a_server_that_fails_for_seconds_is_waited_for(server, there, photos, tmp_path):
    server.delay = 0.3
    process = start(there, tmp_path / "copy")
    wait_for_files(process, tmp_path / ".copy.partial", 1)
    refused, end = [], time.monotonic() + 6

    def failing(method, path):
        if time.monotonic() < end:
            refused.append(path)
            return 503
        return None

    server.delay, server.fault = 0.0, failing
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert refused
    assert tree(tmp_path / "copy") == tree(photos)


def test_a_complete_copy_is_not_read_again_and_a_damaged_one_is_refused(server, there, photos, tmp_path, capsys):
    line = ["prepare", "stage", there, f"--to={tmp_path / 'copy'}"]
    assert main(line) == 0
    capsys.readouterr()
    seen = watch(server)
    assert main(line) == 0
    assert f"holds all 50 files of {there} already: nothing is copied" in capsys.readouterr().err
    damaged = tmp_path / "copy" / "val" / "cat" / "é1.png"
    os.truncate(damaged, 20)
    assert main(line) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "1 of another size (val/cat/é1.png)" in error
    assert asked_for(seen, ".png") == asked_for(seen, ".bin") == 0
    subprocess.run(error.partition("mend it by ")[2].partition(" and the same")[0], shell=True, check=True)
    assert main(line) == 0
    assert asked_for(seen, ".png") == 1
    assert tree(tmp_path / "copy") == tree(photos)


def test_an_object_that_changes_before_the_copy_goes_on_is_copied_again(server, there, photos, tmp_path):
    server.delay = 0.3
    process = start(there, tmp_path / "copy")
    name = next(name for name in wait_for_files(process, tmp_path / ".copy.partial", 5) if name.endswith(".png"))
    process.kill()
    process.communicate()
    server.delay = 0.0
    time.sleep(3)  # times are compared to two seconds
    other = bytes(len((photos / name).read_bytes()))
    fsspec.filesystem(there[:2]).pipe(f"{there}/{name}", other)
    rj.data.stage(there, tmp_path / "copy", log=print)
    assert tree(tmp_path / "copy") == tree(photos) | {name: other}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{scheme}://absent/photos", "there is no bucket {scheme}://absent: make it, or see whether its name is right"),
        ("{place}/absent", "holds no files: is its name right?"),
        ("{place}/large.bin", "large.bin is a file: give a folder of data"),
    ],
)
def test_sources_that_are_none_are_one_line(server, there, tmp_path, capsys, source, message):
    assert (
        main(["prepare", "stage", source.format(scheme=server.scheme, place=there), f"--to={tmp_path / 'copy'}"]) == 2
    )
    looking, error = capsys.readouterr().err.splitlines()
    assert looking.startswith("looking what")
    assert message.format(scheme=server.scheme) in error
    assert os.listdir(tmp_path) == []


def test_a_key_that_is_a_folder_of_another_is_refused(there, tmp_path):
    fsspec.filesystem(there[:2]).pipe(f"{there}/train/cat", b"x")
    with pytest.raises(InputError, match=r"/train/cat would have to be a file and, for train/cat/é0.png, a folder too"):
        rj.data.stage(there, tmp_path / "copy", log=print)
    assert os.listdir(tmp_path) == []


def test_a_bucket_that_must_not_be_read_is_one_line(server, there, tmp_path):
    server.fault = lambda method, path: 403
    with pytest.raises(InputError, match="must not be used with these credentials"):
        rj.data.stage(there, tmp_path / "copy", log=print)
    # And one that may only be listed.
    server.fault = lambda method, path: 403 if "large.bin" in path else None
    with pytest.raises(InputError, match=r"large\.bin must not be used with these credentials"):
        rj.data.stage(there, tmp_path / "copy", log=print)
    assert not (tmp_path / "copy").exists()


def test_what_comes_damaged_is_not_kept(server, there, photos, tmp_path, monkeypatch):
    answer = server.RequestHandlerClass.answer

    def damaging(self, status, headers, data):
        flipped = data[:-1] + bytes([data[-1] ^ 1]) if data.startswith(b"\x89PNG") else data
        answer(self, status, headers, flipped)

    with monkeypatch.context() as patch:
        patch.setattr(server.RequestHandlerClass, "answer", damaging)
        with pytest.raises(
            InputError, match=r"png has another MD5|png does not answer as it should: .*checksum"
        ) as caught:
            rj.data.stage(there, tmp_path / "copy", log=print)
    assert is_passing(caught.value.__cause__)
    assert not [name for name in tree(tmp_path / ".copy.partial") if name.endswith(".png")]
    rj.data.stage(there, tmp_path / "copy", log=print)
    assert tree(tmp_path / "copy") == tree(photos)
