"""Reading images: every mode, every way a file or an array can be wrong."""

import struct
import warnings
import zlib

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mlx_rcnn.inputs.images import ImageError, check_image_array, find_images, load_image


def colours(height=6, width=9):
    """Distinct, opaque pixels: red rises to the right, green downwards."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 20, y * 30, x + y], axis=-1).astype(np.uint8)


def write_png16(path, array, colour_type):
    """A 16-bit PNG written by hand: Pillow writes no 16-bit colour."""

    def chunk(kind, data):
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    height, width = array.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def test_rgb_file_as_string_and_path(tmp_path):
    Image.fromarray(colours()).save(tmp_path / "a.png")
    for path in (tmp_path / "a.png", str(tmp_path / "a.png")):
        pixels = load_image(path)
        assert pixels.dtype == np.uint8
        np.testing.assert_array_equal(pixels, colours())


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_modes_convert_as_pillow_does(mode):
    image = Image.fromarray(colours(40, 40)).convert("L" if mode == "PA" else "RGB").convert(mode)
    expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(load_image(image), expected)
    assert expected.shape == (40, 40, 3)


@pytest.mark.parametrize("name", ["a.png", "a.gif", "a.tif", "a.bmp", "a.webp"])
def test_file_formats_equal_pillow(tmp_path, name):
    Image.fromarray(colours()).save(tmp_path / name)
    with Image.open(tmp_path / name) as image:
        np.testing.assert_array_equal(load_image(tmp_path / name), np.asarray(image.convert("RGB")))


def test_alpha_is_dropped_not_blended(tmp_path):
    rgba = np.concatenate([colours(), np.zeros((6, 9, 1), np.uint8)], axis=2)
    Image.fromarray(rgba).save(tmp_path / "clear.png")
    np.testing.assert_array_equal(load_image(tmp_path / "clear.png"), colours())


def test_palette_with_transparency_bytes_does_not_warn(tmp_path):
    image = Image.fromarray(colours()).convert("P")
    image.save(tmp_path / "p.png", transparency=bytes(range(256)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = load_image(tmp_path / "p.png")
    np.testing.assert_array_equal(pixels, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("name", ["grey.png", "little.tif", "big.tif"])
def test_grey_16_bit_keeps_the_high_byte(tmp_path, name):
    grey = np.array([[0, 255, 256], [0x1234, 0x8000, 65535]], np.uint16)
    path = tmp_path / name
    if name == "grey.png":
        write_png16(path, grey, colour_type=0)
    else:
        Image.fromarray(grey.astype(">u2" if name == "big.tif" else "<u2")).save(path)
    # 0x1234 >> 8 = 0x12 = 18; 0x8000 >> 8 = 128; 255 >> 8 = 0.
    expected = [[0, 0, 1], [18, 128, 255]]
    pixels = load_image(path)
    assert pixels.shape == (2, 3, 3)
    for channel in range(3):
        np.testing.assert_array_equal(pixels[..., channel], expected)


def test_grey_32_bit_is_read_as_16_bit():
    image = Image.fromarray(np.array([[0, 0x1234, 65535]], np.int32))
    assert image.mode == "I"
    assert load_image(image)[0, :, 0].tolist() == [0, 18, 255]
    for wrong in (-5, 70000):
        with pytest.raises(ImageError, match=f"{wrong}.*expected 8, 12 or 16 bits"):
            load_image(Image.fromarray(np.array([[7, wrong]], np.int32)))


@pytest.mark.parametrize(
    ("dtype", "name"), [("<u2", "a.png"), ("<u2", "a.tif"), (">u2", "a.tif"), ("<i4", "a.tif")]
)
@pytest.mark.parametrize("bits", [8, 12])
def test_few_bits_in_many_are_visible_and_said(tmp_path, dtype, name, bits):
    grey = colours(20, 12)[..., 0]
    Image.fromarray((grey.astype(np.int64) << (bits - 8)).astype(dtype)).save(tmp_path / name)
    with pytest.warns(UserWarning, match=rf"{name} has .* taken as {bits} bits"):
        pixels = load_image(tmp_path / name)
    np.testing.assert_array_equal(pixels, np.stack([grey] * 3, -1))


def test_black_needs_no_word(tmp_path):
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "a.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_image(tmp_path / "a.png").max() == 0


@pytest.mark.parametrize("kind", [0, 2])
def test_colours_that_16_bits_hide_are_said(tmp_path, kind):
    write_png16(tmp_path / "a.png", colours()[..., 0] if kind == 0 else colours(), kind)
    with pytest.warns(UserWarning, match=r"a\.png has"):
        load_image(tmp_path / "a.png")


def test_colour_16_bit_keeps_the_high_byte(tmp_path):
    high = colours().astype(np.uint16)
    write_png16(tmp_path / "rgb.png", high * 256 + 77, colour_type=2)
    np.testing.assert_array_equal(load_image(tmp_path / "rgb.png"), colours())


def test_float_file_is_an_array_of_floats():
    grey = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    pixels = load_image(Image.fromarray(grey))
    assert pixels.dtype == np.float32
    np.testing.assert_array_equal(pixels, np.stack([grey] * 3, axis=-1))
    for bits in (8, 12, 16):
        with pytest.warns(UserWarning, match=f"taken as {bits} bits"):
            pixels = load_image(Image.fromarray(grey * (2**bits - 1)))
        np.testing.assert_allclose(pixels, np.stack([grey] * 3, axis=-1), atol=1e-6)
    for wrong in (-1, np.nan, 1e6):
        with pytest.raises(ImageError, match="expected"):
            load_image(Image.fromarray(grey + np.float32(wrong)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_files_but_not_pil_images(tmp_path, orientation):
    upright = colours(6, 9)
    # How a camera stores the upright picture under each orientation (EXIF 2.32, tag 0x0112).
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.png"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)
    np.testing.assert_array_equal(load_image(path), upright)
    with Image.open(path) as image:
        np.testing.assert_array_equal(load_image(image), stored)


@pytest.mark.parametrize("size", [(1, 1), (4000, 3), (1, 500)])
def test_extreme_sizes(tmp_path, size):
    Image.new("RGB", size, (1, 2, 3)).save(tmp_path / "a.png")
    assert load_image(tmp_path / "a.png").shape == (size[1], size[0], 3)


@pytest.mark.parametrize("convert", [np.asarray, mx.array], ids=["numpy", "mlx"])
def test_arrays_pass_through(convert):
    np.testing.assert_array_equal(load_image(convert(colours())), colours())
    floats = (colours() / 255).astype(np.float32)
    pixels = load_image(convert(floats))
    assert pixels.dtype == np.float32
    np.testing.assert_array_equal(pixels, floats)


def test_other_float_dtypes_become_float32():
    for array in (np.full((2, 2, 3), 0.5), np.full((2, 2, 3), 0.5, np.float16)):
        assert load_image(array).dtype == np.float32
    pixels = load_image(mx.full((2, 2, 3), 0.5, dtype=mx.bfloat16))
    assert pixels.dtype == np.float32 and (pixels == 0.5).all()


@pytest.mark.parametrize(
    ("low", "high", "cure"),
    [
        (0, 12, "divide by 255"),
        (0, 255, "divide by 255"),
        (-1, 1, "undo the normalisation"),
        (-2.1, 2.6, "undo the normalisation"),
        (0, 4095, "divide by the largest"),
    ],
)
def test_floats_outside_0_to_1_are_refused(low, high, cure):
    floats = np.linspace(low, high, 60, dtype=np.float32).reshape(4, 5, 3)
    match = rf"from {low:g} to {high:g}: expected floats in \[0, 1\]; {cure}"
    for array in (floats, mx.array(floats), floats.astype(">f8")):
        with pytest.raises(ImageError, match=match):
            load_image(array)


def test_rounding_outside_0_to_1_is_clipped():
    floats = np.array([[[-1e-4, 0.5, 1.0000001]]], np.float32)
    np.testing.assert_array_equal(load_image(floats), [[[0, 0.5, 1]]])


class Tensor:
    """What PyTorch's tensors do to NumPy."""

    def __init__(self, array, dtype="torch.float32", grad=True, device="cuda:0"):
        self.array, self.dtype, self.grad, self.device = array, dtype, grad, device
        self.shape, self.ndim = array.shape, array.ndim

    def __array__(self, dtype=None, copy=None):
        if self.grad:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad.")
        if self.device != "cpu" or self.dtype == "torch.bfloat16":
            raise TypeError("can't convert this tensor to numpy")
        return self.array

    def detach(self):
        return Tensor(self.array, self.dtype, False, self.device)

    def cpu(self):
        return Tensor(self.array, self.dtype, self.grad, "cpu")

    def float(self):
        return Tensor(self.array.astype(np.float32), "torch.float32", self.grad, self.device)


@pytest.mark.parametrize("dtype", ["torch.float32", "torch.bfloat16"])
def test_tensors_of_pytorch(dtype):
    floats = (colours() / 255).astype(np.float32)
    pixels = load_image(Tensor(floats, dtype))
    assert pixels.dtype == np.float32
    np.testing.assert_array_equal(pixels, floats)


def test_arrays_that_numpy_refuses_are_named():
    tensor = Tensor(colours())
    tensor.detach = None
    with pytest.raises(ImageError, match="does not become a NumPy array: Can't call"):
        load_image(tensor)


def test_read_only_and_strided_arrays():
    pixels = colours()[::-1, ::2]
    pixels.flags.writeable = False
    np.testing.assert_array_equal(load_image(pixels), pixels)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((4, 5), r"shape \(4, 5\): expected \(H, W, 3\); repeat the grey channel"),
        ((4, 5, 1), "repeat the grey channel"),
        ((4, 5, 4), r"shape \(4, 5, 4\): expected \(H, W, 3\); drop the alpha channel"),
        ((3, 20, 30), "channels last; this looks like channels first"),
        ((2, 4, 5, 3), "one image"),
        ((0, 5, 3), "at least one pixel"),
        ((5, 0, 3), "at least one pixel"),
    ],
)
def test_wrong_shapes(shape, message):
    with pytest.raises(ImageError, match=message):
        load_image(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("dtype", [np.int64, np.uint16, np.bool_, np.complex64])
def test_wrong_dtypes(dtype):
    with pytest.raises(ImageError, match=f"dtype {np.dtype(dtype)}: expected uint8"):
        load_image(np.zeros((2, 2, 3), dtype))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_not_finite(value):
    array = np.zeros((2, 2, 3), np.float32)
    array[1, 0, 2] = value
    with pytest.raises(ImageError, match="NaN or infinite"):
        load_image(array)


def test_other_types_are_refused():
    for thing in (None, 3, [[1, 2, 3]]):
        with pytest.raises(TypeError, match="expected a path, a PIL image or"):
            load_image(thing)


def test_check_image_array_names_what_it_was_told():
    with pytest.raises(ImageError, match="^image 3 has shape"):
        check_image_array(np.zeros((2, 2)), "image 3")


def broken_files(folder):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(
        folder / "whole.jpg"
    )
    data = (folder / "whole.jpg").read_bytes()
    Image.fromarray(colours()).save(folder / "whole.png")
    png = (folder / "whole.png").read_bytes()
    return {
        "empty.jpg": b"",
        "truncated.jpg": data[: len(data) // 2],
        "header.jpg": data[:20],
        "truncated.png": png[:-30],
        "text.jpg": b"this is a text\n" * 20,
        "page.png": b"<!DOCTYPE html><html></html>",
        "phone.heic": b"\0\0\0\x18ftypheic" + b"\0" * 40,
    }


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("empty.jpg", "the file is empty"),
        ("truncated.jpg", "truncated"),
        ("header.jpg", ""),
        ("truncated.png", ""),
        ("text.jpg", "not an image"),
        ("page.png", "not an image"),
        ("phone.heic", "HEIC is not supported"),
    ],
)
def test_broken_files_are_named_on_one_line(tmp_path, name, reason):
    path = tmp_path / name
    path.write_bytes(broken_files(tmp_path)[name])
    with pytest.raises(ImageError) as caught:
        load_image(path)
    message = str(caught.value)
    assert message.startswith(f"cannot read {path}: ") and reason in message
    assert "\n" not in message


def test_decompression_bomb(tmp_path, monkeypatch):
    Image.new("1", (300, 300)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ImageError, match=r"bomb\.png: .*exceeds limit"):
        load_image(tmp_path / "bomb.png")


def test_broken_pil_image(tmp_path):
    (tmp_path / "half.jpg").write_bytes(broken_files(tmp_path)["truncated.jpg"])
    with Image.open(tmp_path / "half.jpg") as image, pytest.raises(ImageError, match="truncated"):
        load_image(image)


@pytest.mark.parametrize("mode", ["La", "RGBa"])
def test_premultiplied_modes(mode):
    straight = Image.fromarray(colours()).convert(mode.upper())
    np.testing.assert_array_equal(
        load_image(straight.convert(mode)), np.asarray(straight.convert("RGB"))
    )


def test_lab_is_seen_in_colour():
    pixels = load_image(Image.new("LAB", (2, 2), (128, 128, 128)))
    assert pixels.shape == (2, 2, 3) and 100 < pixels.mean() < 140 and np.ptp(pixels) < 20


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such image: .*none\.jpg"):
        load_image(tmp_path / "none.jpg")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        load_image(tmp_path)


@given(st.binary(max_size=300), st.sampled_from(["", "jpg", "png", "gif"]))
def test_any_bytes_load_or_raise_image_error(tmp_path_factory, data, start):
    prefix = {"": b"", "jpg": b"\xff\xd8\xff", "png": b"\x89PNG\r\n\x1a\n", "gif": b"GIF89a"}
    path = tmp_path_factory.mktemp("fuzz") / "file.jpg"
    path.write_bytes(prefix[start] + data)
    try:
        pixels = load_image(path)
    except ImageError as error:
        assert str(path) in str(error)
    else:
        assert pixels.ndim == 3 and pixels.shape[2] == 3


@pytest.fixture
def tree(tmp_path):
    """b.JPG, a.png, notes.txt, .hidden.jpg and sub/c.jpg."""
    (tmp_path / "sub").mkdir()
    for name in ("b.JPG", "a.png", "notes.txt", ".hidden.jpg", "sub/c.jpg"):
        (tmp_path / name).touch()
    return tmp_path


def names(paths, root):
    return [path.relative_to(root).as_posix() for path in paths]


def test_find_in_folder_is_one_level_sorted_and_visible(tree):
    assert names(find_images([str(tree)]), tree) == ["a.png", "b.JPG"]
    assert names(find_images([tree]), tree) == ["a.png", "b.JPG"]


def test_find_file_with_any_suffix(tree):
    assert names(find_images([f"{tree}/notes.txt"]), tree) == ["notes.txt"]


def test_find_glob(tree):
    assert names(find_images([f"{tree}/*"]), tree) == ["a.png", "b.JPG"]
    found = find_images([f"{tree}/**/*.*"])
    assert names(found, tree) == ["a.png", "b.JPG", "sub/c.jpg"]


def test_find_keeps_order_and_drops_repeats(tree):
    sources = [f"{tree}/sub", f"{tree}/b.JPG", str(tree), f"{tree}/sub/../b.JPG"]
    assert names(find_images(sources), tree) == ["sub/c.jpg", "b.JPG", "a.png"]


def test_find_file_with_brackets_in_its_name(tmp_path):
    (tmp_path / "shot[1].jpg").touch()
    assert names(find_images([f"{tmp_path}/shot[1].jpg"]), tmp_path) == ["shot[1].jpg"]


def test_find_spells_paths_as_given(tree, monkeypatch):
    monkeypatch.chdir(tree)
    assert [str(p) for p in find_images(["sub", "a.png"])] == ["sub/c.jpg", "a.png"]


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("none.jpg", FileNotFoundError, r"no such file or folder: none\.jpg"),
        ("empty", ValueError, "no images in folder empty"),
        ("*.webp", ValueError, r"no image matches \*\.webp"),
        ("*.txt", ValueError, r"no image matches \*\.txt"),
        ("", ValueError, "an empty path"),
    ],
)
def test_find_errors_name_the_source(tree, monkeypatch, source, error, message):
    monkeypatch.chdir(tree)
    (tree / "empty").mkdir()
    with pytest.raises(error, match=message):
        find_images(["a.png", source])


def test_find_nothing():
    with pytest.raises(ValueError, match="no images given"):
        find_images([])
