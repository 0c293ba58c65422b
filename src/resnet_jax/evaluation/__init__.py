"""What a trained network makes of images; no config and no folder is known here.

`classifier` is the network with all that its predictions need, and gives it a new head. `protocols` are the views of an
image that the paper averages over, `scoring` computes them, `outcomes` is what became of a whole split (`evaluate`),
`prediction` the classes of single images (`predict`). `linear_probe` computes the features of a split once and fits a
head on them (`features`, `fit_head`). `recalibration` measures batch-norm statistics anew.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
