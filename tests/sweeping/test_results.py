"""What a sweep leaves when all of its points are complete."""

import json
import re

from resnet_jax.cli.main import main
from resnet_jax.configs import load
from resnet_jax.runs import config_file

FIELDS = {"model.depth": 8, "train.iterations": 8}


def test_a_sweep_ends_with_a_table_and_its_curves(tmp_path, capsys):
    for seed, error in enumerate((0.25, 0.75)):
        point = tmp_path / f"seed={seed}"
        point.mkdir()
        (point / "config.json").write_text(config_file.write_text(load("digits", {**FIELDS, "seed": seed})))
        (point / "result.json").write_text(json.dumps({"step": 8, "split": "test", "test_error": error}))
        (point / "metrics.jsonl").write_text(json.dumps({"step": 8, "train_error": error, "test_error": error}) + "\n")
    flags = [f"--config.{name}={value}" for name, value in FIELDS.items()]
    command = ["sweep", "--config=digits", *flags, "--axis=seed=0,1", f"--workdir={tmp_path}"]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "After the final iteration\n\n  runs   test error, mean ± std (%)\n" in shown
    assert re.search(r"\n +2 +50.00 ± 35.36\n", shown)
    assert f"curves {tmp_path / 'curves.png'}\n" in shown
    picture = (tmp_path / "curves.png").read_bytes()
    assert picture[:4] == b"\x89PNG"
    (row,) = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert (row["split"], row["mean"]) == ("test", 0.5)
    # The same command finds all complete and draws the same.
    assert main(command) == 0
    assert (tmp_path / "curves.png").read_bytes() == picture
    # No picture is worth a sweep.
    (tmp_path / "curves.png").unlink()
    (tmp_path / "curves.png").mkdir()
    assert main(command) == 0
    assert f"the picture {tmp_path / 'curves.png'} is missing: " in capsys.readouterr().out
