"""Training as pure functions: no config, no folder and no loop is known here.

`state` is all that a step changes, `losses` what it minimises (and how a loss of one's own is written), `metrics` what
it tells, `optimizers` the paper's. `step` is the step as a function, `compiled` as a program: `make_train_step` for a
loop of one's own, `compile_steps` for many steps to a dispatch.
"""

from typing import TYPE_CHECKING

from resnet_jax import _exports

if TYPE_CHECKING:
    from resnet_jax.training.compiled import make_eval_step as make_eval_step, make_train_step as make_train_step
    from resnet_jax.training.losses import Loss as Loss, cross_entropy as cross_entropy
    from resnet_jax.training.metrics import Mean as Mean, Metrics as Metrics
    from resnet_jax.training.optimizers import piecewise as piecewise, ramped as ramped, sgd as sgd
    from resnet_jax.training.state import TrainState as TrainState, create_state as create_state
    from resnet_jax.training.step import eval_step as eval_step, train_step as train_step
else:
    __getattr__, __dir__, __all__ = _exports(
        __name__,
        {
            "compiled": ["make_eval_step", "make_train_step"],
            "losses": ["Loss", "cross_entropy"],
            "metrics": ["Mean", "Metrics"],
            "optimizers": ["piecewise", "ramped", "sgd"],
            "state": ["TrainState", "create_state"],
            "step": ["eval_step", "train_step"],
        },
    )
