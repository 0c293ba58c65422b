"""What publishers of weights are known for."""

import numpy as np
import pytest

from resnet_jax.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from resnet_jax.interop.published import named, pixel_statistics


def of_255(values):
    return pixel_statistics(values, None)["mean"].tolist()


@pytest.mark.parametrize(
    ("name", "model", "expected"),
    [
        ("resnet18-f37072fd.pth", "resnet18", (224, 256, "bilinear")),  # torchvision, V1
        ("resnet50-0676ba61.pth", "resnet50", (224, 256, "bilinear")),
        ("resnet50-11ad3fa6.pth", "resnet50", (224, 232, "bilinear")),  # V2
        ("ResNet152_Weights.IMAGENET1K_V2.safetensors", "resnet152", (224, 232, "bilinear")),
        ("resnet18_a1_0-d63eafa0.pth", "resnet18", (224, 235, "bicubic")),  # timm
        ("resnet34.a2_in1k.safetensors", "resnet34", (224, 235, "bicubic")),
        ("resnet50_ram-a26f946b.pth", "resnet50", (224, 235, "bicubic")),
        ("resnet50_b1k-532a802a.pth", "resnet50", (224, 235, "bicubic")),
        ("resnet18_a3_0-40c531c8.pth", "resnet18", (160, 168, "bicubic")),
        ("gluon_resnet50_v1b-0ebe02e2.pth", "resnet50", (224, 256, "bicubic")),
    ],
)
def test_names_that_publishers_give(name, model, expected):
    found = named(name)
    assert found.fields["model"] == model
    assert tuple(found.fields[field] for field in ("image_size", "resize", "interpolation")) == expected
    assert [found.fields[field].tolist() for field in ("mean", "std")] == [
        of_255(each) for each in (IMAGENET_MEAN, IMAGENET_STD)
    ]


def test_names_of_cifar_networks():
    found = named("resnet20-12fca82f.th")
    assert (found.fields["model"], found.fields["shortcut_padding"]) == ("cifar_resnet20", "both")
    assert found.fields["mean"].tolist() == of_255(IMAGENET_MEAN)
    found = named("cifar100_resnet56-f2eff4c8.pt")
    assert found.fields["model"] == "cifar_resnet56"
    assert found.fields["mean"].tolist() == of_255((0.5070, 0.4865, 0.4409))


@pytest.mark.parametrize(
    "name",
    [
        "resnetblur18-84f4748f",
        "resnetblur50",
        "resnetaa50_a1h-4cf422b3",
        "antialiased_resnet18",
        "resnet18_dilated",
        "resnet50_output_stride16",
        "deeplabv3_resnet50_coco-cd0a2569",
        "seresnet50_ra_224-8efdb4bb",
        "ecaresnet50d_p-e4fa23c2",
        "resnext50_32x4d-7cdf4587",
        "wide_resnet50_2-95faca4d",
        "resnet50_gn_a1h2-8fe6c4d0",
        "resnet50d_ra2-464e36ba",
        "gluon_resnet50_v1d-818a1b1b",
        "resnetv2_50_a1h-000cdf49",
        "resnet50_msra-5891d200",
    ],
)
def test_names_of_other_networks(name):
    found = named(f"{name}.safetensors")
    assert found.refusal
    assert not found.fields


@pytest.mark.parametrize(
    "name",
    ["semi_supervised_resnet18-d92f0530", "rw_resnet50-86acaeed", "best-resnet18", "my_resnet18_a1_best", "unblurred"],
)
def test_names_that_say_nothing(name):
    assert named(f"{name}.safetensors") is None


@pytest.mark.parametrize(
    ("mean", "std", "scale"),
    [
        ((0, 0, 0), (255, 255, 255), 1),
        ((0.5,), (0.5,), 255),
        ((120,), (1,), 1),
        (np.float32([0.5, 0.25, 0.125]), [np.float32(0.5)], 255),
    ],
)
def test_either_statistic_tells_what_pixels_it_is_of(mean, std, scale):
    found = pixel_statistics(mean, std)
    assert [found[name].tolist() for name in ("mean", "std")] == [
        [scale * value for value in each] for each in (mean, std)
    ]


def test_one_number_may_stand_alone():
    assert [each.tolist() for each in pixel_statistics(0.5, np.float32(0.25)).values()] == [[127.5], [63.75]]
