"""Paths as people give them: on the command line, in configs, and to functions."""

import os
import pwd
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnet_jax.cli import arguments
from resnet_jax.cli.main import main
from resnet_jax.configs import digits, parsing
from resnet_jax.data.images import open_images
from resnet_jax.data.tfds import prepared_folder
from resnet_jax.errors import InputError
from resnet_jax.files import expanded, write_whole
from resnet_jax.interop.files import read_weights, write_tensors
from resnet_jax.runs import workdir
from resnet_jax.runs.metrics_log import read_metrics


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home, and another folder to be in."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "home"


@pytest.mark.parametrize("kind", [str, Path])
def test_a_tilde_is_the_home_and_only_at_the_beginning(home, kind):
    assert expanded(kind("~")) == home
    assert expanded(kind("~/runs/x/")) == home / "runs" / "x"
    assert expanded(kind("~root/x")) == Path(pwd.getpwnam("root").pw_dir, "x")
    for path in ("runs/~", "a~", "/tmp/~x", "lr=0.1:/x", "[red]", "-x", "$HOME", "a,b"):
        assert expanded(kind(path)) == Path(path)


@pytest.mark.parametrize("path", ["~/x", "./~/x", "./~nobody", "./gs:/x", ".//~", "x", "."])
def test_a_path_that_is_expanded_twice_is_the_same(home, path):
    once = expanded(path)
    assert expanded(once) == expanded(str(once)) == once
    if path.startswith("./"):
        assert once.absolute() == Path.cwd() / path


@pytest.mark.parametrize("kind", [str, Path])
@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("~nobody-of-this-name/x", "no home ~nobody-of-this-name"),
        ("gs://bucket/x", "is no folder or file but an address"),
        ("file:///tmp/x", "is no folder or file but an address"),
        ("a\0b", "names no file or folder"),
        ("", "is a variable unset?"),
    ],
)
def test_what_is_no_path_is_refused(kind, path, message):
    if kind is Path and not path:
        return
    with pytest.raises(InputError, match=message) as caught:
        expanded(kind(path), "--workdir")
    assert str(caught.value).startswith("--workdir is ")


def test_without_a_home_a_tilde_is_refused(monkeypatch):
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("os.getuid", lambda: 2**31 - 7)  # as in a container that was given a number for a user
    with pytest.raises(InputError, match="no home ~"):
        expanded("~/x")


def test_the_parts_of_a_list_may_hold_commas_where_they_exist(home):
    for name in ("model.depth=8,seed=0", "model.depth=8,seed=1", "plain"):
        (home / name).mkdir()
    for given in (["~/model.depth=8,seed=0,~/plain,~/model.depth=8,seed=1"], ["~/model.depth=8,seed=0", "~/plain"]):
        found = arguments.folders(given, "workdir")
        assert [path.name for path in found][:2] == ["model.depth=8,seed=0", "plain"]
        assert all(path.is_dir() for path in found)
    absent = arguments.folders(["a, b", "x" * 200 + "," + "y" * 200], "workdir")
    assert absent == [Path("a"), Path("b"), Path("x" * 200), Path("y" * 200)]
    with pytest.raises(InputError, match="--workdir is empty"):
        arguments.folders([""], "workdir")


def test_files_and_data_below_the_home(home):
    write_tensors("~/weights.safetensors", {"a": np.ones(2, np.float32)})
    assert read_weights("~/weights.safetensors")[0]["a"].tolist() == [1, 1]
    for split in ("train", "val"):
        folder = home / "photos" / split / "cat"
        folder.mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "one.png")
    assert len(open_images("folder", "~/photos").train) == 1
    with pytest.raises(InputError, match=f"data_dir={home / 'x'} does not exist"):
        prepared_folder("cifar10", "~/x")
    (home / "own.py").write_text(Path(digits.__file__).read_text())
    assert parsing.load("~/own.py").dataset.name == "digits"
    workdir.claim(home / "run", parsing.load("digits"))
    assert workdir.read_config("~/run").dataset.name == "digits"
    assert read_metrics("~/run") == []
    assert list(Path().iterdir()) == []


def test_bytes_that_are_no_text_can_be_written_into_one(tmp_path):
    write_whole(tmp_path / "predictions.csv", os.fsdecode(b"caf\xe9.png,1\n"))
    assert (tmp_path / "predictions.csv").read_text(encoding="utf-8") == "caf\\udce9.png,1\n"


def test_a_file_whose_name_begins_with_a_dash_is_told_of(home, capsys):
    Path("-x.png").touch()
    assert main(["predict", "--workdir=run", "-x.png"]) == 2
    assert capsys.readouterr().err.endswith("the file of that name is ./-x.png\n")


@pytest.mark.parametrize(("address", "extra"), [("gs://bucket/run", "gcs"), ("s3://bucket/run", "s3")])
def test_a_bucket_without_its_client_is_one_line(monkeypatch, capsys, address, extra):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["train", "--config=digits", f"--workdir={address}"]) == 2
    wanted = (
        f"error: --workdir is {address}, which needs .*fs: pip install 'deep-residual-jax\\[{extra}\\]', or pip .*\n"
    )
    assert re.fullmatch(wanted, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train --config=digits --workdir=", "--workdir is ''"),
        ("train --config=digits --workdir=az://bucket/run", "an address"),
        ("train --config=digits --workdir=~nobody-of-this-name", "no home"),
        ("train --config=digits --workdir=file", "file is a file"),
        ("train --config=digits --workdir=file/", "file is a file"),
        ("train --config=folder --config.dataset.data_dir=gs://bucket --workdir=new", "an address"),
        ("train --config=folder --config.dataset.data_dir=~/photos --workdir=new", "home/photos does not exist"),
        ("train --config=~/absent.py --workdir=new", "neither a file"),
        ("evaluate --workdir=", "--workdir is empty"),
        ("evaluate --workdir=file:///bucket", "an address"),
        ("evaluate --workdir=s3:", "s3: is not the workdir of a run"),
        ("train --config=digits --workdir=gs:///x/../y", "must be a bucket and a folder in it"),
        ("evaluate --workdir=~/run --data_dir=", "--data_dir is ''"),
        ("evaluate --workdir=~/run --output=", "--output is ''"),
        ("evaluate --workdir=~/run --output=~/out", "home/run is not the workdir of a run"),
        ("predict --workdir= x.png", "--workdir is ''"),
        ("predict --workdir=~/run x.png", "home/run is not the workdir of a run"),
        ("export --workdir=~/run --output=", "--output is ''"),
        ("export --workdir=~/run --output=~/x", "home/run is not the workdir of a run"),
        ("convert ~/absent.safetensors new", "home/absent.safetensors does not exist"),
        ("doctor --workdir=", "--workdir is ''"),
        ("sweep --config=digits --axis=seed=0 --workdir=", "--workdir is ''"),
        ("sweep --config=digits --axis=seed=0 --workdir=az://x", "an address"),
        ("prepare cache --dataset=folder --data_dir=~/x --output=~/y", "home/x does not exist"),
        ("prepare cache --dataset=folder --data_dir=gs://x --output=~/y", "must lie on a file system"),
        ("prepare cache --dataset=folder --data_dir= --output=~/y", "--data_dir is ''"),
        ("evaluate --workdir=~/run --data_dir=gs://b/x", "resnet-jax prepare stage gs://b/x --to=DIR, or give a path"),
        ("prepare stage ~/x --to=~/y", "home/x does not exist: give a folder of data"),
        ("prepare stage file --to=~/y", "file is a file: give a folder of data"),
        ("prepare stage az://bucket --to=~/y", "an address"),
        ("prepare stage --to=~/y", "one folder is wanted"),
        ("prepare stage . --to=s3://bucket/x", "must lie on a file system"),
        ("prepare stage .", "--to is missing"),
    ],
)
def test_a_path_that_cannot_be_used_is_one_line(home, capsys, line, message):
    Path("file").touch()
    assert main(line.split()) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    assert [path.name for path in Path().iterdir()] == ["file"]
