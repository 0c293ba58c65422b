"""A library is a guest in somebody's process: it leaves everything there as it was."""

import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

PROGRAM = """
import absl.flags, absl.logging, cv2, gc, importlib, jax, locale, logging, matplotlib, multiprocessing, numpy, os, PIL
import pkgutil, signal, sys, threading, warnings
import PIL.Image, PIL.ImageFile, PIL.PngImagePlugin, orbax.checkpoint, tensorflow_datasets, grain, optax, flax.linen
import tensorboardX, sklearn.datasets, optuna, submitit

sys.unraisablehook = hook = lambda unraisable: None
warnings.filterwarnings("ignore", "only to be there")
gc.set_threshold(123, 4, 5)
signal.signal(signal.SIGTERM, lambda *_: None)
numpy.seterr(over="raise")
absl.logging.set_verbosity(absl.logging.INFO)

def plain(module):
    return {name: value for name, value in vars(module).items() if name.isupper() and isinstance(value, (int, float))}

def settings(logger):
    return logger.level, list(logger.handlers), logger.propagate

def seen():
    numbers = [number for number in signal.valid_signals() if number not in (signal.SIGKILL, signal.SIGSTOP)]
    mask = os.umask(0)
    os.umask(mask)
    return {
        "OpenCV's threads": cv2.getNumThreads(),
        "absl's verbosity": absl.logging.get_verbosity(),
        "absl's handler": absl.logging._absl_handler in logging.root.handlers,
        "flags": absl.flags.FLAGS.is_parsed(),
        "root logger": settings(logging.root),
        "loggers": [settings(logging.getLogger(name)) for name in ("PIL", "jax", "matplotlib")],
        "logger class": logging.getLoggerClass(),
        "hooks": (sys.unraisablehook, sys.excepthook, threading.excepthook, sys.displayhook),
        "warnings": list(warnings.filters),
        "showwarning": warnings.showwarning,
        "environment": dict(os.environ),
        "gc": (gc.get_threshold(), gc.isenabled()),
        "signals": [signal.getsignal(number) for number in numbers],
        "blocked": signal.pthread_sigmask(signal.SIG_BLOCK, []),
        "jax": dict(jax.config.values),
        "numpy": numpy.geterr(),
        "numpy's printing": numpy.get_printoptions(),
        "numpy's random numbers": numpy.random.get_state()[1].tolist(),
        "Pillow": [plain(module) for module in (PIL.Image, PIL.ImageFile, PIL.PngImagePlugin)],
        "Pillow's plugins": (list(PIL.Image.ID) if PIL.Image._initialized == 2 else None),
        "matplotlib": dict(matplotlib.rcParams),
        "torch": "torch" in sys.modules and sys.modules["torch"] is not None,
        "umask": mask,
        "locale": locale.setlocale(locale.LC_ALL),
        "folder": os.getcwd(),
        "start method": multiprocessing.get_start_method(allow_none=True),
        "streams": (sys.stdout, sys.stderr, sys.stdout.errors),
        "path": list(sys.path),
        "recursion": sys.getrecursionlimit(),
        "switch interval": sys.getswitchinterval(),
    }

def compare(when):
    now = seen()
    for name in before:
        assert before[name] == now[name], f"{when}: {name} was {before[name]} and is {now[name]}"

PIL.Image.init()
before = seen()
import resnet_jax
for module in pkgutil.walk_packages(resnet_jax.__path__, "resnet_jax."):
    if not module.name.endswith("sweeping.child"):
        importlib.import_module(module.name)
        compare(f"importing {module.name}")
"""

USE = """
from pathlib import Path
from resnet_jax import configs
from resnet_jax.configs import digits, folder
from resnet_jax.runs.loop import train
from resnet_jax.runs.evaluate import evaluate_runs
from resnet_jax.evaluation.prediction import predict
from resnet_jax.runs.loading import load
from resnet_jax.runs import convert, doctor
from resnet_jax.interop.exporting import export
from resnet_jax.cli.main import main as command

root = Path(ROOT)

def main():
    config = digits.get_config()
    short = {"train.batch_size": 8, "train.iterations": 2, "train.log_every": 1, "train.checkpoint_every": 2}
    config.update_from_flattened_dict({"model.depth": 8, **short})
    train(config, root / "run")
    compare("train")
    evaluate_runs([root / "run"], output=root / "out")
    compare("evaluate")
    for split in ("train", "val"):
        for name in "ab":
            (root / "photos" / split / name).mkdir(parents=True)
            for i in range(4):
                pixels = numpy.full((80, 80, 3), 40 * i, numpy.uint8)
                PIL.Image.fromarray(pixels).save(root / "photos" / split / name / f"{i}.png")
    predict(load(root / "run"), [root / "photos" / "val"])
    compare("predict")
    convert.to_torch(root / "run", root / "weights.safetensors")
    convert.from_torch(root / "weights.safetensors", root / "converted")
    compare("convert")
    export(load(root / "run"), root / "program")
    compare("export")
    doctor.render(doctor.examine(root / "run", config))
    compare("doctor")
    photographs = folder.get_config()
    photographs.update_from_flattened_dict({
        "dataset.data_dir": str(root / "photos"), "model.depth": 18, "eval.batch_size": 8, "stream.num_workers": 1,
        "stream.image_size": 32, "stream.resize_size": 40, "stream.scales": (40, 48), **short,
    })
    train(photographs, root / "photo_run")
    compare("train on photographs with workers")
    assert command(["evaluate", f"--workdir={root / 'run'}"]) == 0
    assert command(["train", "--config=nothing"]) == 2
    compare("the command line in this process")

if __name__ == "__main__":
    main()
    print("as it was")
"""


@pytest.mark.slow
@pytest.mark.parametrize("use", ["", USE], ids=["imported", "used"])
def test_the_process_of_who_uses_this_package_stays_as_it_was(use, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM + use.replace("ROOT", repr(str(tmp_path))))
    run = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
