import ast
import subprocess
import sys
from pathlib import Path

import pytest

import resnet_jax

SOURCE = Path(resnet_jax.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))


def module_name(path):
    parts = ("resnet_jax", *path.relative_to(SOURCE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path) for path in FILES}


def imports(path):
    """The modules of ours that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in names}
    return {name for name in found if name.split(".")[0] == "resnet_jax"}


def test_models_import_nothing_else_of_ours():
    for path in SOURCE.glob("models/*.py"):
        others = {name for name in imports(path) if not name.startswith("resnet_jax.models")}
        assert not others, path


def test_nobody_imports_the_command_line():
    for path in FILES:
        assert path.name == "cli.py" or "resnet_jax.cli" not in imports(path), path


def test_imports_run_one_way():
    graph = {module_name(path): imports(path) for path in FILES}

    def reach(name, trail):
        assert name not in trail, f"a circle of imports: {' -> '.join([*trail, name])}"
        # A package's __init__ and the files in it are imported together.
        for other in graph.get(name, ()):
            reach(other, [*trail, name])

    for name in graph:
        reach(name, [])


@pytest.mark.parametrize("below", ["models", "data"])
def test_lower_rooms_do_not_know_higher_ones(below):
    higher = ("training", "evaluation", "build", "checkpoint", "configs", "sweeping", "workdir", "analysis", "cli")
    for path in SOURCE.glob(f"{below}/*.py"):
        for name in imports(path):
            assert name.split(".")[1] not in higher, f"{path} imports {name}"


@pytest.mark.parametrize(
    ("library", "room"),
    [
        ("orbax", "checkpoint.py"),
        ("tensorflow_datasets", "data/prepared.py"),
        ("grain", "data/stream.py"),
        ("simplejpeg", "data/decode.py"),
        ("tensorboardX", "events.py"),
        ("matplotlib", "analysis/plots.py"),
        ("submitit", "sweeping/slurm.py"),
        ("optuna", "sweeping/search.py"),
        ("rich", "terminal.py"),
    ],
)
def test_one_file_knows_one_foreign_thing(library, room):
    users = set()
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] == library for name in names):
                users.add(path.relative_to(SOURCE).as_posix())
    assert users == {room}


def test_no_file_has_grown_beyond_350_lines():
    lengths = {path.relative_to(SOURCE).as_posix(): len(path.read_text().splitlines()) for path in FILES}
    assert {name: lines for name, lines in lengths.items() if lines > 350} == {}


@pytest.mark.parametrize(
    "program",
    [
        "import resnet_jax",
        "from resnet_jax import cli; assert cli.main(['--help']) == 0; assert cli.main(['train', '--help']) == 0",
        "from resnet_jax import arguments; assert arguments.parse_config('digits').seed == 0",
    ],
)
def test_help_and_configs_need_no_jax(program):
    heavy = "[m for m in ('jax', 'flax', 'orbax', 'tensorflow', 'sklearn', 'matplotlib') if m in sys.modules]"
    run = subprocess.run(
        [sys.executable, "-c", f"import sys; {program}; loaded = {heavy}; assert not loaded, loaded"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
