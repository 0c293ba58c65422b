"""Writes the pages whose text stands elsewhere: names, config fields, commands, claims and notebooks."""

import ast
import importlib
import inspect
import json
import re
import shutil
from pathlib import Path
from typing import Any

from resnet_jax import configs, report
from resnet_jax.cli.commands import COMMANDS
from resnet_jax.configs import parsing

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "resnet_jax"


def write(folder: Path) -> None:
    """Writes all pages into a folder, anew."""
    shutil.rmtree(folder, ignore_errors=True)
    for path, text in {**api_pages(), "configs.md": config_page(), "commands.md": command_page()}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    results = report.read_results(ROOT / "experiments" / "results" / "paper")
    (folder / "claims.md").write_text(report.render_markdown(results))
    (folder / "extra").mkdir()
    (folder / "extra" / "claims.html").write_text(report.render_html(results))
    (folder / "notebooks").mkdir()
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        notebook = json.loads(path.read_text())
        for cell in notebook["cells"]:
            if cell["cell_type"] == "markdown":
                # MathJax would come from the network, and a notebook that is not there yet from nowhere.
                text = re.sub(r"\$([^$\\\n]+)\$", r"*\1*", "".join(cell["source"]))
                cell["source"] = re.sub(r"\[(.*?)\]\((\w+\.ipynb)\)", _link_to_notebook, text)
        (folder / "notebooks" / path.name).write_text(json.dumps(notebook))


def _link_to_notebook(link: re.Match[str]) -> str:
    return link[0] if (ROOT / "notebooks" / link[2]).exists() else link[1]


def rooms() -> list[str]:
    """The rooms with public names, in the order in which the house has them."""
    order = re.findall(r"^\| (?:`\w+/` )*`(\w+)/`", (ROOT / "docs" / "architecture.md").read_text(), re.MULTILINE)
    found = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py") if public_names(path.parent.name))
    return [*sorted(found, key=lambda room: order.index(room) if room in order else len(order)), "errors"]


def public_names(room: str = "") -> dict[str, str]:
    """The public names of a room, or of the package, and for each the module that it is from."""
    if room == "errors":  # one file: the exceptions in it
        names = re.findall(r"^class (\w+)", (PACKAGE / "errors.py").read_text(), re.MULTILINE)
        return dict.fromkeys(names, "resnet_jax.errors")
    package = PACKAGE / room
    stub = package / "__init__.pyi"
    source = ast.parse((stub if stub.exists() else package / "__init__.py").read_text())
    prefix = ".".join(filter(None, ("resnet_jax", room)))
    names = {}
    for node in source.body:
        if isinstance(node, ast.ImportFrom) and node.module:
            module = f"{prefix}.{node.module}" if node.level else node.module
            if module.startswith("resnet_jax"):
                names |= {alias.asname or alias.name: module for alias in node.names}
    return names


def api_pages() -> dict[str, str]:
    """A page of each room, and one that names them."""
    pages = {}
    top = public_names()
    lines = [
        "# API\n",
        "```{toctree}\n:hidden:\n\n" + "\n".join(rooms()) + "\n```\n",
        "What `import resnet_jax as rj` gives, and where it is described:\n",
        "| name | is |",
        "|---|---|",
    ]
    for name, module in top.items():
        room = module.split(".")[1]
        first = (inspect.getdoc(getattr(importlib.import_module(module), name)) or "").split("\n\n")[0]
        lines.append(f"| {{py:obj}}`rj.{name} <resnet_jax.{room}.{name}>` | {' '.join(first.split())} |")
    lines += ["\n| room | is for |", "|---|---|"]
    for room in rooms():
        first = (inspect.getdoc(importlib.import_module(f"resnet_jax.{room}")) or "").split("\n\n")[0]
        lines.append(f"| [`rj.{room}`]({room}.rst) | {' '.join(first.split())} |")
    pages["api/index.md"] = "\n".join(lines) + "\n"
    for room in rooms():
        names = {**public_names(room), **{name: module for name, module in top.items() if module.split(".")[1] == room}}
        pages[f"api/{room}.rst"] = _room_page(room, names)
    return pages


def _room_page(room: str, names: dict[str, str]) -> str:
    title = f"resnet_jax.{room}"
    parts = [title, "=" * len(title), "", f".. automodule:: {title}", "", f".. py:currentmodule:: {title}", ""]
    for name, module in names.items():
        value = getattr(importlib.import_module(module), name)
        if inspect.isclass(value):
            parts += [f".. autoclass:: {title}.{name}", "   :members:", ""]
        elif inspect.isroutine(value):
            parts += [f".. autofunction:: {title}.{name}", ""]
        else:
            parts += [f".. py:data:: {title}.{name}", "", f"   {_comment_of(module, name)}", ""]
    return "\n".join(parts)


def _comment_above(lines: list[str], number: int) -> str:
    """The lines of comment right above a line, of which the first has the number 1."""
    above = []
    while number > 1 and lines[number - 2].strip().startswith("#"):
        number -= 1
        above.insert(0, lines[number - 1].strip().removeprefix("#").strip())
    return " ".join(above)


def _comment_of(module: str, name: str) -> str:
    """What stands above the assignment of a name in a module, or else the value itself."""
    lines = Path(importlib.import_module(module).__file__ or "").read_text().splitlines()
    number = next(i for i, line in enumerate(lines, start=1) if re.match(rf"{name}\b.*=", line))
    return _comment_above(lines, number) or f"``{getattr(importlib.import_module(module), name)!r}``"


def as_sphinx_reads(app, what, name, value, options, lines):
    """Docstrings as reStructuredText has them: outside of `code` and examples, no letter has a meaning of its own."""
    example = False
    for i, line in enumerate(lines):
        example = bool(line.strip()) and (example or line.lstrip().startswith(">>> "))
        if not example:
            # Code is every second part, and wants a mark where a word goes on behind it.
            parts = re.split(r"(`[^`]+`)", line)
            for j in range(0, len(parts), 2):
                text = re.sub(r"[|*]|(?<=\w)_(?=\W|$)", r"\\\g<0>", parts[j])
                parts[j] = f"\\ {text}" if j and text[:1].isalnum() else text
            line = "".join(parts)
            lines[i] = re.sub(r"^  (\w+) {2,}(?=\w)", r"* `\1`: ", line) if what == "module" else line


def shorter_signature(app, what, name, value, options, signature, returns):
    """Signatures without what every Linen module has, and with the names that people write."""

    def plain(text):
        text = text and re.sub(r", parent: .* name: str \| None = None(?=\))", "", text)
        text = text and re.sub(r"<(?:class '|function )(?:\w+\.)*(\w+)'?>", r"\1", text)
        return text and re.sub(r"(?:jax\.)?jaxlib\._jax\.", "jax.", text)

    return plain(signature), plain(returns)


def not_ours(app, what, name, value, skip, options):
    """Members of classes that are another library's are not described here."""
    return skip or not (getattr(value, "__module__", None) or "resnet_jax").startswith("resnet_jax")


def config_page() -> str:
    """All fields with their defaults, and what the packaged configs make of them."""
    parts = [
        "# Config fields\n",
        "Every field can be set on the command line, `--config.model.depth=56`, and in Python,\n"
        '`rj.configs.load("cifar10", {"model.depth": 56})`. The defaults are those of `configs/base.py`,\n'
        "the paper's recipe for CIFAR-10; `none` unsets a field that may be empty.\n",
    ]
    defaults = {field.name: field.default for field in configs.described()}
    section = None
    for name, default, comment in configs.described():
        here, _, last = name.rpartition(".")
        if here != section:
            section = here
            parts += [f"\n## {section or 'The run'}\n", "| field | default | |", "|---|---|---|"]
        parts.append(f"| `{last}` | {_shown(default)} | {_cell(comment)} |")
    parts.append("\n## Packaged configs\n")
    for name in parsing.PACKAGED:
        parts += [f"### {name}\n", _prose(importlib.import_module(f"resnet_jax.configs.{name}").__doc__), ""]
        changed = {
            field: value for field, value, _ in configs.described(configs.load(name)) if value != defaults[field]
        }
        parts += ["| field | here | default |", "|---|---|---|"]
        parts += [f"| `{field}` | {_shown(value)} | {_shown(defaults[field])} |" for field, value in changed.items()]
        parts.append("" if changed else "It is `base` as it is.\n")
    return "\n".join(parts) + "\n"


def command_page() -> str:
    """What each command's --help says."""
    parts = ["# Commands\n", "`resnet-jax COMMAND --help` prints what stands here.\n"]
    for name, command in COMMANDS.items():
        parts += [f"## {name}\n", _prose(inspect.getdoc(command)), ""]
    return "\n".join(parts) + "\n"


def _prose(docstring: str | None) -> str:
    """A docstring as Markdown: what it indents is code, as are lines that are a command."""
    blocks = re.split(r"\n{2,}", inspect.cleandoc(docstring or ""))
    shown = []
    for block in blocks:
        lines = block.splitlines()
        code = lines[0].startswith(("    ", "resnet-jax "))
        text = block if code else " ".join(lines)
        shown.append(f"```text\n{inspect.cleandoc(text)}\n```" if code else _escaped(text))
    return "\n\n".join(shown)


def _escaped(text: str) -> str:
    """Text outside of backticks without Markdown's meaning of < * _ and $."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([<*_$])", r"\\\1", part) for part in parts)


def _cell(text: str) -> str:
    return _escaped(text).replace("|", r"\|")


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, tuple | list):
        return f"`{', '.join(map(str, value))}`" if value else "empty"
    return f"`{value:,}`" if type(value) is int and value >= 10_000 else f"`{value}`"
