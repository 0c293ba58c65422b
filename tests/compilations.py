"""What JAX says of its compiler while something runs."""

import contextlib
from collections.abc import Iterator

import jax


@contextlib.contextmanager
def compilations() -> Iterator[list[str]]:
    """A list that grows by the name of each program that JAX compiles, or reads from its cache, in the meantime."""
    names = []

    def listen(event, seconds, **about):
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(about["fun_name"])

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield names
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


@contextlib.contextmanager
def cache_answers() -> Iterator[list[str]]:
    """A list that grows by "hit" or "miss" with each question to the cache of programs in the meantime."""
    answers = []

    def listen(event, **about):
        if event in ("/jax/compilation_cache/cache_hits", "/jax/compilation_cache/cache_misses"):
            answers.append({"hits": "hit", "misses": "miss"}[event.rpartition("_")[2]])

    jax.monitoring.register_event_listener(listen)
    try:
        yield answers
    finally:
        jax.monitoring.unregister_event_listener(listen)
