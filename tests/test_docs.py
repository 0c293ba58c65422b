"""README and the pages of docs/: each shell line is run, or parsed where it cannot be; links lead somewhere."""

import functools
import inspect
import json
import re
import shlex
import shutil
import statistics
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import resnet_jax as rj
from resnet_jax.cli.arguments import command
from resnet_jax.cli.commands import COMMANDS
from resnet_jax.cli.main import main
from resnet_jax.configs.fields import CHANGES
from resnet_jax.interop.files import write_tensors

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "experiments" / "README.md"]
PAGES += sorted((ROOT / "docs").glob("*.md"))

SHORT = "--config.train.iterations=2 --config.train.log_every=1 --config.mesh.data=1"
# The recipe as it is, but on digits, with 8 layers and for two iterations.
ON_DIGITS = f"{SHORT} --config.dataset.name=digits --config.model.depth=8 --config.dataset.pad=1"
TINY = (
    "--config.model.depth=18 --config.model.bn_group_size=none --config.stream.image_size=32 "
    "--config.stream.resize_size=40 --config.stream.scales=40,48 --config.train.batch_size=4 "
    f"--config.eval.batch_size=4 --config.optimizer.boundaries=0.5 {SHORT}"
)
TUNED = f"{SHORT} --config.stream.image_size=32 --config.stream.resize_size=40 --config.train.batch_size=4"
ON_PHOTOS = f"{TINY} --config.dataset.name=folder --config.dataset.data_dir=photos --config.stream.mean_images=4"
SMALL = "--model=cifar_resnet8 --image_size=8 --batch_size=8 --rounds=1"

# How each line is run, in this order: what is added to it, where its recipe is too long, and what of it is replaced.
RUN = {
    "resnet-jax train --config=digits --workdir=runs/digits": (f"--config.model.depth=8 {SHORT}", {}),
    "resnet-jax evaluate --workdir=runs/digits": ("", {}),
    "JAX_NUM_CPU_DEVICES=8 resnet-jax train --config=digits --workdir=runs/digits-8-devices": (
        "--config.model.depth=8 --config.train.iterations=2",
        {},
    ),
    "resnet-jax train --config=cifar10 --config.model.depth=56 --config.model.shortcut=A --workdir=runs/cifar10-56": (
        ON_DIGITS,
        {},
    ),
    "resnet-jax train --config=cifar10:plain --config.model.depth=56 --workdir=runs/cifar10-plain56": (ON_DIGITS, {}),
    "resnet-jax evaluate --workdir=runs/cifar10-56": ("", {}),
    "resnet-jax predict --workdir=runs/cifar10-56 photo.jpg": ("", {}),
    "resnet-jax sweep --config=cifar10 --axis model.depth=20,32,44 --axis seed=0,1,2 --workdir=runs/cifar10-depths": (
        ON_DIGITS.replace("--config.model.depth=8 ", ""),
        {"20,32,44": "8", "0,1,2": "0"},
    ),
    "resnet-jax runs runs/cifar10-depths --output=depths.png": ("", {}),
    "resnet-jax sweep --config=digits --config.dataset.validation_images=200 --searcher=optuna --trials=20 "
    "--axis optimizer.learning_rate=0.01..1:log --workdir=runs/rates": (
        f"--config.model.depth=8 {SHORT}",
        {"trials=20": "trials=1"},
    ),
    "resnet-jax train --config=folder --config.dataset.data_dir=photos --workdir=runs/scratch": (TINY, {}),
    "resnet-jax train --config=finetune --config.init.weights=resnet18-f37072fd.pth --config.dataset.data_dir=photos "
    "--workdir=runs/mine": (TUNED, {}),
    "resnet-jax evaluate --workdir=runs/mine": ("", {}),
    "resnet-jax predict --workdir=runs/mine new_photos/": ("", {}),
    "resnet-jax features --weights=resnet18-f37072fd.pth --data_dir=photos --output=features.npz --workdir=runs/head": (
        "",
        {"resnet18-f37072fd.pth": "runs/mine"},
    ),
    "resnet-jax predict --workdir=runs/head new_photos/": ("", {}),
    "resnet-jax train --config=finetune --config.init.weights=runs/mine --config.init.freeze=stage2 "
    "--config.optimizer.rate_factors=1,1,1,0.1,0.1,1 --config.dataset.data_dir=photos --workdir=runs/more": (TUNED, {}),
    "resnet-jax train --config=imagenet --config.model.depth=50 --workdir=runs/resnet50": (ON_PHOTOS, {}),
    "resnet-jax evaluate --workdir=runs/resnet50 --protocol=ten_crop": ("", {}),
    "resnet-jax evaluate --workdir=runs/resnet50,runs/resnet152 --protocol=dense --scales=224,256,384,480,640": (
        "",
        {"runs/resnet152": "runs/scratch", "224,256,384,480,640": "32,40"},
    ),
    "resnet-jax prepare cache --dataset=imagenet2012 --data_dir=DIR --output=CACHE --form=jpeg": (
        "--resize_size=40",
        {"imagenet2012": "folder", "DIR": "photos"},
    ),
    "resnet-jax train --config=imagenet --config.dataset.name=cache --config.dataset.data_dir=CACHE "
    "--workdir=runs/cached": (f"{TINY} --config.stream.mean_images=4", {}),
    "resnet-jax convert resnet50-11ad3fa6.pth runs/torch50": ("", {}),
    "resnet-jax convert model.safetensors runs/mine --model=resnet50 --mean=0.5 --std=0.5 --image_size=288 "
    "--resize=303 --interpolation=bicubic": ("", {"runs/mine": "runs/stated"}),
    "resnet-jax convert runs/resnet50 resnet50.safetensors": ("", {}),
    "resnet-jax export --workdir=runs/resnet50 --output=resnet50.stablehlo": ("", {}),
    "resnet-jax convert resnet20-12fca82f.th runs/torch20": ("", {}),
    "resnet-jax report experiments/results/paper --output=report.html": (
        "",
        {"experiments/results/paper": str(ROOT / "experiments" / "results" / "paper")},
    ),
    "resnet-jax summary --model=vgg16": ("", {}),
    "resnet-jax train --config=digits --config.model.family=cifar_highway --config.model.gate_bias=-4 "
    "--workdir=runs/highway": (f"--config.model.depth=8 {SHORT}", {}),
    "resnet-jax benchmark train --model=resnet50 --batch_size=256 --dtype=bfloat16": (f"{SMALL} --steps=1", {}),
    "resnet-jax benchmark eval --model=resnet50 --batch_size=256 --dtype=bfloat16": (f"{SMALL} --steps=1", {}),
    "resnet-jax benchmark input --dataset=imagenet2012 --model=resnet50 --dtype=bfloat16": (
        f"{SMALL} --data_dir=photos --seconds=0.01",
        {"imagenet2012": "folder"},
    ),
    "resnet-jax benchmark compile --models=cifar_resnet20,cifar_resnet110,cifar_resnet1202": (
        "--models=cifar_resnet8 --image_size=8 --batch_size=8 --rounds=1",
        {},
    ),
    "resnet-jax benchmark memory --model=resnet50 --batch_sizes=32,64,128 --dtype=bfloat16": (
        "--model=cifar_resnet8 --image_size=8",
        {"32,64,128": "8,16"},
    ),
}
# What cannot run here, and why; its flags and fields exist.
PARSED = {
    "resnet-jax prepare --dataset=cifar10": "downloads",
    "resnet-jax prepare --dataset=imagenet2012": "wants the archives of ImageNet, and TensorFlow",
    "resnet-jax prepare stage gs://bucket/photos --to=/scratch/photos": (
        "reads a bucket; storage/test_staging_from_buckets.py has one"
    ),
    "resnet-jax evaluate --workdir=runs/torch20": "reads CIFAR-10; interop/test_foreign_weights.py does so",
    "resnet-jax evaluate --workdir=runs/torch50": "reads ImageNet",
    "srun resnet-jax train --config=imagenet_90ep --workdir=runs/resnet50-90ep --distributed=slurm": "wants SLURM",
    "resnet-jax sweep --config=cifar10 --axis seed=0,1,2 --workdir=runs/seeds --launcher=slurm "
    "--slurm partition=gpu,time=600": "wants SLURM; sweeping/test_slurm.py has a stand-in",
    "resnet-jax train --config=imagenet_90ep --config.dataset.data_dir=/data --workdir=/shared/runs/resnet50 "
    "--distributed=node1:9876 --num_processes=4 --process_id=3": "wants four hosts; see runs/test_processes.py",
}
# Lines of other programs: the extras and targets that they name exist.
OTHERS = ("make ", "python -m pip install ", "pip install ", "tensorboard ", "jupyter ")


def shell_lines(path):
    """The lines of a page's shell blocks, without comments, each of them whole."""
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", path.read_text(), re.DOTALL)).replace("\\\n", " ")
    return [shlex.join(words) for line in blocks.splitlines() if (words := shlex.split(line, comments=True))]


def named(lines):
    """The same lines as the shell reads them, so that quotes and spaces make no difference."""
    return {shlex.join(shlex.split(line)): value for line, value in lines.items()}


ALL = {line: path for path in reversed(PAGES) for line in shell_lines(path)}


def test_every_line_is_run_or_says_why_not():
    ours = {line for line in ALL if "resnet-jax" in line}
    assert ours == set(named(RUN)) | set(named(PARSED))
    assert all(line.startswith(OTHERS) for line in ALL.keys() - ours)


def arguments_of(line):
    """The name of the command of a line and its arguments."""
    words = shlex.split(line)
    words = words[words.index("resnet-jax") + 1 :]
    name = next(name for name in (" ".join(words[:2]), words[0]) if name in COMMANDS)
    return name, words[len(name.split()) :]


@pytest.mark.parametrize("line", [*RUN, *PARSED])
def test_flags_and_fields_exist(line):
    name, arguments = arguments_of(line)
    given = {}
    function = inspect.unwrap(COMMANDS[name])
    command(functools.wraps(function)(lambda *rest, **flags: given.update(flags)))(arguments)
    if given.get("config"):
        rj.configs.load(*given["config"])


def test_targets_and_extras_exist():
    targets = (ROOT / "Makefile").read_text()
    extras = (ROOT / "setup.cfg").read_text().partition("[options.extras_require]")[2]
    for path in PAGES:
        for target in re.findall(r"(?:`|^)make\s([a-z-]+)", path.read_text(), re.MULTILINE):
            assert re.search(rf"^{target}:", targets, re.MULTILINE), target
        for extra in re.findall(r"\.\[(\w+)\]", path.read_text()):
            assert re.search(rf"^{extra} =", extras, re.MULTILINE), extra


@pytest.fixture
def sandbox(tmp_path, monkeypatch):
    """A working directory with the photographs and the files of weights that the pages speak of."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 4)):
        for name, light in (("cat", 200), ("dog", 0)):
            for i in range(count):
                path = Path("photos", split, name, f"{i}.jpg")
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(light, light + 56, (48, 56, 3), np.uint8)).save(path)
    shutil.copytree("photos/val/cat", "new_photos")
    Image.fromarray(rng.integers(0, 17, (8, 8), np.uint8)).save("photo.jpg")
    key = jax.random.key(0)
    for name, file in (
        ("resnet50", "resnet50-11ad3fa6.pth"),
        ("resnet50", "model.safetensors"),
        ("resnet18", "resnet18-f37072fd.pth"),
        ("cifar_resnet20", "resnet20-12fca82f.th"),
    ):
        like_torch = {"bottleneck_stride": "3x3", "stem_pool_padding": "torch", "shortcut_padding": "both"}
        model = rj.create(name, **like_torch)
        variables = rj.models.init(model, (32, 32, 3), key)
        write_tensors(file, rj.interop.to_torch(variables))
    return tmp_path


@pytest.mark.slow
@pytest.mark.torch
def test_lines_run(sandbox, capsys):
    for line, (more, changes) in RUN.items():
        for old, new in changes.items():
            assert old in line
            line = line.replace(old, new)
        name, arguments = arguments_of(line)
        status = main([*name.split(), *arguments, *more.split()])
        printed = capsys.readouterr()
        assert status == 0, f"{line}\n{printed.out[-1000:]}{printed.err[-1000:]}"
    for path in ("runs/digits/curves.png", "runs/cifar10-56/result.json", "resnet50.stablehlo", "depths.png"):
        assert Path(path).exists(), path


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        file, _, _ = link.partition("#")
        if "://" in link or not file:
            continue
        if file.startswith("generated/"):
            # Made by the build: the pages of docs/generate.py, and the notebooks.
            notebook = ROOT / file.removeprefix("generated/")
            assert notebook.with_suffix(".ipynb").exists() or file in (
                "generated/configs.md",
                "generated/commands.md",
                "generated/api/index.md",
                "generated/claims.md",
            ), link
            if path.name in ("index.md", "python.md"):  # which are read before the build too
                assert "`make docs` makes the pages below `generated/`" in (ROOT / "docs" / "index.md").read_text()
        else:
            assert (path.parent / file).exists(), link


def test_every_page_is_in_the_table_of_contents():
    trees = re.findall(r"```{toctree}\n(.*?)```", (ROOT / "docs" / "index.md").read_text(), re.DOTALL)
    listed = {line for tree in trees for line in tree.splitlines() if line and not line.startswith((":", "generated/"))}
    assert listed == {path.stem for path in (ROOT / "docs").glob("*.md")} - {"index"}


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200


def test_renamed_fields_are_in_the_changes():
    changes = (ROOT / "CHANGELOG.md").read_text()
    for version, change in CHANGES.items():
        for old, new in change.renamed.items():
            assert f"| {version} | `{old}` | `{new}` |" in changes


def test_the_tables_have_the_figures_of_the_results():
    digits = json.loads((ROOT / "experiments/results/digits.json").read_text())
    errors = [round(100 * error, 6) for error in digits["test_errors"]]
    shown = f"{statistics.mean(errors):.2f} ± {statistics.stdev(errors):.2f} ({len(errors)})"
    given = json.loads((ROOT / "experiments/results/cifar10_given_weights.json").read_text())["rows"]
    for page in ("README.md", "docs/results.md"):
        text = (ROOT / page).read_text()
        assert shown in text
        for row in given:
            assert row["test_error"] == row["pytorch_test_error"]
            assert f"| {100 * row['test_error']:.2f}" in text
    transfer = json.loads((ROOT / "experiments/results/transfer.json").read_text())["rows"]
    for row in transfer.values():
        shown = f"{100 * row['mean']:.1f} ± {100 * row['std']:.1f}"
        for page in ("README.md", "docs/photographs.md"):
            assert shown in (ROOT / page).read_text()
