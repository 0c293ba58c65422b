"""What a walk through folders finds, of what people leave in them, and what it says of the rest."""

import os
import sys
import unicodedata

import numpy as np
import pytest
from PIL import Image

from resnet_jax.data import folders, image_files as image_files_module
from resnet_jax.data.decode import decode
from resnet_jax.data.folders import image_files
from resnet_jax.data.image_files import UprightFile
from resnet_jax.data.images import open_images
from resnet_jax.errors import InputError


@pytest.fixture(autouse=True)
def _without_pillow_heif(monkeypatch):
    """As where it is not installed, so that .heic files are passed over."""
    found = (image_files_module._heif, image_files_module.suffixes)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for each in found:
        each.cache_clear()
    yield
    for each in found:
        each.cache_clear()


def make(root, *names):
    """Empty files, which is enough for a walk."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_the_files_of_a_folder_and_of_those_below_it(tmp_path):
    make(tmp_path, "b.jpg", "a.JPG", "c/b.jfif", "c/d/a.jpe", "c.png", "a/z.avif", "x.png/1.webp", "10.jpg", "9.Tiff")
    images, passed = image_files(tmp_path)
    assert images == [
        "10.jpg",
        "9.Tiff",
        "a/z.avif",
        "a.JPG",
        "b.jpg",
        "c/b.jfif",
        "c/d/a.jpe",
        "c.png",
        "x.png/1.webp",
    ]
    assert passed == []


def test_what_is_passed_over_and_why(tmp_path):
    make(tmp_path, "a.jpg", "1.heic", "2.HEIC", ".DS_Store", "._a.jpg", ".git/a.jpg", "Thumbs.db", "IMG_1", "s/v.mp4")
    (tmp_path / "s" / "gone.jpg").symlink_to("nowhere")
    (tmp_path / "round.jpg").symlink_to("round.jpg")
    (tmp_path / "empty.png").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    images, passed = image_files(tmp_path)
    assert images == ["a.jpg"]
    assert sorted(passed, key=lambda each: each[1]) == [
        ("hidden", ".DS_Store"),
        ("hidden", "._a.jpg"),
        ("hidden", ".git"),
        (".heic (pip install pillow-heif reads them)", "1.heic"),
        (".heic (pip install pillow-heif reads them)", "2.HEIC"),
        ("without a suffix", "IMG_1"),
        (".db", "Thumbs.db"),
        ("no regular file", "pipe.jpg"),
        ("linked to nothing", "round.jpg"),
        ("linked to nothing", "s/gone.jpg"),
        (".mp4", "s/v.mp4"),
    ]
    assert folders.reasons(passed) == (
        "3 hidden, such as .DS_Store, 2 .heic (pip install pillow-heif reads them), such as 1.heic, 2 linked to "
        "nothing, such as round.jpg, 1 without a suffix: IMG_1, 1 .db: Thumbs.db, 1 no regular file: pipe.jpg, 1 .mp4: "
        "s/v.mp4"
    )


def test_links_are_followed_once(tmp_path):
    album, elsewhere = tmp_path / "all" / "album", tmp_path / "elsewhere"
    make(album, "a.jpg", "s/b.jpg")
    make(elsewhere, "c.jpg", "d/e.jpg")
    make(tmp_path / "all", "of another album.jpg")
    (album / "again").symlink_to(album / "s")
    (album / "linked").symlink_to(elsewhere)
    (album / "up").symlink_to("..")
    (album / "s" / "self").symlink_to(".")
    (album / "a2.jpg").symlink_to("a.jpg")
    (elsewhere / "d" / "back").symlink_to(album)
    images, passed = image_files(album)
    assert images == ["a.jpg", "a2.jpg", "linked/c.jpg", "linked/d/e.jpg", "s/b.jpg"]
    assert sorted(path for _, path in passed) == ["again", "linked/d/back", "s/self", "up"]
    assert {reason for reason, _ in passed} == {"entered already"}
    # Where the folder itself is reached through a link, its real place counts, too.
    (tmp_path / "shortcut").symlink_to(album)
    assert image_files(tmp_path / "shortcut")[0] == images


def test_links_in_many_circles_end(tmp_path):
    """Each of 12 folders links to all others: 12! ways through them."""
    for i in range(12):
        make(tmp_path, f"{i}/{i}.jpg")
        for j in range(12):
            (tmp_path / str(i) / f"to{j}").symlink_to(tmp_path / str(j))
    images, passed = image_files(tmp_path)
    assert sorted(images) == sorted(f"{i}/{i}.jpg" for i in range(12))
    assert len(passed) == 144


def test_permissions(tmp_path, monkeypatch):
    """As it is for who is not root."""
    make(tmp_path, "a.jpg", "b.jpg")
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith("a.jpg"))
    assert image_files(tmp_path) == (["b.jpg"], [("without permission to read it", "a.jpg")])

    def refuse(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(InputError, match=f"the folder {tmp_path} cannot be read: Permission denied"):
        image_files(tmp_path)


def image_file(path, value=0, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((5, 7, 3), value, np.uint8)).save(path, **options)


@pytest.fixture
def photos(tmp_path):
    """Two classes, one of them in a folder of a folder, with what phones and computers leave beside photographs."""
    for name in ("cat/a.png", "cat/holiday/2024/b.jfif", "dog/c.jpe", "dog/d.avif"):
        image_file(tmp_path / "train" / name, format={"jfif": "JPEG", "jpe": "JPEG"}.get(name.split(".")[1]))
    for name in ("cat/e.png", "dog/f.png"):
        image_file(tmp_path / "val" / name)
    make(tmp_path / "train", "cat/1.heic", "cat/2.heic", "cat/._a.png", "dog/Thumbs.db", "stray.png")
    (tmp_path / "train" / "dog" / "lost.png").symlink_to("nowhere")
    (tmp_path / "train" / "dog" / "folder.png").mkdir()
    (tmp_path / "train" / "fox").symlink_to("nowhere")
    return tmp_path


def test_a_data_set_says_what_was_passed_over(photos):
    said = []
    data = open_images("folder", str(photos), said.append)
    names = [data.train[i].name for i in range(len(data.train))]
    assert names == ["train/cat/a.png", "train/cat/holiday/2024/b.jfif", "train/dog/c.jpe", "train/dog/d.avif"]
    assert data.train.labels.tolist() == [0, 0, 1, 1]
    for i in range(4):
        assert decode(data.train[i].data).shape == (5, 7, 3)
    assert said == [
        f"{photos / 'train'}: passed over: 2 .heic (pip install pillow-heif reads them), such as cat/1.heic, "
        "2 beside the folders of the classes, such as fox, 1 hidden: cat/._a.png, 1 .db: dog/Thumbs.db, "
        "1 linked to nothing: dog/lost.png"
    ]


def test_a_class_of_which_nothing_can_be_read(photos):
    for path in (photos / "train" / "cat").rglob("*.*"):
        if path.suffix != ".heic":
            path.unlink()
    with pytest.raises(
        InputError,
        match=r"train/cat holds no images .*; passed over: 2 \.heic \(pip .*: put some there, or remove the folder$",
    ):
        open_images("folder", str(photos))


COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "éléphant") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(("train", "val"), [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)])
def test_accents_make_no_other_class(tmp_path, train, val):
    assert train != val
    image_file(tmp_path / "train" / train / "a.png")
    image_file(tmp_path / "train" / "zebra" / "b.png")
    image_file(tmp_path / "val" / val / "c.png")
    data = open_images("folder", str(tmp_path))
    names = data.class_names
    assert sorted(names) == sorted((train, "zebra"))
    assert names[data.validation.labels[0]] == train
    assert data.validation[0].name == f"val/{val}/c.png"


def test_both_ways_to_write_a_class_are_one_class(tmp_path):
    for name, file in ((COMPOSED, "a.png"), (DECOMPOSED, "b.png"), ("zebra", "c.png")):
        image_file(tmp_path / "train" / name / file)
        image_file(tmp_path / "val" / name / file)
    data = open_images("folder", str(tmp_path))
    assert data.class_names == (DECOMPOSED, "zebra")
    for split in (data.train, data.validation):
        assert split.labels.tolist() == [0, 0, 1]


def test_a_class_that_differs_in_its_capitals_is_pointed_out(tmp_path):
    image_file(tmp_path / "train" / "Dog" / "a.png")
    image_file(tmp_path / "val" / "dog" / "a.png")
    with pytest.raises(InputError, match=r"val holds the class 'dog', which .*train lacks, which has 'Dog'"):
        open_images("folder", str(tmp_path))


@pytest.mark.parametrize(("names", "upright"), [(("n01440764", "n01443537"), False), (("n01440764", "mine"), True)])
def test_orientation_of_imagenets_own_files_is_ignored(tmp_path, names, upright):
    tags = Image.Exif()
    tags[274] = 6
    for name in names:
        image_file(tmp_path / "train" / name / "a.jpg", exif=tags)
        image_file(tmp_path / "val" / name / "a.jpg", exif=tags)
    data = open_images("folder", str(tmp_path))
    for split in (data.train, data.validation):
        assert isinstance(split[0].data, UprightFile) == upright
        assert decode(split[0].data).shape == ((7, 5, 3) if upright else (5, 7, 3))


def test_a_folder_is_named_through_a_link(tmp_path):
    make(tmp_path, "real/inner/photos/x.jpg", "real/inner/sub/a.jpg")
    (tmp_path / "link").symlink_to("real/inner/photos")
    assert image_files(tmp_path / "link" / ".." / "sub") == (["a.jpg"], [])


def test_a_closed_folder_is_passed_over_by_name(tmp_path, monkeypatch):
    make(tmp_path, "a.jpg", "lost+found/b.jpg")
    scandir = os.scandir

    def closed(folder):
        if os.path.basename(folder) == "lost+found":
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", closed)  # the one who runs the tests may open all of them
    assert image_files(tmp_path) == (["a.jpg"], [("without permission to read it", "lost+found")])
