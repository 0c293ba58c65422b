import ast
import configparser
import importlib
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import resnet_jax

ROOT = Path(__file__).parent.parent
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


# The rooms from the ground up: each knows those before it, and no other.
ROOMS = (
    *(
        "errors",
        "storage",
        "files",
        "rng",
        "distributed",
        "models",
        "data",
        "training",
        "evaluation",
        "analysis",
        "interop",
    ),
    *("configs", "runs", "sweeping", "benchmark", "report", "cli"),
)


PACKAGES = [resnet_jax, *(getattr(resnet_jax, name) for name in resnet_jax.__all__ if name in ROOMS[4:])]


def room_of(name):
    return name.split(".")[1]


def test_no_import_runs_up():
    for path in FILES:
        if path == SOURCE / "__init__.py":
            continue
        own = room_of(module_name(path))
        for name in imports(path) - {"resnet_jax"}:
            assert ROOMS.index(room_of(name)) <= ROOMS.index(own), f"{path} imports {name}"


def test_models_import_nothing_else_of_ours():
    for path in SOURCE.glob("models/*.py"):
        others = {name for name in imports(path) if room_of(name) != "models"}
        assert not others, path


def test_the_house_is_small_enough_to_see():
    loose = [path.name for path in SOURCE.glob("*.py")]
    assert len(loose) <= 4, loose
    assert len(ROOMS) <= 20
    assert {path.parent.name for path in SOURCE.glob("*/__init__.py")} <= set(ROOMS)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_the_names_that_a_room_exports_are_there(package):
    """And each means one thing: a file that is called like a name would hide it."""
    path = Path(package.__file__)
    assert package.__doc__
    for name in package.__all__:
        assert hasattr(package, name), name
        assert name in ROOMS or not (path.parent / f"{name}.py").exists(), name


@pytest.mark.parametrize("name", ["errors", "files", "rng"])
def test_a_room_of_one_file_shows_what_it_defines_and_no_imports(name):
    room = importlib.import_module(f"resnet_jax.{name}")
    tree = ast.parse(Path(room.__file__).read_text()).body
    defined = [node.name for node in tree if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    shown = [each for each in dir(room) if not each.isupper()]
    assert shown == sorted(each for each in defined if not each.startswith("_"))


def test_imports_run_one_way():
    graph = {module_name(path): imports(path) - {"resnet_jax"} for path in FILES}

    def reach(name, trail):
        assert name not in trail, f"a circle of imports: {' -> '.join([*trail, name])}"
        # A package's __init__ and the files in it are imported together.
        for other in graph.get(name, ()):
            reach(other, [*trail, name])

    for name in graph:
        reach(name, [])


LIBRARIES = (
    *("orbax", "tensorflow_datasets", "grain", "simplejpeg", "tensorboardX", "matplotlib", "submitit", "optuna"),
    *("rich", "jinja2", "etils", "fsspec"),
)


@pytest.mark.parametrize("library", LIBRARIES)
def test_one_file_knows_one_foreign_thing(library):
    users = set()
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] == library for name in names):
                users.add(path.relative_to(SOURCE).as_posix())
    assert len(users) == 1, users


def test_no_config_is_known_below_the_configs():
    below = ROOMS[: ROOMS.index("configs")]
    for path in FILES:
        if room_of(f"{module_name(path)}.") in below:
            for node in ast.walk(ast.parse(path.read_text())):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                assert not any(name.startswith("ml_collections") for name in names), path


def test_no_file_has_grown_beyond_350_lines():
    lengths = {path.relative_to(SOURCE).as_posix(): len(path.read_text().splitlines()) for path in FILES}
    assert {name: lines for name, lines in lengths.items() if lines > 350} == {}


# Extras that tests need and a run does not.
OPTIONAL = ("torch", "search", "slurm", "heic", "gcs", "s3", "notebook", "onednn")


def test_types_can_be_checked_without_what_is_optional():
    """Where an extra is not installed, the type checker must not stop at its import."""
    extras = read_setup()["options.extras_require"]
    optional = {name for extra in ("prepare", *OPTIONAL) for name in names(extras[extra])}
    assert {"torch", "optuna", "submitit"} <= optional
    for path in FILES:
        lines = path.read_text().splitlines()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [n.name for n in node.names]
                if optional & {module.split(".")[0] for module in modules}:
                    assert "pyright: ignore[reportMissingImports]" in lines[node.lineno - 1], f"{path}:{node.lineno}"


def read_setup():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    return setup


def requirements(text):
    return [Requirement(line) for line in text.splitlines() if line and not line.startswith("#")]


def names(text):
    return [requirement.name.replace("-", "_") for requirement in requirements(text)]


def test_constraints_hold_what_is_installed_within_its_bounds():
    """For each Python that they were made for, of what the package and its tests want."""
    setup = read_setup()
    extras = setup["options.extras_require"]
    wanted = "\n".join([setup["options"]["install_requires"], *(extras[each] for each in ("test", *OPTIONAL))])
    lines = requirements((ROOT / "constraints.txt").read_text())
    for python in ("3.11", "3.13"):
        tested = {
            canonicalize_name(line.name): next(iter(line.specifier)).version
            for line in lines
            if line.marker is None or line.marker.evaluate({"python_version": python})
        }
        for requirement in requirements(wanted):
            name = canonicalize_name(requirement.name)
            assert name in tested, f"{name} on Python {python}: make lock"
            assert tested[name] in requirement.specifier, f"{name} {tested[name]} on Python {python}"


def test_versions_of_several_pythons_become_markers():
    found = [("3.11", {"a": "1", "b": "1", "c": "5"}), ("3.12", {"a": "1", "b": "2"}), ("3.14", {"a": "1", "b": "3"})]
    lines = list(runpy.run_path(str(ROOT / ".ci" / "lock.py"))["constraints"](found))
    assert {line for line in lines if line.startswith(("a", "c"))} == {"a==1", "c==5"}
    for python, version in (("3.11", "1"), ("3.12", "2"), ("3.13", "2"), ("3.14", "3"), ("3.15", "3")):
        held = [Requirement(line) for line in lines if line.startswith("b")]
        chosen = [line for line in held if line.marker is None or line.marker.evaluate({"python_version": python})]
        assert [str(line.specifier) for line in chosen] == [f"=={version}"], python


# What takes long to import, and who has no use for it.
HEAVY = {"jax", "flax", "orbax", "tensorstore", "tensorflow", "sklearn", "scipy.stats", "matplotlib", "grain"}
HEAVY |= {"cv2", "PIL"}
NOT_NEEDED = {
    "import resnet_jax": HEAVY,
    "from resnet_jax.cli.main import main; assert main(['--help']) == 0; assert main(['train', '--help']) == 0": HEAVY,
    "import resnet_jax as rj; assert rj.configs.load('digits').seed == 0": HEAVY,
    "import resnet_jax as rj; rj.create('resnet50')": HEAVY - {"jax", "flax"},
    "import resnet_jax as rj; assert len(rj.data.load('digits').train)": HEAVY - {"jax", "flax", "cv2", "PIL"},
    "import resnet_jax as rj; rj.train, rj.load, rj.predict, rj.evaluate": {"tensorflow", "sklearn", "matplotlib"},
    "from resnet_jax.cli.main import main; assert main(['runs', '.']) == 2  # there are none": HEAVY - {"jax"},
}


@pytest.mark.parametrize("program", NOT_NEEDED)
def test_nothing_heavy_is_imported_without_need(program, tmp_path):
    found = f"[name for name in {sorted(NOT_NEEDED[program])} if name in sys.modules]"
    run = subprocess.run(
        [sys.executable, "-c", f"import sys; {program}\nloaded = {found}; assert not loaded, loaded"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert run.returncode == 0, run.stderr
