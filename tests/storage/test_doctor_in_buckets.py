"""What `resnet-jax doctor` finds of workdirs that lie in a bucket."""

import json
import re

import fsspec
import pytest

from resnet_jax.cli.main import main
from resnet_jax.runs import doctor, storage_checks
from resnet_jax.storage import objects

# Gcsfs hands large objects to aiohttp in one piece, which would rather have a file.
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _nothing_is_left(place):
    yield
    assert fsspec.filesystem(place[:2], use_listings_cache=False).find(place) == []


def workdir(place):
    """The finding about it."""
    (found,) = [each for each in doctor.examine(place)["findings"] if each["check"] == "workdir"]
    return found


def latency(finding):
    """In seconds."""
    return (
        float(re.search(r"a small file is written and read in ([\d,.]+) ms", finding["says"])[1].replace(",", "")) / 1e3
    )


def test_it_is_measured(place, capsys):
    assert main(["doctor", "--config=digits", f"--workdir={place}", "--format=json"]) == 0
    (found,) = [each for each in json.loads(capsys.readouterr().out)["findings"] if each["check"] == "workdir"]
    assert re.fullmatch(
        rf"every process can write in {place}; a small file is written and read in [\d,.]+ ms, "
        r"(0.5|4|32) MiB are written at [\d,.]+ MB/s and read at [\d,.]+; "
        r"a checkpoint of 2.1\d MB takes at least [\d.]+ s",
        found["says"],
    )


def test_a_server_that_answers_late_is_slow(server, place):
    server.delay = 0.3
    found = workdir(place)
    assert latency(found) >= 2 * server.delay  # one request to write, another one to read
    assert found["grade"] == "attention"
    assert found["advice"] == "use a faster workdir, or save seldom: config.train.checkpoint_every"


def test_a_server_without_preconditions_cannot_hold_a_lock(server, place, capsys):
    server.without_preconditions = True
    assert main(["doctor", f"--workdir={place}"]) == 2
    error = capsys.readouterr().err
    assert f"{place} cannot be locked: its server takes no notice of " in error
    assert {"gs": "ifGenerationMatch=0", "s3": "If-None-Match: *"}[server.scheme] in error
    assert error.count("\n") == 1


def test_a_server_that_refuses_in_silence_cannot_hold_a_lock(place, monkeypatch):
    write = objects.StoredPath.write_bytes
    monkeypatch.setattr(
        objects.StoredPath, "write_bytes", lambda self, data, *, new=False: None if new else write(self, data)
    )
    found = workdir(place)
    assert found["grade"] == "impossible"
    assert "takes no notice of " in found["says"]


def test_a_server_that_lists_late_cannot_hold_a_lock(place, monkeypatch):
    def iterdir(self):
        raise FileNotFoundError(str(self))  # as the clients do where they are told of nothing

    monkeypatch.setattr(objects.StoredPath, "iterdir", iterdir)
    found = workdir(place)
    assert found["grade"] == "impossible"
    assert "does not list what was just written" in found["says"]


def test_what_was_written_before_an_error_is_removed(server, place):
    written = []

    def full(method, path):
        if method not in ("PUT", "POST"):
            return None
        written.append(path)
        return 403 if len(written) > 5 else None

    server.fault = full
    found = workdir(place)
    assert len(written) > 5
    assert found["grade"] == "impossible"
    assert "must not be used with these credentials" in found["says"]


def test_a_server_that_fails_for_a_moment_is_no_fault(server, place, monkeypatch):
    monkeypatch.setattr(storage_checks, "SLOW_FILE", 60.0)
    server.fail_for(3)
    assert workdir(place)["grade"] == "ok"
