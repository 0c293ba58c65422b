"""Given weights against none, on 3 x 25 photographs: the config `finetune`, and `folder` with the same network.

    python experiments/transfer/compare.py DATA_DIR WEIGHTS WORKDIR [--seeds=5] [--iterations=100] --output=FILE.json

Each seed draws photographs of its own (see photographs.py) and trains both for as many iterations of as many images.
From nothing each iteration takes longer, so that as many are more than equal time. Runs that are complete stay.
"""

import argparse
import json
import statistics
from pathlib import Path

from photographs import make_folder

import resnet_jax as rj
from resnet_jax.distributed.machine import describe_environment


def main() -> None:
    """Trains what is not there yet, and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir")
    parser.add_argument("weights", type=Path)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    results: dict[str, list[dict]] = {"finetune": [], "folder": []}
    for seed in range(given.seeds):
        photographs = given.workdir / f"photographs-{seed}"
        if not photographs.exists():
            make_folder(given.data_dir, photographs, seed)
        same = {"seed": seed, "dataset.data_dir": str(photographs), "train.iterations": given.iterations}
        same |= {"train.eval_every": given.iterations, "optimizer.warmup_steps": 20, "stream.num_workers": 0}
        config = rj.configs.load("finetune", same | {"init.weights": str(given.weights)})
        transferred = rj.train(config, given.workdir / f"finetune-{seed}")
        network = json.loads((given.workdir / f"finetune-{seed}" / "config.json").read_text())
        fields = {f"model.{name}": network["model"][name] for name in ("family", "depth", "shortcut")}
        fields |= {f"stream.{name}": network["stream"][name] for name in ("image_size", "resize_size")}
        fields |= {"train.batch_size": config.train.batch_size}
        scratch = rj.train(rj.configs.load("folder", same | fields), given.workdir / f"folder-{seed}")
        for name, run in (("finetune", transferred), ("folder", scratch)):
            results[name].append(run.result)
    environment = describe_environment()
    rows = {}
    for name, found in results.items():
        errors, seconds = ([each[key] for each in found] for key in ("validation_error", "training_seconds"))
        rows[name] = {"validation_errors": errors, "mean": statistics.mean(errors), "std": statistics.stdev(errors)}
        rows[name] |= {"training_seconds": [round(each, 1) for each in seconds]}
        print(f"{name:10} error {rows[name]['mean']:.1%} ± {rows[name]['std']:.1%}, {statistics.mean(seconds):.0f} s")
    described = {
        "command": f"python experiments/transfer/compare.py DATA_DIR {given.weights.name} WORKDIR "
        f"--seeds={given.seeds} --iterations={given.iterations} --output=…",
        "hardware": f"{environment['cpu']}, {environment['cores']} CPU cores, shared with other work",
        "date": environment["date"][:10],
        "versions": {name: environment[name] for name in ("python", "jax", "flax")},
        "photographs": "75 to train on and 30 to validate on, other ones for each seed",
        "seeds": given.seeds,
        "iterations": given.iterations,
        "rows": rows,
    }
    given.output.write_text(json.dumps(described, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
