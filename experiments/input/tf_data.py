"""Images/s of `tf.data` with `decode_and_crop_jpeg`: the baseline that `compare.py` sets this project's input against.

Runs in an environment that has tensorflow and nothing else of this project; tensorflow is not a dependency of it.
One thread, one process: pin it to a core (`taskset -c 1`) and the figure is images/s/core.

    taskset -c 1 python tf_data.py FOLDER --seconds 5

prints one line of JSON for each augmentation: `inception` is a window of 8 to 100% of the area with an aspect of 3/4 to
4/3, `paper` the random 224 x 224 window of He et al. in the image scaled to a shorter side of 256 to 480. Either
way a window arrives as 224 x 224 x 3 of uint8.

With --on-line it measures one round for each line it reads from standard input, so that another process can take turns
with it on the same core.
"""

import argparse
import itertools
import json
import os
import pathlib
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import tensorflow as tf

SIZE = 224


def inception_window(height, width):
    """(top, left, height, width) of 8 to 100% of the area."""
    begin, size, _ = tf.image.sample_distorted_bounding_box(
        tf.stack([height, width, 3]),
        tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
        min_object_covered=0.0,
        aspect_ratio_range=(3 / 4, 4 / 3),
        area_range=(0.08, 1.0),
        max_attempts=10,
        use_image_if_no_bounding_boxes=True,
    )
    return tf.stack([begin[0], begin[1], size[0], size[1]])


def paper_window(height, width):
    """(top, left, side, side): 224 pixels at a shorter side drawn from 256 to 480, in pixels of the source."""
    shorter = tf.random.uniform([], 256, 481, dtype=tf.int32)
    side = tf.cast(tf.round(SIZE * tf.minimum(height, width) / shorter), tf.int32)
    top = tf.random.uniform([], 0, height - side + 1, dtype=tf.int32)
    left = tf.random.uniform([], 0, width - side + 1, dtype=tf.int32)
    return tf.stack([top, left, side, side])


WINDOWS = {"inception": inception_window, "paper": paper_window}


def dataset(images, window, method, fast_dct):
    """Batches of 50 windows, without end."""

    def decode(data):
        shape = tf.io.extract_jpeg_shape(data)
        image = tf.image.decode_and_crop_jpeg(
            data, window(shape[0], shape[1]), channels=3, dct_method="INTEGER_FAST" if fast_dct else ""
        )
        image = tf.image.resize(image, [SIZE, SIZE], method)  # no antialiasing, as in the usual pipelines
        return tf.saturate_cast(image + 0.5, tf.uint8)

    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    options.threading.max_intra_op_parallelism = 1
    options.autotune.enabled = False
    return tf.data.Dataset.from_tensor_slices(images).repeat().map(decode).batch(50).with_options(options)


def images_per_second(batches, seconds):
    """Of the next batches, for that long: by the clock, and by the processor time of this process."""
    images, started, used = 0, time.perf_counter(), time.process_time()
    while (elapsed := time.perf_counter() - started) < seconds:
        images += next(batches).shape[0]
    return images / elapsed, images / (time.process_time() - used)


def main():
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path, help="images: its .jpg, .jpeg and .JPEG, at any depth")
    parser.add_argument("--window", choices=WINDOWS, action="append", help="one or more; both where left out")
    parser.add_argument("--method", choices=("bilinear", "bicubic"), default="bilinear")
    parser.add_argument("--fast-dct", action="store_true", help="the less exact inverse DCT, INTEGER_FAST")
    parser.add_argument("--seconds", type=float, default=5.0, help="of measuring, for each window and round")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--on-line", action="store_true", help="a round for each line of standard input")
    arguments = parser.parse_args()

    files = sorted(f for f in arguments.folder.rglob("*") if f.suffix.lower() in (".jpg", ".jpeg"))
    if not files:
        parser.error(f"no .jpg files under {arguments.folder}")
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    images = [f.read_bytes() for f in files]

    streams = {}
    for name in arguments.window or WINDOWS:
        streams[name] = iter(dataset(images, WINDOWS[name], arguments.method, arguments.fast_dct))
        next(streams[name])  # tracing and the first batch, which are not measured

    for _ in sys.stdin if arguments.on_line else itertools.repeat(None, arguments.rounds):
        for name, batches in streams.items():
            speed, cpu_speed = images_per_second(batches, arguments.seconds)
            result = {
                "pipeline": "tf.data",
                "window": name,
                "method": arguments.method,
                "fast_dct": arguments.fast_dct,
                "images": len(images),
                "images_per_second": round(speed, 1),
                "images_per_cpu_second": round(cpu_speed, 1),
                "tensorflow": tf.__version__,
            }
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
