"""Of a JPEG the rows below a window are not decoded: pixels and verdicts are those of the whole file."""

import numpy as np
import pytest
import simplejpeg
from pictures import encoded, exif, noise, pillows
from PIL import Image

from resnet_jax.data import decode
from resnet_jax.data.decode import UnreadableImageError
from resnet_jax.data.image_files import UprightFile
from resnet_jax.data.windows import Box

HEIGHT, WIDTH = 83, 67
SAMPLINGS = ("444", "422", "420", "440", "411", "Gray")


def jpeg(sampling, height=HEIGHT, width=WIDTH):
    image, color = noise(height, width, 1 if sampling == "Gray" else 3), "GRAY" if sampling == "Gray" else "RGB"
    return simplejpeg.encode_jpeg(image, 80, color, sampling)


def several_scans():
    """A sequential JPEG with a scan for each channel, as `cjpeg -scans` writes it; made from three grey ones."""
    files = [encoded(noise(HEIGHT, WIDTH, 1, seed)[..., 0], "JPEG") for seed in range(3)]
    frame, scan = files[0].index(b"\xff\xc0"), files[0].index(b"\xff\xda")
    size = files[0][frame + 4 : frame + 9]
    header = b"\xff\xc0\x00\x11" + size + b"\x03\x01\x11\x00\x02\x11\x00\x03\x11\x00"
    tables = files[0][frame + 13 : scan]  # behind the frame of one channel
    scans = [
        b"\xff\xda\x00\x08\x01" + bytes([number, 0, 0, 63, 0]) + each[each.index(b"\xff\xda") + 10 : -2]
        for number, each in enumerate(files, 1)
    ]
    return files[0][:frame] + header + tables + b"".join(scans) + b"\xff\xd9"


WHOLE = {
    "progressive": encoded(noise(HEIGHT, WIDTH), "JPEG", progressive=True),
    "restart markers": encoded(noise(HEIGHT, WIDTH), "JPEG", restart_marker_blocks=3),
    "CMYK": encoded(Image.fromarray(noise(HEIGHT, WIDTH)).convert("CMYK"), "JPEG"),
    "a scan for each channel": several_scans(),
    "PNG": encoded(noise(HEIGHT, WIDTH), "PNG"),
}


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_the_rows_are_those_of_the_whole_image_bit_for_bit(sampling, factor):
    for height, width in ((HEIGHT, WIDTH), (64, 64), (33, 130), (17, 1)):
        data = jpeg(sampling, height, width)
        whole = decode.decode(data, factor)
        shorter = 0
        for bottom in range(1, height + 1):
            upper = decode._decode_upper(data, bottom, factor)
            if upper is None:
                assert bottom + 2 * factor >= height
                continue
            rows = -(-bottom // factor)
            assert rows <= len(upper) <= min(rows + 3, len(whole))
            assert np.array_equal(upper[:rows], whole[:rows])
            shorter += 1
        assert shorter == height - 2 * factor - 1


def every_border(height, width, side):
    for top in (0, 1, height // 2 - side // 2, height - side - 1, height - side):
        for left in (0, 1, width - side):
            yield Box(left, top, left + side, top + side)


@pytest.mark.parametrize("kind", [*SAMPLINGS, *WHOLE, *(f"turned {way}" for way in range(2, 9))])
def test_windows_are_cut_out_of_the_whole_image(kind):
    """As large as they are shown, nothing is interpolated."""
    if kind.startswith("turned"):
        data = UprightFile(encoded(noise(HEIGHT, WIDTH), "JPEG", **exif(int(kind[-1]))))
        whole = decode.decode(data)
    else:
        data = WHOLE[kind] if kind in WHOLE else jpeg(kind)
        whole = pillows(data)
    side = 24
    for box in every_border(*whole.shape[:2], side):
        window = decode.read_window(data, lambda *_, box=box: box, side)
        left, top, right, bottom = box
        assert np.array_equal(window, whole[top:bottom, left:right])


@pytest.mark.parametrize("kind", WHOLE)
def test_what_cannot_be_shortened_is_decoded_whole(kind):
    assert decode._decode_upper(WHOLE[kind], 20, 1) is None


@pytest.mark.test_data
def test_rows_of_photographs(photograph_files):
    shorter = 0
    for data in photograph_files:
        height, _ = decode.size_of(data)
        upper = decode._decode_upper(data, height // 2, 1)
        if upper is not None:
            assert np.array_equal(upper[: height // 2], decode.decode(data)[: height // 2])
            shorter += 1
    assert shorter > len(photograph_files) / 2


def readable(read):
    try:
        read()
    except UnreadableImageError:
        return False
    return True


def upper_window(data):
    return decode.read_window(data, lambda height, width: Box(0, 0, width, max(height // 3, 1)), 8)


@pytest.mark.parametrize("part", [0.5, 0.9, 0.99])
def test_a_file_that_ends_below_the_window_is_damaged(part):
    data = encoded(noise(96, 64), "JPEG")
    with pytest.raises(UnreadableImageError, match="truncated"):
        upper_window(data[: int(part * len(data))])


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_damage_is_found_where_a_whole_decode_finds_it(sampling):
    data, random = jpeg(sampling, 96, 64), np.random.default_rng(0)
    coded = data.index(b"\xff\xda") + 14
    verdicts = []
    for number in range(200):
        changed, at = bytearray(data), random.integers(coded, len(data))
        changed[at] = random.integers(256)
        if number % 4 == 0:
            del changed[at:]
        if number % 4 == 1:
            del changed[at : at + random.integers(1, 20)]
        verdict = readable(lambda changed=bytes(changed): upper_window(changed))
        assert verdict == readable(lambda changed=bytes(changed): decode.decode(changed))
        verdicts.append(verdict)
    assert 40 < sum(verdicts) < 200
