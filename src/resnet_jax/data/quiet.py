"""Quiet for Pillow, apart from what uses Pillow: every command makes it, and few of them look at images."""

import logging
import warnings


def quiet_pillow() -> None:
    """Keeps Pillow from printing, in a process that is this package's own, what it thinks of damaged files."""
    warnings.filterwarnings("ignore", module="PIL")
    # A logger without a handler prints.
    logging.getLogger("PIL").addHandler(logging.NullHandler())
