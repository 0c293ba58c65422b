"""Configs by name with fields set, from Python and from the command line, right and wrong."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.cli.arguments import GivenConfig, command
from resnet_jax.configs import fields, parsing
from resnet_jax.errors import InputError
from resnet_jax.runs import build


def test_overrides():
    config = parsing.load(
        "digits:plain",
        [
            "model.depth=14",
            "seed=7",
            "optimizer.learning_rate=0.05",
            "optimizer.boundaries=(300, 450)",
            "optimizer.constant_warmup=0.01",
            "model.bn_group_size=16",
            "mesh.data=2",
            "dataset.data_dir=/data",
            "dataset.mirror=true",
        ],
    )
    assert config.model.family == "cifar_plain"
    assert (config.model.depth, config.seed, config.optimizer.learning_rate) == (14, 7, 0.05)
    assert config.optimizer.boundaries == (300, 450)
    assert config.optimizer.constant_warmup == 0.01
    assert (config.model.bn_group_size, config.mesh.data, config.dataset.data_dir) == (16, 2, "/data")
    assert config.dataset.mirror is True
    assert np.isclose(build.schedule(config)(jnp.asarray(300)), 0.005)


def test_placeholders_are_none_and_derived():
    config = parsing.load("digits")
    optimizer = config.optimizer
    for value in (optimizer.constant_warmup, config.model.bn_group_size, config.mesh.data):
        assert value is None
    # A half and three quarters of another length.
    config = parsing.load("digits", ["train.iterations=400"])
    np.testing.assert_allclose(build.schedule(config)(jnp.array([199, 200, 300])), [0.1, 0.01, 0.001], rtol=1e-6)


@pytest.mark.parametrize("source", parsing.PACKAGED)
def test_a_config_as_source_is_that_config(tmp_path, source):
    config = parsing.load(source, {"seed": 7, "optimizer.boundaries": (10, 20), "dataset.data_dir": "it's\n\\"})
    (tmp_path / "mine.py").write_text(parsing.as_source(config))
    again = parsing.load(tmp_path / "mine.py")
    assert fields.flat(again) == fields.flat(config)
    # A field keeps its type.
    for name in ("model.depth", "optimizer.learning_rate", "model.bn_group_size"):
        with pytest.raises(InputError, match=f"config.{name}=x"):
            parsing.load(tmp_path / "mine.py", {name: "x"})


def test_values_as_they_are_given_on_a_command_line():
    """What a message or the help shows can be pasted."""
    config = parsing.load("imagenet")
    shown = {field.name: fields.as_text(field.default) for field in fields.described(config)}
    assert (shown["model.bn_group_size"], shown["train.keep_every"], shown["model.remat"]) == ("32", "none", "false")
    assert (shown["stream.scales"], shown["optimizer.boundaries"]) == ("256,480", "150000,300000")
    shown = {name: text for name, text in shown.items() if text not in ("()", "none")}
    assert fields.flat(parsing.load("imagenet", shown)) == fields.flat(config)


def test_loading_a_config_twice_gives_two():
    first = parsing.load("digits", ["model.depth=8"])
    assert parsing.load("digits").model.depth == 20
    assert first.model.depth == 8


def test_a_config_of_ones_own(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from resnet_jax.configs import digits\n\n\n"
        "def get_config():\n    config = digits.get_config()\n    config.model.depth = 26\n    return config\n"
    )
    for source in (path, str(path)):
        assert parsing.load(source, {"seed": 3}).model.depth == 26
    with pytest.raises(InputError, match="this config has no variants"):
        parsing.load(f"{path}:plain")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(:", "SyntaxError"),
        ("import no_such_package", "ModuleNotFoundError: No module named 'no_such_package'"),
        ("config = 1", "KeyError: 'get_config'"),
        ("def get_config():\n    return {}", "get_config gives a dict"),
        ("def get_config():\n    raise ValueError('one\\ntwo')", "ValueError: two"),
    ],
)
def test_files_that_give_no_config(tmp_path, text, message):
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(InputError, match=message) as error:
        parsing.load(tmp_path / "mine.py")
    assert str(error.value).startswith(f"the config {tmp_path / 'mine.py'} gives none: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifra10", r"^the config cifra10 is neither a file nor a packaged one: did you mean 'cifar10'\? these are"),
        ("base", "neither a file nor a packaged one"),
        ("parsing", "neither a file nor a packaged one"),
        ("", "^the config is '', which names no file or folder"),
        ("gs://bucket/mine.py", "neither|address"),
    ],
)
def test_names_that_no_config_has(name, message):
    with pytest.raises(InputError, match=message):
        parsing.load(name)


@command
def trains(*files: str, config: GivenConfig | None = None, workdir: str | None = None) -> None:
    given.append((config, workdir, files))


given = []


def test_configs_among_other_arguments():
    words = ["--config=cifar10:plain", "--workdir", "run", "--config.model.depth", "8", "--config.model.remat"]
    words += ["--noconfig.dataset.mirror", *(f"--config.train.iterations={number}" for number in (1, 2))]
    trains([*words, "a", "--", "--config"])
    expected = {"model.depth": "8", "model.remat": "true", "dataset.mirror": "false", "train.iterations": "2"}
    assert given.pop() == (("cifar10:plain", expected), "run", ("a", "--config"))
    assert parsing.load("cifar10:plain", expected).train.iterations == 2
    trains(["--config", "digits"])
    assert given.pop() == (("digits", {}), None, ())
    trains([])
    assert given.pop() == (None, None, ())
    for words, message in (
        (["--config"], "--config lacks its value"),
        (["--config=digits", "--config.model.depth"], "--config.model.depth lacks its value"),
        (["--config.model.depth=8"], "--config.model.depth goes with --config=NAME"),
        (["--configs=digits"], r"unknown flag --configs: did you mean --config\?"),
        (["--config=digits", "--noconfig.dataset.mirror=true"], "--noconfig.dataset.mirror takes no value"),
        (["--config=digits", "--noconfig.model.depth"], r"did you mean --config.model.depth\?"),
        (["--depth=8"], r"unknown flag --depth: did you mean --config.model.depth\?"),
        (["--batch-size=8"], "did you mean --config.eval.batch_size or --config.train.batch_size"),
    ):
        with pytest.raises(InputError, match=message):
            trains(words)


MISTYPED = [
    ({"model.dept": 8}, r"there is no field config.model.dept: did you mean config.model.depth\? resnet-jax train"),
    ({"modle.depth": 8}, r"did you mean config.model.depth\?"),
    ({"depth": 8}, r"did you mean config.model.depth\?"),
    ({"model": 8}, "there is no field config.model: it is a section of fields, such as config.model."),
    ({"": 8}, "there is no field config.:"),
    # Old names.
    ({"model.group_size": 8}, r"no field config.model.group_size: did you mean config.model.bn_group_size\?"),
    ({"train.accumulate": 2}, r"did you mean config.train.grad_accum_steps\?"),
    ({"optimizer.ramp_learning_rate": 2}, r"did you mean config.optimizer.warmup_start\?"),
    ({"model.depth": "x"}, "model.depth=x, but it must be a whole number$"),
    ({"model.depth": "x\ny"}, r"model.depth=x\\ny, but"),
    ({"model.depth": 8.0}, "model.depth=8.0, but it must be a whole number$"),
    ({"model.depth": True}, "model.depth=True, but it must be a whole number$"),
    ({"train.batch_size": None}, "train.batch_size=None, but it must be a whole number$"),
    ({"model.depth": ""}, "model.depth=, but it must be a whole number$"),
    ({"model.bn_group_size": "all"}, "model.bn_group_size=all, but it must be a whole number or none$"),
    ({"model.family": 3}, "model.family=3, but it must be text$"),
    ({"dataset.name": None}, "dataset.name=None, but it must be text$"),
    ({"dataset.data_dir": 3}, "dataset.data_dir=3, but it must be text or none$"),
    ({"dataset.mirror": "7"}, "dataset.mirror=7, but it must be true or false$"),
    ({"dataset.mirror": 1}, "dataset.mirror=1, but it must be true or false$"),
    ({"optimizer.learning_rate": "fast"}, "optimizer.learning_rate=fast, but it must be a number$"),
    ({"optimizer.boundaries": "half"}, "optimizer.boundaries=half, but it must be a list of numbers$"),
    ({"optimizer.boundaries": "(1, 'a')"}, "but it must be a list of numbers$"),
    ({"optimizer.boundaries": 0.5}, "but it must be a list of numbers$"),
]


def test_mistyped_fields_are_one_line():
    for overrides, message in MISTYPED:
        with pytest.raises(InputError, match=message) as error:
            parsing.load("digits", overrides)
        assert "\n" not in str(error.value), overrides


@pytest.mark.parametrize(
    ("field", "given", "expected"),
    [
        ("model.depth", 56, 56),
        ("model.depth", np.int64(56), 56),
        ("model.bn_group_size", None, None),
        ("model.bn_group_size", "none", None),
        ("model.bn_group_size", 16, 16),
        ("optimizer.learning_rate", 1, 1.0),
        ("optimizer.learning_rate", np.float64(0.5), 0.5),
        ("optimizer.boundaries", [0.5, 0.75], (0.5, 0.75)),
        ("optimizer.boundaries", "[300, 450]", (300, 450)),
        ("optimizer.boundaries", "300,", (300,)),
        ("optimizer.boundaries", (), ()),
        ("stream.scales", "256", (256,)),
        ("dataset.mirror", True, True),
        ("dataset.mirror", "False", False),
        ("dataset.data_dir", Path("/data"), "/data"),
        ("dataset.data_dir", "/data", "/data"),
        ("dataset.data_dir", "none", "none"),
        ("dataset.data_dir", None, None),
        ("seed", 7, 7),
    ],
)
def test_fields_from_python(field, given, expected):
    found = fields.flat(parsing.load("cifar10", {field: given}))[field]
    assert (found, type(found)) == (expected, type(expected))


def test_none_is_a_value_as_others_are():
    assert parsing.load("cifar10", ["model.bn_group_size=None"]).model.bn_group_size is None
    for texts, expected in [(["none", "32"], 32), (["32", "none"], None)]:
        assert (
            parsing.load("cifar10", [f"model.bn_group_size={each}" for each in texts]).model.bn_group_size == expected
        )
