"""What jaxtyping's import hook checks calls with: shapes and dtypes wherever a function states them.

A plain `jax.Array` states none, and in the fields of what JAX maps over there are shardings and shapes, too.
"""

import jax
from beartype import BeartypeConf, FrozenDict, beartype

check = beartype(conf=BeartypeConf(hint_overrides=FrozenDict({jax.Array: object})))
