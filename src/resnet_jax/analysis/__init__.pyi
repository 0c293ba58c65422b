from .complexity import Layer as Layer, layer_costs as layer_costs, summary as summary, table_rows as table_rows
from .plots import plot_confusion as plot_confusion, plot_curves as plot_curves
