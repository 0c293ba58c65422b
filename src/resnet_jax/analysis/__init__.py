"""What a network costs (`complexity`), and pictures of what runs have done (`plots`, with Matplotlib).

Functions take a network or arrays; they know no config, no folder of a run and no terminal.
"""

from typing import TYPE_CHECKING

from resnet_jax import _exports

if TYPE_CHECKING:
    from resnet_jax.analysis.complexity import (
        Layer as Layer,
        layer_costs as layer_costs,
        summary as summary,
        table_rows as table_rows,
    )
    from resnet_jax.analysis.plots import plot_confusion as plot_confusion, plot_curves as plot_curves
else:
    __getattr__, __dir__, __all__ = _exports(
        __name__,
        {
            "complexity": ["Layer", "layer_costs", "summary", "table_rows"],
            "plots": ["plot_confusion", "plot_curves"],
        },
    )
