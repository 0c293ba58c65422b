"""What a trained network makes of images; no config and no folder is known here.

`classifier` is the network with all that its predictions need, and gives it a new head. `protocols` are the views of an
image that the paper averages over, `scoring` computes them, `outcomes` is what became of a whole split (`evaluate`),
`prediction` the classes of single images (`predict`). `recalibration` measures batch-norm statistics anew.
"""

from typing import TYPE_CHECKING

from resnet_jax import _exports

if TYPE_CHECKING:
    from resnet_jax.evaluation.classifier import Classifier as Classifier, transfer as transfer
    from resnet_jax.evaluation.outcomes import Outcomes as Outcomes, evaluate as evaluate
    from resnet_jax.evaluation.prediction import predict as predict
    from resnet_jax.evaluation.recalibration import recalibrate as recalibrate
else:
    __getattr__, __dir__, __all__ = _exports(
        __name__,
        {
            "classifier": ["Classifier", "transfer"],
            "outcomes": ["Outcomes", "evaluate"],
            "prediction": ["predict"],
            "recalibration": ["recalibrate"],
        },
    )
