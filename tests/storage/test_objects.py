"""Paths that lie in a bucket."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from resnet_jax.cli.main import main
from resnet_jax.errors import InputError, is_passing
from resnet_jax.files import appended, check_bucket, check_writable, expanded, is_remote, put, sizes, write_whole

pytestmark = pytest.mark.slow


def test_files_of_a_bucket_are_read_and_written_as_those_of_a_disk(place):
    folder = expanded(place, remote=True)
    assert is_remote(folder)
    assert folder == expanded(Path(place), remote=True) == expanded(folder, remote=True)
    assert folder == folder.absolute() == folder.resolve()
    assert str(folder) == os.fspath(folder) == place
    assert not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "a.txt", "one")
    write_whole(folder / "a.txt", "two")
    check_writable(folder / "new")
    write_whole(folder / "sub" / "b.bin", bytes(1000))
    assert (folder / "a.txt").read_bytes() == b"two"
    assert (folder / "a.txt").is_file()
    assert not (folder / "a.txt").is_dir()
    assert folder.is_dir()
    assert (folder / "sub").is_dir()
    assert sorted(each.name for each in folder.iterdir()) == ["a.txt", "sub"]
    assert [str(each) for each in folder.glob("*.txt")] == [f"{place}/a.txt"]
    assert sizes(folder) == {"a.txt": 3, "sub/b.bin": 1000}
    assert (folder / "a.txt").stat().st_mtime > 1e9
    with pytest.raises(FileNotFoundError):
        (folder / "absent").read_bytes()
    with pytest.raises(FileExistsError):
        (folder / "a.txt").write_bytes(b"three", new=True)
    (folder / "a.txt").unlink()
    assert not (folder / "a.txt").exists()


def test_a_file_grows_by_being_written_whole(place):
    path = expanded(place, remote=True) / "lines"
    file = appended(path)
    file.write(b"one\n")
    file.flush()
    assert not path.exists()
    put(file)
    assert path.read_bytes() == b"one\n"
    file.write(b"two\n")
    file.close()
    again = appended(path)
    again.write(b"three\n")
    again.close()
    assert path.read_bytes() == b"one\ntwo\nthree\n"


def test_a_bucket_that_is_not_there_is_not_made(server):
    path = expanded(f"{server.scheme}://absent/x", remote=True)
    for _ in range(2):
        with pytest.raises(InputError, match=f"there is no bucket {server.scheme}://absent: make it"):
            check_bucket(path)
        path.mkdir(parents=True, exist_ok=True)


def test_a_refusal_and_a_server_that_fails_for_a_moment_are_told_apart(server, place):
    path = expanded(place, remote=True) / "x"
    server.fault = lambda method, path: 403
    with pytest.raises(InputError, match="must not be used with these credentials"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match="must not be used with these credentials"):
        path.exists()
    server.fail_for(5)
    path.write_bytes(b"in the end")
    assert path.read_bytes() == b"in the end"


@pytest.mark.parametrize("command", ["train --config=digits", "evaluate", "doctor"])
def test_a_bucket_that_is_gone_is_one_line(server, command, capsys):
    assert main([*command.split(), f"--workdir={server.scheme}://absent/x"]) == 2
    error = capsys.readouterr().err
    assert f"there is no bucket {server.scheme}://absent" in error
    assert error.count("\n") == 1


def test_without_credentials_it_says_how_to_get_some(server, place):
    """In a process of its own, since clients keep what they have found."""
    if server.scheme == "gs":
        server.fault = lambda method, path: 401  # what Google's servers say to who has none
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environment |= {"AWS_EC2_METADATA_DISABLED": "true", "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
    command = [sys.executable, "-m", "resnet_jax.cli.main", "train", "--config=digits", f"--workdir={place}"]
    found = subprocess.run(command, env=environment, capture_output=True, text=True)
    login = {"gs": "gcloud auth application-default login", "s3": "aws configure"}[server.scheme]
    assert found.returncode == 2
    assert f"cannot be used without credentials that its bucket accepts: {login}" in found.stderr
    assert found.stderr.count("\n") == 1


def test_images_have_to_lie_on_a_file_system(place, capsys):
    assert main(["train", "--config=folder", f"--config.dataset.data_dir={place}"]) == 2
    error = capsys.readouterr().err
    assert f"copy data to a disk with resnet-jax prepare stage {place} --to=DIR" in error
    assert error.count("\n") == 1


def test_a_server_that_is_away_is_worth_another_start(place, monkeypatch):
    path = expanded(place, remote=True) / "x"

    def away(*arguments, **named):
        raise ConnectionRefusedError("Cannot connect to host")

    monkeypatch.setattr(path._client, "pipe_file", away)
    with pytest.raises(InputError, match="does not answer as it should: Cannot connect") as caught:
        path.write_bytes(b"")
    assert is_passing(caught.value.__cause__)
