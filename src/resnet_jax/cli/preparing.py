"""The command that prepares data."""

from collections.abc import Sequence

from resnet_jax.cli.arguments import flags_of, given, integer, path, string
from resnet_jax.errors import warn


def prepare(arguments: Sequence[str]) -> None:
    """Downloads a data set and prepares it for reading, once; or writes a cache of photographs.

    resnet-jax prepare --dataset=cifar10|cifar100|imagenet2012 [--data_dir=DIR]
    resnet-jax prepare cache --dataset=imagenet2012|folder --data_dir=DIR --output=DIR [--form=raw|jpeg]
                             [--resize_size=N] [--quality=95]

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
    from resnet_jax.data import tfds

    print(f"prepared in {tfds.prepare(given(values.dataset, 'dataset'), path(values.data_dir, 'data_dir'))}")


def _prepare_cache(arguments: Sequence[str]) -> None:
    values = flags_of(
        arguments,
        string("dataset", None, ("imagenet2012", "folder")),
        string("data_dir"),
        string("output"),
        string("form", "raw", ("raw", "jpeg")),
        integer("resize_size"),
        integer("quality", 95),
    )
    output = given(path(values.output, "output"), "output")
    from resnet_jax.data.cache import write_cache
    from resnet_jax.data.images import open_images
    from resnet_jax.runs import terminal

    write_cache(
        open_images(given(values.dataset, "dataset"), path(values.data_dir, "data_dir")),
        output,
        form=values.form,
        resize_size=values.resize_size,
        quality=values.quality,
        log=warn,
        progress=terminal.progress,
    )
