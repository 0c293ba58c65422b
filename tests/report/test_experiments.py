"""The files of experiments/paper keep one shape, and their frame does what it says."""

import ast
import json
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace

import experiment
import figure7
import imagenet
import jax
import numpy as np
import pytest
import pytorch_twin
import table6
import thousand_layers

import resnet_jax as rj
from resnet_jax.errors import InputError
from resnet_jax.interop.torch_weights import to_torch
from resnet_jax.report import read_results

ROOT = Path(__file__).parent.parent.parent
FILES = [path for path in sorted((ROOT / "experiments/paper").glob("*.py")) if path.stem not in experiment.HELPERS]
ONE = '''"""One claim: it is shown.

The rest.
"""

import experiment
from experiment import Claim, shown


def small(workdir):
    (workdir / "made").touch()
    return [Claim("Two is more than one.", "so", [2.0], shown(2 > 1))]
'''


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_experiment_says_what_it_is_and_has_a_small_form(path):
    tree = ast.parse(path.read_text())
    title, _, rest = (ast.get_docstring(tree) or "").partition("\n")
    assert title.endswith((".", "?")), title
    assert len(rest.split()) > 20, "what runs, what it costs and what to expect"
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert "small" in functions
    assert all(
        [each.arg for each in functions[name].args.args] == ["workdir"] for name in {"small", "full"} & {*functions}
    )
    assert path.read_text().endswith('if __name__ == "__main__":\n    experiment.main(__file__)\n')


def test_the_makefile_runs_what_is_an_experiment():
    (filtered,) = re.findall(r"filter-out (.*?),", (ROOT / "Makefile").read_text())
    assert set(filtered.split()) == experiment.HELPERS


def test_results_say_what_was_run_and_where(tmp_path):
    (tmp_path / "one.py").write_text(ONE)
    for resumed in (False, True):
        experiment.run_experiment(tmp_path / "one.py", "small", tmp_path / "work", tmp_path / "found" / "one.json")
        (found,) = read_results(tmp_path / "found")
        assert (found.name, found.title, found.form) == ("one", "One claim: it is shown.", "small")
        assert found.resumed == resumed
        assert found.command == "python experiments/paper/one.py --form=small"
        assert [claim.state for claim in found.claims] == ["shown"]
    with pytest.raises(InputError, match=r"one.py has no full form: its forms are small"):
        experiment.run_experiment(tmp_path / "one.py", "full", tmp_path / "work", tmp_path / "two.json")


def test_each_form_has_a_file_of_its_own(tmp_path, monkeypatch):
    (tmp_path / "one.py").write_text(ONE + "\n\nshort = full = small\n")
    monkeypatch.setattr(experiment, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    for form in ("full", "short", "small"):
        monkeypatch.setattr("sys.argv", ["one.py", f"--form={form}"])
        with pytest.raises(SystemExit) as ended:
            experiment.main(str(tmp_path / "one.py"))
        assert ended.value.code == 0
    assert {each.form for each in read_results(tmp_path / "experiments")} == {"full", "short", "small"}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--workdir=/proc/nope"], 2, "error: /proc/nope cannot be made: "),
        (["--output=/proc/nope/found.json"], 2, "error: /proc/nope cannot be made: "),
        (["--output=/proc/found.json"], 2, "error: /proc/found.json cannot be written: "),
        (["--output="], 2, "--output is no file"),
        (["--form=full"], 2, "one.py has no full form"),
    ],
)
def test_what_cannot_be_is_said_before_anything_runs(tmp_path, monkeypatch, capsys, arguments, code, said):
    (tmp_path / "one.py").write_text(ONE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["one.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        experiment.main(str(tmp_path / "one.py"))
    assert ended.value.code == code
    assert said in capsys.readouterr().err
    assert not list(tmp_path.rglob("made"))


def test_an_experiment_that_was_stopped_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    (tmp_path / "one.py").write_text(ONE.replace("    return", "    raise KeyboardInterrupt\n    return"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["one.py", f"--output={tmp_path / 'found.json'}"])
    with pytest.raises(SystemExit) as ended:
        experiment.main(str(tmp_path / "one.py"))
    assert ended.value.code == 130
    assert capsys.readouterr().err == "interrupted: run the same command again to go on\n"
    assert not (tmp_path / "found.json").exists()


def test_the_claims_of_a_table_name_commands_that_exist():
    claims = imagenet.table_claims(3, ("plain-34", "ResNet-34 C", "ResNet-50"), "ten_crop")
    assert [(claim.paper, claim.state) for claim in claims] == [
        *((28.54, "not run"), (10.02, "not run")),
        *((24.19, "not run"), (7.40, "not run"), (22.85, "not run"), (6.71, "not run")),
    ]
    for claim in claims:
        fields = dict(re.findall(r"--config\.(\S+)=(\S+)", claim.command))
        assert rj.configs.load("imagenet", fields).model.family == ("plain" if "plain" in claim.statement else "resnet")
    assert "--config.model.shortcut=C" in claims[2].command
    assert "--config.model.shortcut=B" in claims[4].command


def test_a_row_of_table_6_is_shown_where_it_is_near():
    near, far = table6.claim(20, [8.6, 8.9, 8.7]), table6.claim(20, [9.6, 9.7, 9.65])
    assert (near.state, far.state, table6.claim(20, []).state) == ("shown", "not shown", "not run")
    assert table6.claim(110, []).paper == 6.61  # a mean beside a mean


def test_results_say_how_long_their_networks_trained(tmp_path, monkeypatch):
    """Each network once, also where it is used twice; and whether one was there before."""

    def trained(config, folder):
        folder.mkdir(exist_ok=True)
        (folder / "result.json").touch()
        return SimpleNamespace(result={"training_seconds": {"a": 40.0, "b": 2.5}[folder.name]})

    monkeypatch.setattr(rj, "train", trained)
    uses = "    for name in 'aba':\n        experiment.train(None, workdir.parent / name)\n    return"
    (tmp_path / "one.py").write_text(ONE.replace("    return", uses))
    for before in (False, True):
        found = experiment.run_experiment(tmp_path / "one.py", "small", tmp_path / "work", tmp_path / "one.json")
        assert (found.training_seconds, found.resumed) == (42.5, before)
        (tmp_path / "work" / "made").unlink()


def test_a_commit_has_a_mark_where_files_are_not_in_it(tmp_path, monkeypatch):
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "One"]):
        subprocess.run([*git, *command], check=True)
    monkeypatch.setattr(experiment, "ROOT", tmp_path)
    clean = experiment._commit()
    (tmp_path / "new.py").touch()
    assert (clean[-1] != "+", experiment._commit()) == (True, f"{clean}+")


def test_jpeg_copies_are_named_so(monkeypatch):
    monkeypatch.setattr(rj.data, "load", lambda name, folder: None)
    for first, name in ((b"\x89PNG", "CIFAR-10"), (b"\xff\xd8\xff", "CIFAR-10 as JPEG copies")):
        opened = SimpleNamespace(splits={"test": [{"image": first}]})
        monkeypatch.setattr(experiment, "open_records", lambda *given, opened=opened: opened)
        assert experiment.cifar10_data()[1] == name


def test_claims_that_were_not_run_name_a_command_alone():
    """Each that results hold; a command is no prose."""
    for results in read_results(ROOT / "experiments/results/paper"):
        for claim in results.claims:
            assert claim.command or claim.state != "not run", claim.statement
            assert not re.search(r"[():]", claim.command), claim.command


def test_what_short_runs_cannot_tell_is_not_run():
    found = {"plain-20": [[1.2]], "ResNet-20": [[1.0]], "ResNet-56": [[0.9]]}
    for trained, states in ((False, ["not run", "shown"]), (True, ["shown", "shown"])):
        claims = figure7.claims(found, "digits", "short", trained=trained)
        assert [claim.state for claim in claims] == states
        assert bool(claims[0].ours) == trained


def test_a_plain_twin_fails_only_where_the_residual_network_trains(monkeypatch, tmp_path):
    for last, states in ((2.3, ["not shown", "not shown", "not run"]), (1.0, ["shown", "shown", "not run"])):
        lines = {"A": [last] * thousand_layers.STEPS, None: [2.3]}
        monkeypatch.setattr(thousand_layers, "losses", lines.get)
        assert [claim.state for claim in thousand_layers.small(tmp_path)] == states


@pytest.mark.torch
def test_the_twin_is_the_same_network():
    import torch

    model = rj.create("cifar_resnet20")
    variables = rj.models.init(model, (32, 32, 3), jax.random.key(0))
    images = np.random.default_rng(0).normal(size=(4, 32, 32, 3)).astype(np.float32)
    ours = np.asarray(model.apply(variables, images, train=False))
    twin = pytorch_twin.network(3)

    def name(path):
        path = re.sub(r"layer(\d).(\d)", lambda at: str(3 * int(at[1]) + int(at[2])), path)
        return re.sub(r"^(conv1|bn1|linear)", lambda at: {"conv1": "0", "bn1": "1", "linear": "14"}[at[1]], path)

    tensors = to_torch(variables, layout="akamaster")
    twin.load_state_dict({name(each): torch.from_numpy(np.array(value)) for each, value in tensors.items()})
    theirs = twin.eval()(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).detach().numpy()
    np.testing.assert_allclose(theirs, ours, rtol=1e-3, atol=1e-3 * np.abs(ours).max())


@pytest.mark.torch
def test_the_twin_trains_on_windows_of_its_images(tmp_path):
    """On digits of one brightness for each class, which a few iterations tell apart; and is there the next time."""
    labels = np.arange(64, dtype=np.int32) % 2
    split = rj.data.Split(np.broadcast_to(np.uint8(200 * labels)[:, None, None, None], (64, 8, 8, 1)).copy(), labels)
    data = rj.data.Dataset(split, None, split, ("dark", "bright"))
    recipe = pytorch_twin.Recipe(20, 16, 0.01, 1, False)
    assert pytorch_twin.train(data, recipe, 0, tmp_path / "a" / "0.txt") == 0
    (tmp_path / "a" / "0.txt").write_text("12.5")
    assert pytorch_twin.train(data, recipe, 0, tmp_path / "a" / "0.txt") == 12.5


@pytest.mark.slow
def test_the_example_of_the_guide_trains_and_is_resumed(tmp_path):
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "paper.md").read_text(), re.DOTALL)
    (tmp_path / "mine.py").write_text(example.replace('"cifar_resnet", 20', '"cifar_resnet", 8, iterations=2'))
    for _ in range(2):
        found = experiment.run_experiment(tmp_path / "mine.py", "small", tmp_path / "work", tmp_path / "mine.json")
        assert found.claims[0].state == "not shown"
    (folder,) = (tmp_path / "digits").iterdir()
    result = json.loads((folder / "result.json").read_text())
    assert found.claims[0].ours == [100 * result["test_error"]]
    assert result["step"] == 2
