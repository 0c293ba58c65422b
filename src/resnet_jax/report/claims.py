"""What an experiment found of the paper's claims, and the JSON files that hold it."""

import dataclasses
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from resnet_jax.errors import InputError
from resnet_jax.files import expanded, write_whole

# "not run" is a claim whose form was not started, for want of time, data or hardware.
State = Literal["shown", "not shown", "not run"]
Form = Literal["small", "full"]

STATES: tuple[str, ...] = get_args(State)
FORMS: tuple[str, ...] = get_args(Form)


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


@dataclass(frozen=True)
class Claim:
    """A claim of the paper and what an experiment found of it.

    Attributes:
      statement: a plain sentence, in which the paper could be wrong.
      paper: what the paper says, as text or as a number of `unit`, with the section in the text.
      ours: a number for each seed, or text where it is no single number.
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
      form: "small" or "full".
      claims: in its order.
      command, hardware, date, commit: of the run.
      versions: of Python and the libraries, by name.
      seconds, cpu_seconds: of this process.
      resumed: whether there were networks or results of an earlier one, whose seconds these are not.
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


def write_results(path: str | os.PathLike[str], results: Results) -> None:
    """Writes results as JSON, in the folder of `path`, which is made.

    Raises:
      InputError: it cannot be written, or a number of it is not finite.

    Example:
      >>> import resnet_jax as rj
      >>> claim = rj.report.Claim("Deeper is better.", "Table 6", [8.0, 8.2], "shown", unit="%", seeds=2)
      >>> claim.state
      'shown'
    """
    path = expanded(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        text = json.dumps(dataclasses.asdict(results), indent=1, ensure_ascii=False, allow_nan=False, default=_plain)
    except ValueError as error:
        raise InputError(f"{path} is not written: a number of {results.name} is not finite") from error
    write_whole(path, text + "\n")


def _plain(value: Any) -> Any:
    """Arrays of NumPy and JAX as lists, rounded to what can be told apart; a mapping as a dict."""
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def read_results(*directories: str | os.PathLike[str]) -> list[Results]:
    """All results in folders and below them, by name, the full form of an experiment before its small one.

    Files of JSON that hold no claims are left out.

    Raises:
      InputError: a folder does not exist, a file of results is damaged, or there are none.

    Example:
      >>> import resnet_jax as rj
      >>> [each.name for each in rj.report.read_results("experiments/results/paper")]  # doctest: +SKIP
    """
    found: dict[tuple[str, str], Results] = {}
    for directory in directories:
        place = expanded(directory, "the folder of results")
        if not place.is_dir():
            raise InputError(f"there is no folder {place}: give one that holds results of experiments/paper")
        for path in sorted(place.rglob("*.json")):
            results = _read(path)
            if results is None:
                continue
            if (results.name, results.form) in found:
                raise InputError(f"{path}: these folders hold results of {results.name} ({results.form}) twice")
            found[results.name, results.form] = results
    if not found:
        raise InputError(f"there are no results in {', '.join(map(str, directories))}: make experiments makes some")
    return [found[key] for key in sorted(found)]


def _read(path: Path) -> Results | None:
    damaged = f"{path} is damaged: remove it, and run its experiment again"
    try:
        read = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(damaged) from error
    if not isinstance(read, dict) or not {"claims", "form"} <= read.keys():
        return None
    try:
        claims = [
            Claim(**{**claim, "figure": Curves(**claim["figure"]) if claim.get("figure") else None})
            for claim in read["claims"]
        ]
        return Results(**{**read, "claims": claims})
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
