"""What peers are timed on is the same work: the same networks, in processes that take turns."""

import json
import subprocess
import sys
from pathlib import Path

import peers
import pytest
from peers import DEFAULT_FORMS, WORKS, Job, as_table, beside_accelerators, compare, measure

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
        assert list(forms) == DEFAULT_FORMS.split(",")
        assert "status 1" in forms["torch"]["reason"]
        # Where PyTorch was not measured, the first that was is what the others are compared with.
        assert forms["ours"]["relative_speed"]["median"] == 1
        assert forms["linen"]["step_time"]["n"] == 2
        assert forms["linen"]["images_per_second"] == pytest.approx(8 / forms["linen"]["step_time"]["median"])
        assert forms["linen"]["first_round_time"] > 0
        step, least = forms["ours"]["step_time"]["median"], forms["ours"]["roofline"]["least_time"]
        assert forms["ours"]["share_of_roofline"] == pytest.approx(least / step)
    assert result["works"]["train_resnet8"]["ours"]["roofline"]["operations"] > (
        2 * result["works"]["infer_resnet8"]["ours"]["roofline"]["operations"]
    )
    assert "status 1" in as_table(result["works"])


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.parametrize(("task", "form"), [("train", "eager"), ("infer", "eager"), ("train", "graphs")])
def test_pytorch_says_what_it_is_and_answers_each_line_with_the_seconds_of_a_step(task, form):
    script = Path(measure.__code__.co_filename).with_name("torch_peer.py")
    work = map(str, Job(task, *TINY[1:]))
    done = subprocess.run(
        [sys.executable, script, *work, "bfloat16", form],
        input="round\nround\n",
        text=True,
        capture_output=True,
        check=True,
    )
    about, *seconds = map(json.loads, done.stdout.splitlines())
    assert about["platform"] in ("cpu", "gpu")
    assert about.keys() == {"version", "platform", "device"}
    assert len(seconds) == 2
    assert min(seconds) > 0


FAKE = """
import json, sys
from pathlib import Path
form, log = sys.argv[-1], Path(sys.argv[0]).with_name("log")
print(json.dumps({"version": "1", "platform": "gpu" if form == "gpu" else "cpu", "device": form}), flush=True)
for _ in sys.stdin:
    with log.open("a") as file:
        file.write(form + " ")
    if form == "mortal" and log.read_text().count("mortal") == 3 or form == "stillborn":
        sys.exit(3)
    print({"slow": 2.0}.get(form, 1.0), flush=True)
"""


@pytest.fixture
def fakes(monkeypatch, tmp_path):
    """Forms that do nothing; a file says which of them did a round."""
    (tmp_path / "fake.py").write_text(FAKE)
    monkeypatch.setattr(peers, "HERE", tmp_path)
    forms = ("stillborn", "mortal", "slow", "fast", "gpu")
    monkeypatch.setattr(peers, "FORMS", {form: ("fake.py", form) for form in forms})
    return tmp_path / "log"


def test_rounds_alternate_and_a_process_that_ends_costs_its_own_form_alone(fakes):
    found = measure(TINY, ["stillborn", "mortal", "slow", "fast"], "float32", 2, "")
    first = "stillborn mortal slow fast "
    assert fakes.read_text() == first + "mortal slow fast mortal slow fast slow fast "
    assert [list(found[form]) for form in ("stillborn", "mortal")] == [["reason"]] * 2
    assert "status 3" in found["stillborn"]["reason"]
    assert [found[form]["relative_speed"]["median"] for form in ("slow", "fast")] == [1, 2]


def test_what_sees_no_gpu_beside_one_that_does_is_not_measured(fakes):
    found = measure(TINY, ["slow", "gpu"], "float32", 1, "")
    assert fakes.read_text() == "gpu gpu gpu "
    assert "no ratio: version 1 sees no GPU, and gpu runs on gpu" in found["slow"]["reason"]
    assert found["gpu"]["relative_speed"]["median"] == 1
    on_cpu, on_tpu = ({"version": "1", "platform": platform, "device": platform} for platform in ("cpu", "tpu"))
    assert beside_accelerators({"torch": on_cpu, "ours": on_cpu}) == {}
    assert list(beside_accelerators({"torch": on_tpu, "ours": on_cpu})) == ["ours"]


def test_works_for_a_gpu_are_those_of_the_paper():
    found = {name: (job.model, job.batch_size) for name, job in WORKS.items() if name.startswith("gpu_")}
    assert found == {
        f"gpu_{task}_resnet{depth}": (model, batch)
        for task in ("train", "infer")
        for depth, model, batch in ((20, "cifar_resnet20", 128), (110, "cifar_resnet110", 128), (50, "resnet50", 256))
    }


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
