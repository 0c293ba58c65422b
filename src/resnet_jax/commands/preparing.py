"""The command that prepares data."""

from collections.abc import Sequence

from resnet_jax.arguments import flags_of, given, integer, path, string
from resnet_jax.errors import complain


def prepare(arguments: Sequence[str]) -> None:
    """Downloads a data set and prepares it for reading, once; or writes a cache of photographs.

    resnet-jax prepare --dataset=cifar10|cifar100|imagenet2012 [--data_dir=DIR]
    resnet-jax prepare cache --dataset=imagenet2012|folder --data_dir=DIR --output=DIR [--form=raw|jpeg]
                             [--shorter_side=N] [--quality=95]

    The first form needs the extra "prepare". A cache is for machines whose cores cannot feed the accelerator: raw
    pixels (shorter side at most 256 by default; ImageNet takes about 340 GB), or JPEGs of which only what lies under a
    window is decoded (1 % larger than ImageNet's own). Train on it with --config.dataset.name=cache
    --config.dataset.data_dir=DIR. Photographs of a folder are turned as their EXIF orientation says. Running the same
    command again goes on where it was killed.
    """
    if arguments[:1] == ["cache"]:
        _prepare_cache(arguments[1:])
        return
    values = flags_of(arguments, string("dataset"), string("data_dir"))
    from resnet_jax.data import prepared

    print(f"prepared in {prepared.prepare(given(values.dataset, 'dataset'), path(values.data_dir, 'data_dir'))}")


def _prepare_cache(arguments: Sequence[str]) -> None:
    values = flags_of(
        arguments,
        string("dataset", None, ("imagenet2012", "folder")),
        string("data_dir"),
        string("output"),
        string("form", "raw", ("raw", "jpeg")),
        integer("shorter_side"),
        integer("quality", 95),
    )
    output = given(path(values.output, "output"), "output")
    from resnet_jax import terminal
    from resnet_jax.data.cache import write_cache
    from resnet_jax.data.photographs import open_photographs

    write_cache(
        open_photographs(given(values.dataset, "dataset"), path(values.data_dir, "data_dir")),
        output,
        form=values.form,
        shorter_side=values.shorter_side,
        quality=values.quality,
        say=complain,
        progress=terminal.progress,
    )
