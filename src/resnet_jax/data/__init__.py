"""Images: from disk (host) to normalised, augmented batches (device).

`batch` says what a batch is and which examples the batch of a step holds. Small data sets are whole arrays: `small` on
the host, `resident` on the devices. Large ones are read image by image: `images` opens them, from `folders`, `tfds` or
a `cache`; `encoded` is an image that is not decoded yet, `decode` makes pixels of it, and `windows` says which part is
cut out; `stream` draws random windows to train on, `sequential` shows each image once, in order. `preprocessing` and
`augment` are applied on the devices, inside the compiled step.
"""

from typing import TYPE_CHECKING

from resnet_jax import _exports

if TYPE_CHECKING:
    from resnet_jax.data.augment import (
        augment_images as augment_images,
        mirror as mirror,
        pad_crop_mirror as pad_crop_mirror,
        pca_lighting as pca_lighting,
    )
    from resnet_jax.data.batch import Batch as Batch
    from resnet_jax.data.images import (
        ImageFolder as ImageFolder,
        ImageSplit as ImageSplit,
        image_folder as image_folder,
        open_images as open_images,
    )
    from resnet_jax.data.preprocessing import Preprocessing as Preprocessing, per_pixel_mean as per_pixel_mean
    from resnet_jax.data.small import Dataset as Dataset, Split as Split, load as load
else:
    __getattr__, __dir__, __all__ = _exports(
        __name__,
        {
            "augment": ["augment_images", "mirror", "pad_crop_mirror", "pca_lighting"],
            "batch": ["Batch"],
            "images": ["ImageFolder", "ImageSplit", "image_folder", "open_images"],
            "preprocessing": ["Preprocessing", "per_pixel_mean"],
            "small": ["Dataset", "Split", "load"],
        },
    )
