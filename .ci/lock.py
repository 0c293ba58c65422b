"""Prints the newest versions that each of some Pythons can install, as constraints for pip: `lock.py PYTHON PYTHON …`.

A version is given for the Pythons that it was chosen for: those between two of them get what the lower one has.
"""

import itertools
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
# What comes with every environment, and this package.
NOT_OURS = {"pip", "setuptools", "wheel", "deep-residual-jax"}
# The tests compare with this version; to find the newest one would install gigabytes of CUDA.
TORCH = "torch==2.13.0"


def newest(python):
    """The version of Python, and those of all packages by name, in an environment of its own."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([python, "-m", "venv", folder], check=True)
        inside = f"{folder}/bin/python"
        install = [inside, "-m", "pip", "install", "--quiet"]
        subprocess.run([*install, "--upgrade", "pip"], check=True)
        subprocess.run([*install, "--editable", f"{ROOT}[test_all]"], check=True)
        listed = subprocess.check_output([inside, "-m", "pip", "list", "--format=freeze"], text=True)
        version = "import sys; print('{}.{}'.format(*sys.version_info))"
        version = subprocess.check_output([inside, "-c", version], text=True).strip()
    packages = dict(line.split("==") for line in listed.split())
    packages = {name.lower().replace("_", "-"): number for name, number in packages.items()}
    return version, {name: number for name, number in packages.items() if name not in NOT_OURS}


def constraints(found):
    """Lines of a package for one version of it after another.

    Args:
      found: of each Python, in order, what `newest` gives.
    """
    for name in sorted(set().union(*(packages for _, packages in found))):
        pythons = [(python, packages[name]) for python, packages in found if name in packages]
        # Where a Python begins to have another version than the one below it.
        begins = [pythons[0], *(each for last, each in itertools.pairwise(pythons) if last[1] != each[1])]
        for i, (python, version) in enumerate(begins):
            bounds = [f'python_version >= "{python}"'] if i else []
            bounds += [f'python_version < "{begins[i + 1][0]}"'] if i + 1 < len(begins) else []
            yield f"{name}=={version}" + (f"; {' and '.join(bounds)}" if bounds else "")


if __name__ == "__main__":
    found = sorted((newest(python) for python in sys.argv[1:]), key=lambda each: tuple(map(int, each[0].split("."))))
    pythons = ", ".join(python for python, _ in found)
    print(f"# What `make` installs, as tested on Python {pythons}; `make lock` renews it.")
    print("\n".join(sorted([*constraints(found), TORCH])))
