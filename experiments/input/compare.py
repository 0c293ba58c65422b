"""This project's input against Pillow and tf.data: rounds in turn, on the same images.

    python experiments/input/compare.py FOLDER CACHES --tensorflow=PYTHON --output=experiments/results/input.json

FOLDER holds train/CLASS/*.jpg and val/CLASS/*.jpg, all JPEG. Its caches, raw and jpeg, are written to CACHES once.
PYTHON is that of an environment with tensorflow, for tf_data.py.
"""

import argparse
import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from input_speed import make_loaders

from resnet_jax.benchmark.input import Loader, Round, loader_table, measure
from resnet_jax.data.cache import FORMS, write_cache
from resnet_jax.data.images import open_images
from resnet_jax.distributed.machine import describe_environment

WINDOWS = {"random_resized_crop": "inception", "random_scale": "paper"}


def tf_data(python, folder, crop, seconds, versions):
    """tf.data in a process of its own, which measures a round for each line that it is sent."""
    script = Path(__file__).with_name("tf_data.py")
    command = [python, str(script), str(folder / "train"), f"--window={WINDOWS[crop]}", f"--seconds={seconds}"]
    process = subprocess.Popen([*command, "--on-line"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(_):
        process.stdin.write("\n")
        process.stdin.flush()
        result = json.loads(process.stdout.readline())
        versions["tensorflow"] = result["tensorflow"]
        # Of one second.
        speed = result["images_per_second"]
        return Round(speed, 1.0, speed / result["images_per_cpu_second"])

    return Loader("tf.data", 1, run), process


def main():
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("caches", type=Path)
    parser.add_argument("--tensorflow", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 2])
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0)
    arguments = parser.parse_args()
    files = open_images("folder", arguments.folder)
    sources = {"files": files.train}
    for form in FORMS[::-1]:
        write_cache(files, arguments.caches / form, form=form, log=print)
        sources[f"{form} cache"] = open_images("cache", str(arguments.caches / form)).train
    versions = {
        name: metadata.version(name) for name in ("grain", "numpy", "opencv-python-headless", "pillow", "simplejpeg")
    }
    tables = {}
    for crop in WINDOWS:
        baseline, process = tf_data(arguments.tensorflow, arguments.folder, crop, arguments.seconds, versions)
        loaders = [baseline]
        for source, images in sources.items():
            for loader in make_loaders(images, crop, arguments.batch_size, arguments.workers):
                if loader.name != "Pillow" or source == "files":
                    loaders.append(loader._replace(name=f"{loader.name}, {source}"))
        with process:
            tables[crop] = measure(loaders, arguments.rounds, arguments.seconds)
            process.stdin.close()
        print(f"{crop}\n{loader_table(tables[crop])}\n", flush=True)
    command = (
        "compare.py FOLDER CACHES --tensorflow=PYTHON --output=… "
        f"--batch_size={arguments.batch_size} --rounds={arguments.rounds} --seconds={arguments.seconds:g}"
    )
    keep(arguments.output, command, versions, len(sources["files"]), tables)


def keep(output, command, versions, images, tables):
    """Writes what was measured, with what it takes to measure it again."""
    environment = describe_environment()
    result = {
        "command": f"python experiments/input/{command}",
        "hardware": f"{environment['cpu']}, {environment['cores']} CPU cores",
        "date": environment["date"][:10],
        "versions": {"python": environment["python"], **versions},
        "images": images,
        "windows": tables,
    }
    output.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    sys.exit(main())
