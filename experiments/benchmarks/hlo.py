"""Collectives of a compiled program, read from the text that XLA writes it in. This file alone knows that text."""

import functools
import math
import re
from collections import Counter
from typing import NamedTuple

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


_KINDS = (
    "all-reduce|all-gather|reduce-scatter|all-to-all|ragged-all-to-all|collective-permute|collective-broadcast"
    "|send|recv"
)
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.-]+) \(.*\) -> .*\{$")
_COLLECTIVE = re.compile(rf"  (?:ROOT )?\S+ = (.+?) ({_KINDS})(-start)?\(")
_NAMES = re.compile(r"\b\w+=\{?((?:%[\w.-]+(?:, )?)+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
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
    lines: dict[str, list[str]] = {}
    entry = name = ""
    for line in program.splitlines():
        if header := _COMPUTATION.match(line):
            name = header[2]
            lines[name] = []
            entry = name if header[1] else entry
        elif name and line.startswith("  "):
            lines[name].append(line)
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
    size = 0
    for letters, bits, shape in _ARRAY.findall(shapes):
        elements = math.prod(int(length) for length in shape.split(",") if length)
        size += elements * (1 if letters == "pred" else int(bits) // 8)
    return Collective(kind, devices, size * devices if kind == "reduce-scatter" else size)
