"""Collectives and kernels of a compiled program, read from XLA's text of it. This file alone knows that text."""

import functools
import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax


class Collective(NamedTuple):
    """Operations of one kind in which a device takes part.

    Attributes:
      kind: as XLA calls it, such as "all-reduce".
      devices: that take part in one of them.
      bytes: of the whole array: summed by an all-reduce or a reduce-scatter, put together by an all-gather.
    """

    kind: str
    devices: int
    bytes: int

    @property
    def sent_bytes(self) -> float:
        """What each device sends when they pass parts of the array around a ring, which no algorithm without help
        from the network undercuts (Patarasuk and Yuan, 2009).
        """
        passes = {"all-reduce": 2, "all-gather": 1, "reduce-scatter": 1, "all-to-all": 1}
        if self.kind not in passes:
            return float(self.bytes)
        return passes[self.kind] * (self.devices - 1) / self.devices * self.bytes


class Kernel(NamedTuple):
    """An instruction of a program that runs as a kernel of its own, or as one of a library.

    Attributes:
      name: as the program's own profile has it.
      kind: "fusion", or of a library its function, such as "__cudnn$convForward".
      turns: how often a run of the program has it.
      bytes: that it reads and writes each time: its arrays, or the slices that it takes of them or replaces.
      made_of: where the network has the operation that it ends with.
    """

    name: str
    kind: str
    turns: int
    bytes: int
    made_of: str


_KINDS = (
    "all-reduce|all-gather|reduce-scatter|all-to-all|ragged-all-to-all|collective-permute|collective-broadcast"
    "|send|recv"
)
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.-]+) \(.*\) -> .*\{$")
_COLLECTIVE = re.compile(rf"  (?:ROOT )?\S+ = (.+?) ({_KINDS})(-start)?\(")
_NAMES = re.compile(r"\b\w+=\{?((?:%[\w.-]+(?:, )?)+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_INSTRUCTION = re.compile(r"  (?:ROOT )?%?([\w.-]+) = (\(.*?\)|\S+) ([\w-]+)\(([^()]*)\)")
_NO_KERNEL = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "call", "after-all"}
_ARRAY = re.compile(r"([a-z]+)(\d*)\w*\[([\d,]*)\]")


def read_collectives(compiled: jax.stages.Compiled) -> Counter[Collective]:
    """Counts the collectives of a program that was compiled for CPUs, those in loops once for each turn.

    Raises:
      ValueError: the backend does not show the program; or see `collectives_of_text`.
    """
    program = compiled.as_text()
    if program is None:
        raise ValueError("this backend does not show its programs")
    return collectives_of_text(program)


def collectives_of_text(program: str) -> Counter[Collective]:
    """Counts the collectives of a program in XLA's text form, those in loops once for each turn.

    Raises:
      ValueError: the text does not tell a collective's size, or how often it is run; or the operation is asynchronous,
        as on other devices than CPUs.
    """
    entry, lines = _computations(program)
    partitions = re.search(r"\bnum_partitions=(\d+)", program)
    devices = int(partitions[1]) if partitions else 1

    @functools.cache
    def count(computation: str) -> Counter[Collective]:
        total: Counter[Collective] = Counter()
        for line in lines[computation]:
            if match := _COLLECTIVE.match(line):
                total[_collective(line, match, devices)] += 1
            for called in _called(line):
                inside = count(called) if called in lines else {}
                turns = _turns(line) if inside else 0
                for collective, number in inside.items():
                    total[collective] += number * turns
        return total

    return count(entry)


def kernels_of_text(program: str) -> list[Kernel]:
    """What a program for a GPU runs, loops as often as they turn; those of a loop whose turns are unknown once."""
    entry, lines = _computations(program)
    instructions = {name: [_INSTRUCTION.match(line) for line in each] for name, each in lines.items()}

    def found(computation: str, turns: int) -> Iterator[Kernel]:
        shapes: dict[str, str] = {}
        for line, match in zip(lines[computation], instructions[computation], strict=True):
            if not match:
                continue
            name, shape, kind, operands = match.groups()
            shapes[name] = shape
            if kind in ("while", "call"):
                known = _TRIPS.search(line) if kind == "while" else None
                for each in _called(line):
                    if each in lines and f"condition=%{each}" not in line:
                        yield from found(each, turns * (int(known[1]) if known else 1))
            if kind in _NO_KERNEL or kind.endswith("-done"):
                continue
            given = [_bytes(shapes.get(each, "")) for each in _names(operands)]
            if kind.endswith("-start"):  # its result begins with its operands
                kind, moved = kind.removesuffix("-start"), _bytes(shape)
            else:
                # A library's second result is its scratchpad.
                moved = _bytes(shape.split(", u8[")[0] if kind == "custom-call" else shape) + sum(given)
            if kind == "fusion":
                moved -= sum(_not_moved(instructions[each], given) for each in _called(line) if each in lines)
            target = re.search(r'custom_call_target="([^"]+)"', line)
            made_of = re.search(r'op_name="([^"]*)"', line)
            yield Kernel(name, target[1] if target else kind, turns, moved, made_of[1] if made_of else "")

    return list(found(entry, 1))


def _not_moved(fused: list[Any], given: list[int]) -> int:
    """Bytes of a fusion's arrays that it leaves alone: of those it slices, and of those it replaces a slice of."""
    shapes: dict[str, str] = {}
    source: dict[str, int] = {}
    left, saved = dict(enumerate(given)), 0
    for match in filter(None, fused):
        name, shape, kind, operands = match.groups()
        shapes[name], names = shape, _names(operands)
        if kind == "parameter":
            source[name] = int(operands)
        elif kind == "bitcast" and names[0] in source:
            source[name] = source[names[0]]
        elif kind == "dynamic-slice" and names[0] in source:
            saved += max(left.pop(source[names[0]], 0) - _bytes(shape), 0)
        elif kind == "dynamic-update-slice" and names[0] in source:
            saved += left.pop(source[names[0]], 0) + _bytes(shape) - _bytes(shapes[names[1]])
    return saved


def _names(operands: str) -> list[str]:
    return list(dict.fromkeys(re.findall(r"%([\w.-]+)", operands)))


def _computations(program: str) -> tuple[str, dict[str, list[str]]]:
    """The name of the computation that is run, and the instructions of all."""
    lines: dict[str, list[str]] = {}
    entry = name = ""
    for line in program.splitlines():
        if header := _COMPUTATION.match(line):
            name = header[2]
            lines[name] = []
            entry = name if header[1] else entry
        elif name and line.startswith("  "):
            lines[name].append(line)
    return entry, lines


def _bytes(shapes: str) -> int:
    """Of all arrays in the text of a shape."""
    return sum(
        math.prod(int(length) for length in shape.split(",") if length)
        * (1 if letters == "pred" else int(bits or 0) // 8)
        for letters, bits, shape in _ARRAY.findall(shapes)
    )


def _called(line: str) -> list[str]:
    """What the attributes of an instruction name: computations such as a loop's body, and instructions."""
    return [name for names in _NAMES.findall(line) for name in names.replace("%", "").rstrip(", ").split(", ")]


def _turns(line: str) -> int:
    """How often an instruction runs the computations that it calls."""
    if " while(" not in line:
        return 1
    trips = _TRIPS.search(line)
    if trips is None:
        raise ValueError(f"how often a loop with collectives turns is unknown: {line.strip()[:100]}")
    return int(trips[1])


def _collective(line: str, match: re.Match[str], devices: int) -> Collective:
    shapes, kind, asynchronous = match.groups()
    if asynchronous or kind in ("send", "recv", "ragged-all-to-all"):
        raise ValueError(f"this collective cannot be counted: {line.strip()[:100]}")
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", line):
        devices = listed[1].count(",") + 1
    elif tiled := re.search(r"replica_groups=\[\d+,(\d+)\]<=", line):
        devices = int(tiled[1])
    elif named := re.search(r"replica_groups=mesh\[(['\w=,]+)\] \{(['\w,]+)\}", line):
        lengths = dict(axis.split("=") for axis in named[1].split(","))
        devices = math.prod(int(lengths[axis]) for axis in named[2].split(","))
    elif "replica_groups=" in line and "replica_groups={}" not in line:
        raise ValueError(f"how many devices take part is unknown: {line.strip()[:100]}")
    size = _bytes(shapes)
    return Collective(kind, devices, size * devices if kind == "reduce-scatter" else size)
