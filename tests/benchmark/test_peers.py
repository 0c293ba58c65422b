"""What peers are timed on is the same work: the same networks, in processes that take turns."""

import json
import subprocess
import sys
from pathlib import Path

import peers
import pytest
from peers import FORMS, WORKS, Work, as_table, compare, measure

from resnet_jax.analysis import summary
from resnet_jax.errors import InputError

TINY = WORKS["train_resnet8"]


@pytest.mark.torch
@pytest.mark.parametrize("name", ["cifar_resnet20", pytest.param("resnet50", marks=pytest.mark.slow)])
def test_the_network_in_pytorch_has_the_parameters_and_multiply_adds_of_ours(name):
    import torch
    import torch_peer

    net, size = torch_peer.network(name), 224 if name == "resnet50" else 32
    found = []

    def count(module, _, output):
        found.append(module.weight.numel() * (output.shape[-2:].numel() if output.ndim == 4 else 1))

    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            module.register_forward_hook(count)
    net.eval()(torch.zeros(1, 3, size, size))
    costs = summary(name)
    assert sum(parameter.numel() for parameter in net.parameters()) == costs["parameters"]
    assert sum(found) == costs["multiply_adds"]


@pytest.mark.slow
def test_forms_take_turns_and_one_that_cannot_start_says_why(tmp_path, capfd):
    without = tmp_path / "python"
    without.write_text("#!/bin/sh\necho 'No module named torch' >&2\nexit 1\n")
    without.chmod(0o755)
    compare([f"--torch_python={without}", "--works=train_resnet8,infer_resnet8", "--rounds=2", "--format=json",
             f"--output={tmp_path / 'out' / 'peers.json'}"])  # fmt: skip
    said, noted = capfd.readouterr()
    result = json.loads(said)
    assert json.loads((tmp_path / "out" / "peers.json").read_text()) == result
    assert "No module named torch" in noted
    for name in ("train_resnet8", "infer_resnet8"):
        forms = result["works"][name]
        assert list(forms) == list(FORMS)
        assert "status 1" in forms["torch"]["reason"]
        # Where PyTorch was not measured, the first that was is what the others are compared with.
        assert forms["ours"]["relative_speed"]["median"] == 1
        assert forms["linen"]["step_time"]["n"] == 2
        assert forms["linen"]["images_per_second"] == pytest.approx(8 / forms["linen"]["step_time"]["median"])
    assert "status 1" in as_table(result["works"])


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.parametrize("task", ["train", "infer"])
def test_pytorch_answers_each_line_with_the_seconds_of_a_step(task):
    script = Path(measure.__code__.co_filename).with_name("torch_peer.py")
    work = map(str, Work(task, *TINY[1:]))
    done = subprocess.run(
        [sys.executable, script, *work, "bfloat16", "eager"],
        input="go\ngo\n",
        text=True,
        capture_output=True,
        check=True,
    )
    ready, *seconds = done.stdout.splitlines()
    assert ready.startswith("ready ")
    assert len(seconds) == 2
    assert min(map(float, seconds)) > 0


FAKE = """
import sys
from pathlib import Path
form, log = sys.argv[-1], Path(sys.argv[0]).with_name("log")
print("ready", form, flush=True)
for _ in sys.stdin:
    with log.open("a") as file:
        file.write(form + " ")
    if form == "mortal" and log.read_text().count("mortal") == 2:
        sys.exit(3)
    print({"slow": 2.0, "fast": 1.0, "mortal": 1.0}[form], flush=True)
"""


def test_rounds_alternate_and_a_process_that_ends_costs_its_own_form_alone(monkeypatch, tmp_path):
    (tmp_path / "fake.py").write_text(FAKE)
    monkeypatch.setattr(peers, "HERE", tmp_path)
    monkeypatch.setattr(peers, "FORMS", {form: ("fake.py", form) for form in ("mortal", "slow", "fast")})
    found = measure(TINY, ["mortal", "slow", "fast"], "float32", 2, "")
    assert (tmp_path / "log").read_text() == "mortal slow fast mortal slow fast slow fast "
    assert list(found["mortal"]) == ["reason"]
    assert [found[form]["relative_speed"]["median"] for form in ("slow", "fast")] == [1, 2]


def test_no_peer_at_all_is_an_answer(tmp_path):
    assert list(measure(TINY, ["torch"], "float32", 1, str(tmp_path / "nowhere"))["torch"]) == ["reason"]


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--works=train_resnet9", "--works names train_resnet9, but there are train_resnet20"),
        ("--forms=tensorflow", "--forms names tensorflow, but there are torch"),
        ("--rounds=0", "--rounds is 0, but it must be at least 1"),
    ],
)
def test_what_cannot_be_measured_is_one_line(flag, message):
    with pytest.raises(InputError, match=message):
        compare([flag])
