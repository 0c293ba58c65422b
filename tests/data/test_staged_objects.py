"""Objects of a bucket as the files of a copy: their names, the marks of folders, what servers say of them."""

import hashlib
import os

import pytest

from resnet_jax.data import staging
from resnet_jax.errors import InputError, is_passing
from trees import tree


class Bucket:
    """Objects by their names, as `StoredPath` gives them."""

    def __init__(self, objects, md5=b""):
        self.objects, self.md5 = objects, md5

    def __str__(self):
        return "gs://bucket/data"

    def contents(self):
        for name, data in self.objects.items():
            yield name, len(data), 1e9, self.md5 or hashlib.md5(data).digest()

    def is_file(self):
        return False

    def reader(self):
        return lambda name, size: iter([self.objects[name][:3], self.objects[name][3:]])


def stage_bucket(bucket, to, monkeypatch):
    expanded = staging.expanded
    monkeypatch.setattr(staging, "expanded", lambda given, *how, **more: given if given is bucket else expanded(given))
    return staging.stage(bucket, to, log=lambda line: None)


def test_objects_become_files_and_the_marks_of_folders_none(tmp_path, monkeypatch):
    objects = {"": b"", "train/": b"", "train/a/1.png": b"12345", "b c": b"", ".staged": b"x"}
    stage_bucket(Bucket(objects), tmp_path / "copy", monkeypatch)
    assert tree(tmp_path / "copy") == {"train/a/1.png": b"12345", "b c": b"", ".staged": b"x"}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a/b", "a"], "gs://bucket/data/a would have to be a file and, for a/b, a folder too"),
        (["a/b/c", "a/b"], "gs://bucket/data/a/b would have to be a file and, for a/b/c, a folder too"),
        (["../x"], "nothing is called '..'"),
        (["a/../../x"], "nothing is called '..'"),
        (["a/./x"], "nothing is called '.'"),
        (["a//x"], "nothing is called ''"),
        (["/etc/x"], "nothing is called ''"),
        (["a/"], "nothing is called ''"),
        (["a\0b"], "nothing is called"),
        ([f"a/{'é' * 124}"], "nothing is called 'éé"),
    ],
)
def test_names_that_no_disk_can_hold(tmp_path, monkeypatch, names, message):
    bucket = Bucket({**dict.fromkeys(names, b"x"), "fine": b"x"})
    with pytest.raises(InputError) as caught:
        stage_bucket(bucket, tmp_path / "folder" / "copy", monkeypatch)
    assert message in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_what_has_another_md5_than_the_server_says_is_not_kept(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="gs://bucket/data/a has another MD5") as caught:
        stage_bucket(Bucket({"a": b"12345"}, md5=b"0" * 16), tmp_path / "copy", monkeypatch)
    assert is_passing(caught.value.__cause__)
    assert tree(tmp_path) == {".copy.partial/.staging.lock": b""}
