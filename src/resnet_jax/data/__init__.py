"""Where a batch comes from: from images on the disk (host) to normalised, augmented batches (device).

Small data sets are arrays, all of them on the devices:

  small          digits and CIFAR as arrays (`load`); `Split.batches` are those that a run trains on.
  resident       batch k of a training split, and batch i of an evaluation, inside the compiled step.

Large ones are read image by image, as they are asked for:

  images         opens them by name or as a folder (`image_folder`); `ImageSplit.batches` are those of a run.
  tfds           ImageNet, and CIFAR, as TFDS prepared them.
  folders        which files of a folder are images, and what a folder of classes holds.
  cache          images kept as pixels or as JPEG in tiles, for machines whose cores are too slow.
  staging        copies any of these from a bucket, or a slow file system, to a disk (`stage`).
  encoded        what these three give: an image that is not decoded yet, by its index.
  windows        which part of an image is shown: geometry alone.
  decode         that part's pixels from a file's bytes, as `image_files` (formats, orientation) and `tiles` read them.
  stream         batch k: shuffled indices, random windows, in threads or in processes (`shared_memory`).
  sequential     each image once and in order: for evaluation, and for the mean image.

Both end alike:

  batch          what a batch is, and which examples batch k of a data set on the devices holds.
  preprocessing  what a network's input has had done to it: mean, scale, channel order, resizing.
  augment        random crops, mirror images and colours, on the devices, inside the compiled step.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
