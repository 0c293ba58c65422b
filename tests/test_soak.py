"""The soak in its short form: few lives, of a few seconds each."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "experiments" / "soak" / "soak.py"
KILLS = 2


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_as_if_nothing_had_happened(tmp_path):
    command = [sys.executable, SCRIPT, f"--kills={KILLS}", "--iterations=60"]
    command += [f"--workdir={tmp_path / 'soak'}", f"--output={tmp_path / 'soak.json'}"]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr

    same, other = json.loads((tmp_path / "soak.json").read_text())["soaks"]
    assert same["equal_to_the_bit"]
    assert same["arrays"] > 30
    assert other["largest_relative_difference_of_a_loss"] < 1e-3
    assert other["median_relative_change_of_the_loss_in_a_step"] > 2e-3
    for each in (same, other):
        lives = each["lives"]
        assert sum(-signal.SIGKILL in life["statuses"] for life in lives) == KILLS
        assert sum(life["statuses"] == [75] * len(life["statuses"]) for life in lives) == 1
        assert lives[-1]["statuses"] == [0] * len(lives[-1]["statuses"])
        assert [life["saved"] for life in lives] == sorted(life["saved"] for life in lives)
    assert len({tuple(life["shape"].values()) for life in other["lives"]}) > 2
