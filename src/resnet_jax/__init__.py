"""Deep Residual Learning for Image Recognition (He, Zhang, Ren, Sun, 2015) as pure functions that XLA compiles.

    from resnet_jax import models
    model = models.create("resnet50", shortcut="B", dtype=jnp.bfloat16)

The modules are `models` (the networks), `data`, `training` and `evaluation` (batches, steps, protocols), `analysis`
(costs and pictures), and `cli`, whose every command is a function of one of the others.
"""
