"""What lies below a folder."""

import os
from pathlib import Path


def tree(folder):
    """The content of each file by its path from there, links followed."""
    found = {}
    for path, _, names in os.walk(folder, followlinks=True):
        found |= {os.path.relpath(os.path.join(path, name), folder): Path(path, name).read_bytes() for name in names}
    return found
