"""What an experiment found of the paper's claims, and the JSON files that hold it."""

import dataclasses
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any, Literal, get_args

from resnet_jax.errors import InputError
from resnet_jax.files import expanded, sizes, write_whole

# "not run" is a claim whose form was not started, for want of time, data or hardware.
State = Literal["shown", "not shown", "not run"]
Form = Literal["small", "short", "full"]

STATES: tuple[str, ...] = get_args(State)
FORMS: tuple[str, ...] = get_args(Form)


def _check(given: Any, holds: Mapping[str, bool]) -> None:
    """An InputError that names the first attribute of which it does not hold that it is what it must be."""
    for name, right in holds.items():
        if not right:
            kind = type(given).__name__
            raise InputError(
                f"{name} is {getattr(given, name)!r}, which is none of rj.report.{kind}: see its attributes"
            )


def _texts(given: Any, *names: str) -> dict[str, bool]:
    return {name: isinstance(getattr(given, name), str) for name in names}


def _is_number(value: Any) -> bool:
    value = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    size: Any = abs(value)
    # A larger number has no square, and a larger whole one is no float. What is not finite is refused where it matters.
    return not 1e150 < size < math.inf


def _are_numbers(values: Any) -> bool:
    values = values.tolist() if hasattr(values, "tolist") else values
    return isinstance(values, Sequence) and not isinstance(values, str) and all(map(_is_number, values))


def _is_line(line: Any) -> bool:
    return (
        isinstance(line, Sequence) and len(line) == 2 and all(map(_are_numbers, line)) and len(line[0]) == len(line[1])
    )


@dataclass(frozen=True)
class Curves:
    """A figure of lines, as numbers.

    Attributes:
      x, y: what the axes are of, with units.
      lines: by name, the values along x and those along y, as many. Names that differ in a last part ", test",
        ", training", ", ours" or ", paper" have one color; "training" is dashed, as in the paper, and "paper" dotted.
      log_y: whether the axis of y is logarithmic.
      bars: whether the values stand beside each other as bars, and no line joins them.
    """

    x: str
    y: str
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    log_y: bool = False
    bars: bool = False

    def __post_init__(self) -> None:
        lines = isinstance(self.lines, Mapping) and all(map(_is_line, self.lines.values()))
        _check(self, _texts(self, "x", "y") | {"lines": lines})


@dataclass(frozen=True)
class Claim:
    """A claim of the paper and what an experiment found of it.

    Attributes:
      statement: a plain sentence, in which the paper could be wrong.
      paper: what the paper says, as text or as a number of `unit`, with the section in the text.
      ours: a number for each seed, none beyond 1e150, or text where it is no single number.
      state: "shown" or "not shown", by a rule that stands in the experiment's file; or "not run".
      unit: of the numbers, such as "%".
      seeds: how many seeds were run; 0 where nothing is random.
      data: what it was measured on.
      budget: how long was trained, and at which rate.
      section: of the paper, such as "Table 6" or "section 3.1".
      command: of another form that shows more, where it was not run, and what that costs.
      numbers: anything else that was measured, by name, as JSON has it.
      figure: to draw below the claim.
    """

    statement: str
    paper: str | float
    ours: str | Sequence[float]
    state: State
    unit: str = ""
    seeds: int = 0
    data: str = ""
    budget: str = ""
    section: str = ""
    command: str = ""
    numbers: Mapping[str, Any] = field(default_factory=dict)
    figure: Curves | None = None

    def __post_init__(self) -> None:
        holds = _texts(self, "statement", "unit", "data", "budget", "section", "command")
        holds |= {"paper": isinstance(self.paper, str) or _is_number(self.paper)}
        holds |= {"ours": isinstance(self.ours, str) or _are_numbers(self.ours)}
        holds |= {"seeds": isinstance(self.seeds, int), "numbers": isinstance(self.numbers, Mapping)}
        _check(self, holds | {"figure": isinstance(self.figure, Curves | None)})
        if self.state not in STATES:
            raise InputError(f"the state of a claim is {self.state!r}, but it must be one of {', '.join(STATES)}")
        if self.state == "not run" and not isinstance(self.ours, str) and len(self.ours):
            raise InputError(f"a claim that was not run has numbers: {self.statement}")


@dataclass(frozen=True)
class Results:
    """What one run of an experiment found.

    Attributes:
      name: of the experiment's file.
      title: its first line.
      form: "small", "short" or "full".
      claims: in its order.
      command, hardware, date, commit: of the run.
      versions: of Python and the libraries, by name.
      seconds, cpu_seconds: of this process.
      resumed: whether there were networks or results of an earlier one, whose seconds these are not.
      training_seconds: of wall time, which the trainings of its networks took, in this process or an earlier one.
    """

    name: str
    title: str
    form: Form
    claims: Sequence[Claim]
    command: str
    hardware: str
    date: str
    commit: str
    versions: Mapping[str, str]
    seconds: float
    cpu_seconds: float
    resumed: bool = False
    training_seconds: float = 0.0

    def __post_init__(self) -> None:
        texts = _texts(self, "name", "title", "command", "hardware", "date", "commit")
        holds = texts | {"form": self.form in FORMS, "resumed": isinstance(self.resumed, bool)}
        claims = isinstance(self.claims, Sequence) and all(isinstance(each, Claim) for each in self.claims)
        versions = isinstance(self.versions, Mapping) and all(isinstance(each, str) for each in self.versions.values())
        seconds = {name: _is_number(getattr(self, name)) for name in ("seconds", "cpu_seconds", "training_seconds")}
        _check(self, holds | {"claims": claims, "versions": versions} | seconds)


def write_results(path: str | os.PathLike[str], results: Results) -> None:
    """Writes results as JSON, in the folder of `path`, which is made.

    Raises:
      InputError: it cannot be written, a number of it is not finite, or something in `numbers` has no form in JSON.

    Example:
      >>> import resnet_jax as rj
      >>> claim = rj.report.Claim("Deeper is better.", "Table 6", [8.0, 8.2], "shown", unit="%", seeds=2)
      >>> claim.state
      'shown'
    """
    path = expanded(path, remote=True)
    make_folder(path.parent)
    try:
        text = json.dumps(dataclasses.asdict(results), indent=1, ensure_ascii=False, allow_nan=False, default=_plain)
    except ValueError as error:
        raise InputError(f"{path} is not written: a number of {results.name} is not finite") from error
    except TypeError as error:
        raise InputError(f"{path} is not written: {error}") from error
    write_whole(path, text + "\n")


def make_folder(folder: Path) -> None:
    """Makes a folder to write into, or raises an InputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be made: {error.strerror}") from error


def _plain(value: Any) -> Any:
    """Arrays of NumPy and JAX as lists, rounded to what can be told apart; a mapping as a dict."""
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def read_results(*directories: str | os.PathLike[str]) -> list[Results]:
    """All results in folders and below them, by name, and of an experiment the full form, the short and the small one.

    Files of JSON that hold no claims are left out.

    Raises:
      InputError: a folder does not exist, a file of results is damaged, or there are none.

    Example:
      >>> import resnet_jax as rj
      >>> [each.name for each in rj.report.read_results("experiments/results/paper")]  # doctest: +SKIP
    """
    found: dict[tuple[str, str], Results] = {}
    for directory in directories:
        place = expanded(directory, "the folder of results", remote=True)
        if not place.is_dir():
            raise InputError(f"there is no folder {place}: give one that holds results of experiments/paper")
        for path in [place / name for name in sorted(sizes(place)) if name.endswith(".json")]:
            results = _read(path)
            if results is None:
                continue
            if (results.name, results.form) in found:
                raise InputError(
                    f"{path}: these folders hold results of {results.name} ({results.form}) twice: remove one, or give "
                    "one of the folders"
                )
            found[results.name, results.form] = results
    if not found:
        raise InputError(f"there are no results in {', '.join(map(str, directories))}: make experiments makes some")
    return [found[key] for key in sorted(found)]


def _read(path: Path) -> Results | None:
    damaged = f"{path} is damaged: remove it, and run its experiment again"
    try:
        read = json.loads(path.read_bytes())
        json.dumps(read, allow_nan=False)  # what `write_results` refuses, is no number of a page
    except (OSError, ValueError) as error:
        raise InputError(damaged) from error
    if not isinstance(read, dict) or not {"claims", "form"} <= read.keys():
        return None
    try:
        claims = [
            Claim(**{**claim, "figure": Curves(**claim["figure"]) if claim.get("figure") else None})
            for claim in read["claims"]
        ]
        return Results(**{**read, "claims": claims if isinstance(read["claims"], list) else None})
    except (InputError, TypeError, AttributeError) as error:
        raise InputError(damaged) from error


def mean_and_spread(values: Iterable[float]) -> tuple[float, float | None]:
    """The mean and the standard deviation of the sample, which is None for one value.

    Example:
      >>> mean_and_spread([1.0, 3.0])
      (2.0, 1.4142135623730951)
    """
    given = list(values)
    mean = math.fsum(given) / len(given)
    if len(given) == 1:
        return mean, None
    return mean, math.sqrt(math.fsum((each - mean) ** 2 for each in given) / (len(given) - 1))
