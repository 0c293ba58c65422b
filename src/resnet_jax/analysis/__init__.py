"""What a network costs (`layer_costs`, `summary`), and pictures of what runs have done (`plots`).

Functions take a network or arrays; they know no config, no folder of a run and no terminal. `plots` needs Matplotlib,
and is imported by itself.
"""

from resnet_jax.analysis.complexity import Layer, layer_costs, summary, table_rows

__all__ = ["Layer", "layer_costs", "summary", "table_rows"]
