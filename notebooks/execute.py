"""Runs the notebooks in empty folders, as a reader who has only them would, and stores what they print and draw.

    python notebooks/execute.py                    # all of them; pip install '.[notebook]'
    python notebooks/execute.py 02_train_and_watch

Pictures are stored at 80 dpi. What would differ in every run is left out: counts of executions, times and what depends
on them, standard error, and the HTML that doubles a text.
"""

import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent

# A profile of IPython: the notebooks' readers have the resolution that they are used to.
_PROFILE = "c.InlineBackend.print_figure_kwargs = {'dpi': 80, 'bbox_inches': 'tight', 'metadata': {'Software': None}}\n"


def execute(path: Path, folder: Path) -> Any:
    """The notebook of this file with the outputs that it has in this folder, cleaned.

    Raises:
      nbclient.exceptions.CellExecutionError: a cell failed.
    """
    # Of the extra "notebook".
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    # The limit for a cell is for a busy machine.
    client = NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(folder)}})
    with tempfile.TemporaryDirectory() as settings:
        profile = Path(settings, "profile_default", "ipython_kernel_config.py")
        profile.parent.mkdir()
        profile.write_text(_PROFILE)
        # The kernel finds what this Python finds, and draws into the notebook.
        found = os.pathsep.join(str(Path(entry).resolve()) for entry in sys.path)
        own = {"IPYTHONDIR": settings, "PYTHONPATH": found, "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
        client.execute(env={**os.environ, **own})
    return clean(notebook)


def clean(notebook: Any) -> Any:
    """The same without what differs in every run; lines that are shown one by one become one text."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.execution_count = None
            cell.outputs = _joined(map(_plain, cell.outputs))
    return notebook


def _plain(output: Any) -> Any:
    if "execution_count" in output:
        output.execution_count = None
    if "metadata" in output:
        output.metadata = {}
    data = output.get("data", {})
    if "text/plain" in data:
        data.pop("text/html", None)
        # "<Figure size 720x320 with 2 Axes>" is for whoever cannot see the picture.
        if "image/png" in data:
            del data["text/plain"]
    if output.output_type == "display_data" and set(data) == {"text/plain"}:
        return type(output)(output_type="stream", name="stdout", text=_without_times(data["text/plain"]))
    return output


def _without_times(text: str) -> str:
    """A line of a run: without its speed, and none where only the time decides whether it is shown."""
    if text.startswith("iteration ") and not re.search("(test|validation) (error|loss)", text):
        return ""
    return re.sub(r", [\d,]+ images/s(, [\d:]+ left)?", "", text)


def _joined(outputs: Any) -> list[Any]:
    joined: list[Any] = []
    for output in outputs:
        # Such as what XLA says of a machine that compiles slowly.
        if output.get("name") == "stderr":
            continue
        last = joined[-1] if joined else None
        if last is not None and output.output_type == "stream" == last.output_type and output.name == last.name:
            last.text += output.text
        else:
            joined.append(output)
    return joined


def main(names: list[str]) -> int:
    if names in (["-h"], ["--help"]):
        print(__doc__)
        return 0
    paths = sorted(FOLDER.glob("*.ipynb"))
    known = [path.stem for path in paths]
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"error: there is no notebook {unknown[0]}: there are {', '.join(known)}", file=sys.stderr)
        return 2
    import nbformat

    for path in paths:
        if not names or path.stem in names:
            with tempfile.TemporaryDirectory() as folder:
                notebook = execute(path, Path(folder))
            nbformat.write(notebook, path)
            print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
