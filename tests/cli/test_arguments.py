"""Commands are functions whose keywords are flags."""

from pathlib import Path
from typing import Literal

import pytest

from resnet_jax.cli.arguments import GivenConfig, command
from resnet_jax.errors import InputError

given = {}


@command
def measure(
    *files: str,
    model: str,
    config: GivenConfig | None = None,
    size: int | None = None,
    rate: float = 0.5,
    output: Path | None = None,
    order: Literal["rgb", "bgr"] = "rgb",
    scales: list[int] | None = None,
    mean: list[float] | None = None,
    axis: list[str] | None = None,
    workdir: list[Path] | None = None,
    fast: bool = False,
) -> None:
    """Measures."""
    given.update(locals())


@command
def plain(*, size: int = 1) -> None:
    """Takes flags alone."""
    given.update(locals())


@command
def needy(*, workdir: Path) -> None:
    """Cannot do without a flag."""


def test_every_kind_of_flag(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    measure(["--model=a", "x.png"])
    defaults = {"config": None, "size": None, "rate": 0.5, "output": None, "order": "rgb", "fast": False}
    lists = dict.fromkeys(("scales", "mean", "axis", "workdir"))
    assert given == {"files": ("x.png",), "model": "a", **defaults, **lists}
    measure(
        [
            *("--model", "b", "--config=digits", "--config.seed=3", "--size=8", "--rate", "1e-3", "--output=~/x"),
            *("--order=bgr", "--scales=1,2", "--scales=3", "--mean=0.5", "--axis=seed=0,1", "--axis=model.depth=8"),
            *("--workdir=a,b", "--fast"),
        ]
    )
    assert given == {
        "files": (),
        "model": "b",
        "config": ("digits", {"seed": "3"}),
        "size": 8,
        "rate": 1e-3,
        "output": tmp_path / "x",
        "order": "bgr",
        "scales": [1, 2, 3],
        "mean": [0.5],
        "axis": ["seed=0,1", "model.depth=8"],
        "workdir": [Path("a"), Path("b")],
        "fast": True,
    }
    assert measure.__doc__ == "Measures."
    # The last of two holds; one dash does, a dash alone is a value, and what follows two is none of the flags.
    measure(["-model=b", "--model=--c", "--fast", "--nofast", "-", "--", "--size"])
    assert (given["model"], given["fast"], given["files"]) == ("--c", False, ("-", "--size"))


@pytest.mark.parametrize(
    ("run", "line", "message"),
    [
        (measure, "", "--model is missing: see --help"),
        (measure, "--model=a --size=x", "--size=x is wrong: it must be a whole number"),
        (measure, "--model=a --rate=x", "--rate=x is wrong: it must be a number"),
        (measure, "--model=a --scales=1,x", "--scales=1,x is wrong: .* or several with commas"),
        (measure, "--model=a --order=grb", "--order=grb is not one of rgb, bgr"),
        (measure, "--model=a --output=", "--output is ''"),
        (measure, "--model=a --ordr=rgb", r"unknown flag --ordr: did you mean --order\?"),
        (measure, "--model=a --order=bgf", r"--order=bgf is not one of rgb, bgr: did you mean 'bgr'\?"),
        (measure, "--model=a --out-put=x", r"unknown flag --out-put: did you mean --output\?"),
        (measure, "--model", "--model lacks its value, as in --model=VALUE"),
        (measure, "--model --size=8", "--model lacks its value, as in --model=VALUE"),
        (measure, "--nomodel", r"unknown flag --nomodel: did you mean --model\?"),
        (measure, "--model=a --mean=", "--mean= is wrong: it must be a number"),
        (measure, "--model=a --nofast=true", "--nofast takes no value: it stands for --fast=false"),
        (measure, "--model=a --fast=perhaps", "--fast=perhaps is wrong: it must be true or false"),
        (measure, "--model=a --=3", "unknown flag --: the flags of this command are --model, --config, --size"),
        (plain, "--width", "unknown flag --width: the flags of this command are --size: see --help"),
        (needy, "a", r"unexpected argument 'a': did you mean --workdir=a\? see --help"),
        (measure, "--model=a --shorter_side=8", "--shorter_side is called --config.stream.resize_size now"),
        (plain, "--size=8 file", "unexpected argument 'file'"),
        (plain, "--config=digits", "unknown flag --config: the flags of this command are --size"),
    ],
)
def test_flags_that_cannot_be(run, line, message):
    with pytest.raises(InputError, match=message) as caught:
        run(line.split())
    assert "\n" not in str(caught.value)
