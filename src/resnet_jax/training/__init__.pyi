from .compiled import make_eval_step as make_eval_step, make_train_step as make_train_step
from .losses import Loss as Loss, cross_entropy as cross_entropy
from .metrics import Mean as Mean, Metrics as Metrics
from .optimizers import (
    piecewise as piecewise,
    ramped as ramped,
    scaled_by_part as scaled_by_part,
    sgd as sgd,
)
from .state import TrainState as TrainState, create_state as create_state
from .step import eval_step as eval_step, train_step as train_step
