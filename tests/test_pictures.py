"""Every kind of picture is read in one way, and no brightness is lost in silence."""

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from convkan.models import Description
from convkan.models.images import normalize
from convkan.training import DataError, ImageData
from convkan.training.pictures import read_picture
from experiments.common.images import read_image

SIDE = 8
GREY = np.linspace(0, 255, SIDE * SIDE).round().astype(np.uint8).reshape(SIDE, SIDE)
COLOUR = np.stack([GREY, GREY.T, 255 - GREY], axis=-1)
ALPHA = np.where(np.arange(SIDE) < SIDE // 2, 255, 0).astype(np.uint8) * np.ones((SIDE, 1), np.uint8)
DEEP = GREY.astype(np.uint16) * 257
HIDDEN = int(GREY[0, 3])  # the grey value that pictures without an alpha channel declare transparent
ON_WHITE = np.where(ALPHA == 255, GREY, 255).astype(np.uint8)
COLOUR_ON_WHITE = np.where(ALPHA[..., None] == 255, COLOUR, 255).astype(np.uint8)


def as_colour(grey):
    return np.repeat(grey[..., None], 3, axis=-1)


def png(path, values, colour_type, bits):
    """A PNG of kinds that Pillow does not write: 16 bits with alpha or colour."""
    rows = b"".join(b"\0" + row.astype(f">u{bits // 8}").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, colour_type, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def palette(transparent):
    image = Image.fromarray(GREY)
    image.putpalette(bytes(range(256)) * 3, "RGB")  # shuffled: entry i is (3i, 3i + 1, 3i + 2) modulo 256
    colours = np.array(image.convert("RGB"))
    return image, {"transparency": int(GREY[0, -1])} if transparent else {}, colours


def write(kind, folder):
    """A picture of a kind, and what it must become in colour."""
    path = folder / f"{kind.replace(' ', '_').replace(';', '')}.png"
    tiff = path.with_suffix(".tif")
    if kind == "1":
        Image.fromarray(GREY > 127).save(path)
        return path, as_colour(np.where(GREY > 127, 255, 0))
    if kind == "L":
        Image.fromarray(GREY).save(path)
        return path, as_colour(GREY)
    if kind == "L transparent":
        Image.fromarray(GREY).save(path, transparency=HIDDEN)
        return path, as_colour(np.where(np.equal(GREY, HIDDEN), 255, GREY))
    if kind == "LA":
        Image.fromarray(np.stack([GREY, ALPHA], axis=-1)).save(path)
        return path, as_colour(ON_WHITE)
    if kind in ("P", "P transparent"):
        image, options, colours = palette(kind != "P")
        image.save(path, **options)
        hidden = np.equal(GREY, options.get("transparency", -1))
        return path, np.where(hidden[..., None], 255, colours)
    if kind == "RGB":
        Image.fromarray(COLOUR).save(path)
        return path, COLOUR
    if kind == "RGB transparent":
        Image.fromarray(COLOUR).save(path, transparency=tuple(map(int, COLOUR[0, 3])))
        return path, np.where(np.equal(COLOUR, COLOUR[0, 3]).all(-1, keepdims=True), 255, COLOUR)
    if kind == "RGBA":
        Image.fromarray(np.concatenate([COLOUR, ALPHA[..., None]], axis=-1)).save(path)
        return path, COLOUR_ON_WHITE
    if kind == "CMYK":
        image = Image.fromarray(np.concatenate([COLOUR, ALPHA[..., None] // 4], axis=-1), "CMYK")
        image.save(tiff)
        return tiff, np.array(image.convert("RGB"))
    if kind in ("I;16", "I;16 transparent"):
        options = {"transparency": HIDDEN * 257} if kind != "I;16" else {}
        Image.fromarray(DEEP).save(path, **options)
        return path, as_colour(np.where(np.equal(GREY, HIDDEN), 255, GREY) if options else GREY)
    if kind == "I;16B":
        Image.fromarray(DEEP.astype(">u2")).save(tiff)
        return tiff, as_colour(GREY)
    if kind == "I":
        Image.fromarray(DEEP.astype(np.int32)).save(tiff)
        return tiff, as_colour(GREY)
    if kind == "F":
        Image.fromarray(DEEP.astype(np.float32) / 65535).save(tiff)
        return tiff, as_colour(GREY)
    if kind == "RGB of 16 bits":
        png(path, COLOUR.astype(np.uint16) * 257, colour_type=2, bits=16)
        return path, COLOUR
    if kind == "RGBA of 16 bits":
        png(path, np.concatenate([COLOUR, ALPHA[..., None]], axis=-1).astype(np.uint16) * 257, colour_type=6, bits=16)
        return path, COLOUR_ON_WHITE
    if kind == "LA of 16 bits":
        png(path, np.stack([GREY, ALPHA], axis=-1).astype(np.uint16) * 257, colour_type=4, bits=16)
        return path, as_colour(ON_WHITE)
    if kind == "turned":
        orientation = Image.Exif()
        orientation[0x0112] = 6  # a quarter turn clockwise shows it upright
        Image.fromarray(np.rot90(COLOUR).copy()).save(path, exif=orientation)
        return path, COLOUR
    if kind == "turned, of 16 bits":
        orientation = Image.Exif()
        orientation[0x0112] = 6
        Image.fromarray(np.rot90(DEEP).copy()).save(path, exif=orientation)
        return path, as_colour(GREY)
    moving = {"animated GIF": ".gif", "animated PNG": ".png", "animated WebP": ".webp", "TIFF of two pages": ".tif"}
    path = folder / f"moving{moving[kind]}"
    Image.fromarray(GREY).save(path, save_all=True, append_images=[Image.fromarray(255 - GREY)], **LOSSLESS[kind])
    return path, as_colour(GREY)


LOSSLESS = {"animated GIF": {}, "animated PNG": {}, "animated WebP": {"lossless": True}, "TIFF of two pages": {}}
KINDS = [
    *("1", "L", "L transparent", "LA", "P", "P transparent", "RGB", "RGB transparent", "RGBA", "CMYK"),
    *("I;16", "I;16 transparent", "I;16B", "I", "F", "RGB of 16 bits", "RGBA of 16 bits", "LA of 16 bits"),
    *("turned", "turned, of 16 bits", *LOSSLESS),
]
every_kind = pytest.mark.parametrize("kind", KINDS)


@every_kind
def test_picture_of_any_kind_becomes_what_is_documented(kind, tmp_path):
    path, expected = write(kind, tmp_path)
    found = read_picture(path, 3, (SIDE, SIDE))
    assert found.dtype == torch.uint8
    np.testing.assert_array_equal(found.permute(1, 2, 0).numpy(), expected)


@every_kind
def test_grey_is_the_luma_of_colour(kind, tmp_path):
    path, expected = write(kind, tmp_path)
    luma = np.array(Image.fromarray(expected.astype(np.uint8)).convert("L"))
    np.testing.assert_array_equal(read_picture(path, 1, (SIDE, SIDE))[0].numpy(), luma)


@every_kind
def test_training_and_prediction_see_the_same_pixels(kind, tmp_path):
    for name in ("a", "b"):
        for part in ("train", "val", "test"):
            (tmp_path / part / name).mkdir(parents=True)
            path, _ = write(kind, tmp_path / part / name)
    data = ImageData("folder", data_root=tmp_path, image_size=5)
    data.setup()
    description = Description("kan_cnn", 3, (5, 5), data.class_names, data.mean, data.std)
    expected = normalize(data.test.pixels[1:], data.mean, data.std)
    assert torch.equal(read_image(path, description), expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_every_step_of_16_bits_keeps_its_place(channels, tmp_path):
    values = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
    Image.fromarray(values).save(tmp_path / "deep.png")
    found = read_picture(tmp_path / "deep.png", channels, (64, 64))[0].flatten().int()
    assert (found.diff() >= 0).all()
    assert len(found.unique()) == 256


@pytest.mark.parametrize(
    "values",
    [
        np.full((4, 4), 65536, np.int32),
        np.full((4, 4), -1, np.int32),
        np.full((4, 4), 1.5, np.float32),
        np.full((4, 4), np.nan, np.float32),
    ],
    ids=["I above", "I below", "F above", "F not a number"],
)
def test_values_of_no_known_brightness_are_refused_rather_than_clipped(values, tmp_path):
    path = tmp_path / "odd.tif"
    Image.fromarray(values).save(path)
    with pytest.raises(DataError, match=r"odd\.tif cannot be read as a picture: .*values must lie in 0 …"):
        read_picture(path, 3, (4, 4))


def broken_files(tmp_path):
    """Damaged files by what their reader raises."""
    Image.fromarray(COLOUR).save(tmp_path / "good.png")
    good = (tmp_path / "good.png").read_bytes()
    tiff = tmp_path / "good.tif"
    Image.fromarray(COLOUR).save(tiff)
    return {
        "empty": b"",
        "text": b"not a picture",
        "cut": good[: len(good) // 2],
        "wrong checksum": good.replace(b"IHDR", b"IHDr", 1),
        "cut header": good[:20],
        "cut tiff": tiff.read_bytes()[:30],
        "absurd size": good[:16] + struct.pack(">II", 2**20, 2**20) + good[24:],
    }


@pytest.mark.parametrize(
    "kind", ["empty", "text", "cut", "wrong checksum", "cut header", "cut tiff", "absurd size", "missing", "folder"]
)
def test_damaged_picture_is_named_whatever_its_reader_raises(kind, tmp_path):
    path = tmp_path / "broken.png"
    if kind == "folder":
        path.mkdir()
    elif kind != "missing":
        path.write_bytes(broken_files(tmp_path)[kind])
    with pytest.raises(DataError) as caught:
        read_picture(path, 3, (4, 4))
    assert str(caught.value).startswith(f"{path} cannot be read as a picture: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [SyntaxError("bad"), ValueError(), struct.error("short"), EOFError(), KeyError(3)])
def test_any_exception_of_a_reader_is_a_damaged_picture(error, tmp_path, monkeypatch):
    def fail(path):
        raise error

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(DataError, match=r"x\.png cannot be read as a picture: \S"):
        read_picture(tmp_path / "x.png", 3, (4, 4))


@pytest.mark.parametrize("channels", [0, 2, 4])
def test_pictures_are_grey_or_coloured(channels, tmp_path):
    with pytest.raises(ValueError, match=f"channels must be 1 .* got {channels}"):
        read_picture(tmp_path / "x.png", channels, (4, 4))
