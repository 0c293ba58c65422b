from .augment import (
    augment_images as augment_images,
    mirror as mirror,
    pad_crop_mirror as pad_crop_mirror,
    pca_lighting as pca_lighting,
)
from .batch import Batch as Batch
from .images import (
    ImageFolder as ImageFolder,
    ImageSplit as ImageSplit,
    image_folder as image_folder,
    open_images as open_images,
)
from .preprocessing import Preprocessing as Preprocessing, per_pixel_mean as per_pixel_mean
from .small import Dataset as Dataset, Split as Split, load as load
from .staging import stage as stage
