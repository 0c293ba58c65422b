"""How Sphinx builds these pages, offline: `make docs`.

Pages of prose are Markdown. Those of names, fields, commands and claims are written by `generate.py` at every build,
from the stubs, the comments in `configs/base.py`, what `--help` prints and the results of experiments, so that none of
them can go stale.
"""

import sys
from pathlib import Path

import resnet_jax

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import generate  # noqa: E402

project = "resnet_jax"
author = "The resnet_jax maintainers"
copyright = "the resnet_jax maintainers, Apache-2.0"
release = version = resnet_jax.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["generated/extra"]
html_theme = "furo"
html_title = f"resnet_jax {release}"
html_static_path = ["static"]
# The page of claims, which needs no other file.
html_extra_path = ["generated/extra"]
html_css_files = ["wide.css"]
html_show_sourcelink = False

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
# The notebooks' outputs are stored; the tests execute them.
nb_execution_mode = "off"

# Docstrings name code in single backticks, as Markdown does.
default_role = "code"
# Dashes and quotes of flags and values stay what they are.
smartquotes = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_inherit_docstrings = False
python_maximum_signature_line_length = 100
napoleon_google_docstring = True
napoleon_numpy_docstring = False
# Attributes in a list, as arguments are: a member is described there and not once more.
napoleon_custom_sections = [("Attributes", "params_style")]
# With -n a public name that no page describes is an error; other libraries' and a room's inner ones are not looked for.
nitpick_ignore_regex = [(r"py:.*", r"(?!resnet_jax\.(?!errors\.)\w+\.\w+$).*")]

generate.write(HERE / "generated")


def setup(app):
    """What docstrings and signatures want before they are shown."""
    app.connect("autodoc-process-docstring", generate.as_sphinx_reads, priority=400)  # before napoleon
    app.connect("autodoc-process-signature", generate.shorter_signature)
    app.connect("autodoc-skip-member", generate.not_ours)
