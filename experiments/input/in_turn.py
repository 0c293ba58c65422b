"""Windows of files and of a JPEG cache against tf.data, each in a process of its own that waits for its turn.

    python experiments/input/in_turn.py FOLDER CACHE --tensorflow=PYTHON --output=experiments/results/input_in_turn.json

FOLDER and PYTHON as in compare.py; CACHE is of the form jpeg, made from FOLDER. On a busy machine a process that has
waited is served better than one that works all the time, as compare.py does between tf.data's rounds: here all wait
alike. The files are in memory, as tf.data has them; `whole` decodes them without the header that ends at the window.
"""

import argparse
import itertools
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
from compare import WINDOWS, keep, tf_data
from input_speed import SCALES, SIZE

from resnet_jax.benchmark.input import Loader, Round, loader_table, measure, one_thread
from resnet_jax.data import decode
from resnet_jax.data.images import open_images
from resnet_jax.data.stream import Cropping

WAYS = ("whole", "files", "jpeg cache")


def serve(way, folder, crop, seconds):
    """Measures a round for each line of standard input."""
    cv2.setNumThreads(1)
    source = open_images("cache" if way == "jpeg cache" else "folder", folder).train
    if way != "jpeg cache":
        source = [source[index] for index in range(len(source))]
    if way == "whole":
        decode._decode_upper = lambda *_: None
    run = one_thread(source, Cropping(crop, SCALES, SIZE))
    run(0.3)
    for _ in itertools.chain([None], sys.stdin):  # once to say that it is ready
        print(json.dumps(run(seconds)), flush=True)


def ours(way, folder, crop, seconds):
    """A loader in a process of its own, and the process."""
    command = [sys.executable, __file__, str(folder), "-", f"--way={way}", f"--crop={crop}", f"--seconds={seconds}"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    process.stdout.readline()

    def run(_):
        process.stdin.write("\n")
        process.stdin.flush()
        return Round(*json.loads(process.stdout.readline()))

    return Loader(way, 1, run), process


def main():
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--tensorflow")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--crop", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        return serve(arguments.way, arguments.folder, arguments.crop, arguments.seconds)
    tables, versions = {}, {"numpy": np.__version__, "opencv": cv2.__version__}
    for crop in WINDOWS:
        pairs = [tf_data(arguments.tensorflow, arguments.folder, crop, arguments.seconds, versions)]
        for way in WAYS:
            folder = arguments.cache if way == "jpeg cache" else arguments.folder
            pairs.append(ours(way, folder, crop, arguments.seconds))
        tables[crop] = measure([loader for loader, _ in pairs], arguments.rounds, arguments.seconds)
        for _, process in pairs:
            process.stdin.close()
            process.wait()
        print(f"{crop}\n{loader_table(tables[crop])}\n", flush=True)
    command = (
        "in_turn.py FOLDER CACHE --tensorflow=PYTHON --output=… "
        f"--rounds={arguments.rounds} --seconds={arguments.seconds:g}"
    )
    keep(arguments.output, command, versions, len(open_images("folder", arguments.folder).train), tables)
    return None


if __name__ == "__main__":
    sys.exit(main())
