from .boxes import (
    BoxAccuracy as BoxAccuracy,
    box_iou as box_iou,
    largest_region as largest_region,
    max_box_accuracy as max_box_accuracy,
    upsample as upsample,
)
from .cam import (
    ActivationMaps as ActivationMaps,
    class_activation_maps as class_activation_maps,
    grad_cam as grad_cam,
)
from .complexity import Layer as Layer, layer_costs as layer_costs, summary as summary, table_rows as table_rows
from .deepening import deepen as deepen
from .gradients import (
    LayerGradient as LayerGradient,
    autocorrelation as autocorrelation,
    gradient_autocorrelation as gradient_autocorrelation,
    gradient_norms as gradient_norms,
)
from .invariance import (
    Consistency as Consistency,
    circular_consistency as circular_consistency,
    crop_consistency as crop_consistency,
    equivariance_errors as equivariance_errors,
    one_pixel_consistency as one_pixel_consistency,
    transform_consistency as transform_consistency,
)
from .lesions import (
    block_names as block_names,
    lesion_errors as lesion_errors,
    remove_blocks as remove_blocks,
    swap_blocks as swap_blocks,
)
from .paper import (
    STATEMENTS as STATEMENTS,
    PaperTable as PaperTable,
    Statement as Statement,
    paper_table as paper_table,
)
from .pictures import plot_activation_maps as plot_activation_maps
from .plots import plot_confusion as plot_confusion, plot_curves as plot_curves
from .receptive_field import (
    ReceptiveField as ReceptiveField,
    effective_field as effective_field,
    receptive_fields as receptive_fields,
)
from .responses import LayerResponse as LayerResponse, layer_responses as layer_responses
from .transforms import relative_change as relative_change, rotate as rotate, scale as scale
