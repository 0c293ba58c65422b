"""The commands of resnet-jax: from arguments to functions that can be called without them."""

from collections.abc import Callable, Sequence

from resnet_jax.cli.benchmarks import benchmark
from resnet_jax.cli.networks import convert, evaluate, export, predict, summary
from resnet_jax.cli.preparing import prepare
from resnet_jax.cli.running import doctor, sweep, train

COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    function.__name__: function
    for function in (train, evaluate, predict, summary, sweep, benchmark, convert, export, prepare, doctor)
}
