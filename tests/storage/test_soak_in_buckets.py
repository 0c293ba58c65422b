"""The soak in its short form, with the runs that are killed in a bucket: other processes and devices in each life."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from resnet_jax.files import expanded, sizes

SCRIPT = Path(__file__).parents[2] / "experiments" / "soak" / "soak.py"


@pytest.mark.slow
@pytest.mark.parametrize("server", ["gs"], indirect=True)  # minutes each; test_runs_in_buckets.py has both
def test_runs_in_a_bucket_that_are_killed_end_as_those_on_a_disk(server, place, tmp_path):
    command = [sys.executable, SCRIPT, "--kills=1", "--iterations=160", f"--bucket={place}"]
    command += [f"--workdir={tmp_path / 'soak'}", f"--output={tmp_path / 'soak.json'}"]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
    same, other = json.loads((tmp_path / "soak.json").read_text())["soaks"]
    assert same["equal_to_the_bit"]
    assert other["largest_relative_difference_of_a_loss"] < 1e-3
    for each in (same, other):
        ends = [status for life in each["lives"] for status in life["statuses"]]
        assert -signal.SIGKILL in ends
        assert 75 in ends
        assert each["lives"][-1]["end"] == "complete"
    assert len({life["shape"]["processes"] for life in other["lives"]}) > 1
    # Which several processes have in their workdir.
    programs = expanded(place, remote=True) / "folder-soak" / "compilation_cache"
    assert any(name.endswith("-cache") for name in sizes(programs))
