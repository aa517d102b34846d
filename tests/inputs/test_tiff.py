"""TIFF by windows: the same pixels as tifffile and Pillow read whole, whatever the layout."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from mlx_rcnn import load_image
from mlx_rcnn.inputs import tiff_plane
from mlx_rcnn.inputs.pixels import ImageError
from mlx_rcnn.inputs.tiff import TiffImage, count_pages, is_tiff
from mlx_rcnn.inputs.windows import (
    Windows,
    file_and_page,
    in_windows,
    open_windows,
    overview,
    page_name,
)

H, W = 101, 147
RANDOM = np.random.default_rng(0)
RGB = RANDOM.integers(0, 256, (H, W, 3), dtype=np.uint8)
GREY = RGB[..., 0]


def whole(image: Any) -> np.ndarray:
    return np.asarray(image[0 : image.shape[0], 0 : image.shape[1]])


def check_windows(image: TiffImage, expected: np.ndarray) -> None:
    np.testing.assert_array_equal(whole(image), expected)
    for _ in range(8):
        y, x = (np.sort(RANDOM.integers(0, n + 1, 2)) for n in expected.shape[:2])
        window = slice(*y.tolist()), slice(*x.tolist())
        np.testing.assert_array_equal(image[window], expected[window])


@pytest.mark.parametrize("compression", [None, "zlib", "packbits"])
@pytest.mark.parametrize("layout", [{"tile": (32, 48)}, {"rowsperstrip": 10}, {}])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_every_layout_is_what_tifffile_reads(
    tmp_path: Path, compression: Any, layout: dict[str, Any], planar: str
) -> None:
    if compression == "packbits":
        pytest.importorskip("imagecodecs", reason="tifffile writes packbits with it")
    path = tmp_path / "a.tif"
    pixels = RGB if planar == "contig" else RGB.transpose(2, 0, 1)
    for order in "<>":
        tifffile.imwrite(
            path,
            pixels,
            photometric="rgb",
            planarconfig=planar,
            compression=compression,
            byteorder=order,
            **layout,
        )
        with TiffImage(path) as image:
            assert image.shape == (H, W, 3) and image.dtype == np.uint8 and image.pages == 1
            check_windows(image, RGB)
        np.testing.assert_array_equal(load_image(path), RGB)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "1", "I;16"])
def test_kinds_are_as_pillow_has_them(tmp_path: Path, mode: str) -> None:
    path, picture = tmp_path / "a.tif", Image.fromarray(RGB)
    if mode == "P":
        picture = picture.quantize(17)
    elif mode == "I;16":
        picture = Image.fromarray(GREY.astype(np.uint16) * 200)
    else:
        picture = picture.convert("L" if mode == "LA" else mode)
    if mode in ("LA", "RGBA"):
        picture.putalpha(Image.fromarray(GREY))
    picture.save(path)
    with TiffImage(path) as image:
        check_windows(image, load_image(path))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations_are_as_pillow_turns_them(tmp_path: Path, orientation: int) -> None:
    path = tmp_path / "a.tif"
    extra = [(274, "H", 1, orientation, True)]
    tifffile.imwrite(path, RGB, photometric="rgb", tile=(32, 32), extratags=extra)
    with TiffImage(path) as image:
        check_windows(image, load_image(path))


@pytest.mark.parametrize("most", [200, 3000, 60000])
@pytest.mark.parametrize("kind", ["uint16", "uint32", "float32"])
def test_depth_is_that_of_the_whole_picture(tmp_path: Path, most: int, kind: str) -> None:
    """The brightest pixel decides for all windows, also for those without it."""
    values = (GREY // 8).astype(kind)
    values[-1, -1] = most
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, values, tile=(32, 32))
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        with TiffImage(path) as image:
            first = image[0:8, 0:8]
            check_windows(image, load_image(path))
    assert first.dtype == image.dtype == (np.float32 if kind == "float32" else np.uint8)
    said = [w for w in given if "only: taken as" in str(w.message)]
    # Once by each reader, not once a window.
    assert len(said) == (0 if most == 60000 and kind != "float32" else 2)


def test_colours_of_16_bits_give_their_high_byte(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, RGB.astype(np.uint16) * 256 + 99, photometric="rgb", tile=(32, 32))
    with TiffImage(path) as image:
        check_windows(image, RGB)
        np.testing.assert_array_equal(load_image(path), RGB)
    tifffile.imwrite(path, RGB.astype(np.uint16), photometric="rgb", tile=(32, 32))
    with TiffImage(path) as image, pytest.warns(UserWarning, match="comes out"):
        assert not image[0:9, 0:9].any()


def test_white_is_zero_and_holes(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, GREY, photometric="miniswhite", tile=(32, 32))
    with TiffImage(path) as image:
        check_windows(image, np.repeat(255 - GREY[..., None], 3, axis=2))
    with tifffile.TiffWriter(path) as file:  # one tile in the file, the others left out
        tiles = iter([np.full((32, 32), 7, np.uint8), *[None] * 3])
        file.write(tiles, shape=(64, 64), dtype=np.uint8, tile=(32, 32), compression="zlib")
    expected = np.zeros((64, 64, 3), np.uint8)
    expected[:32, :32] = 7
    with TiffImage(path) as image:
        check_windows(image, expected)


def write_pyramid(path: Path, pages: int = 1) -> list[np.ndarray]:
    """Levels of 1, 1/2 and 1/4, as averages."""
    levels = [np.kron(RGB, np.ones((4, 4, 1), np.uint8))]
    levels += [levels[0][::2, ::2], levels[0][::4, ::4]]
    with tifffile.TiffWriter(path, ome=pages == 1) as file:
        for page in range(pages):
            options = {"photometric": "rgb", "tile": (64, 64)}
            file.write(levels[0] // (page + 1), subifds=2, **options)
            for level in levels[1:]:
                file.write(level // (page + 1), subfiletype=1, **options)
    return levels


def test_pyramids(tmp_path: Path) -> None:
    path = tmp_path / "slide.ome.tif"
    levels = write_pyramid(path)
    with TiffImage(path) as image:
        assert image.sizes == [level.shape[:2] for level in levels] and image.pages == 1
        for i, level in enumerate(levels):
            check_windows(image.at_level(i), level)
            assert image.at_level(i).scale.tolist() == [2**i, 2**i] and image.level == 0
        with pytest.raises(ImageError, match=r"no level 3: expected 0 to 2 \(588x404, 294x202"):
            image.at_level(3)
        # 294 is the largest that fits and not less than half; below, 147 is halved.
        for most, size, scale in ((300, (202, 294), 2), (100, (51, 74), 8), (588, (404, 588), 1)):
            picture, factor = overview(image, most)
            assert picture.shape == (*size, 3) and factor.tolist() == [scale, scale]


def test_overview_averages(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, RGB, photometric="rgb", tile=(32, 32))
    with TiffImage(path) as image:
        picture, scale = overview(image, 40)
    assert scale.tolist() == [4, 4] and picture.shape == (26, 37, 3)
    for y, x in ((0, 0), (25, 36), (25, 3), (7, 36)):  # at the borders what there is
        mean = RGB[4 * y : 4 * y + 4, 4 * x : 4 * x + 4].reshape(-1, 3).mean(axis=0)
        np.testing.assert_allclose(picture[y, x], mean, atol=0.5)


def test_pages(tmp_path: Path) -> None:
    path = tmp_path / "stack.tif"
    stack = np.stack([RGB, RGB[::-1], RGB[:, ::-1]])
    tifffile.imwrite(path, stack, photometric="rgb", compression="zlib")
    assert count_pages(path) == 3
    for number, page in enumerate(stack, 1):
        check_windows(TiffImage(path, number), page)
        check_windows(open_windows(page_name(path, number)), page)
    for number in (0, 4):
        with pytest.raises(ImageError, match=f"no page {number}: expected 1 to 3"):
            TiffImage(path, number)
    mixed = tmp_path / "mixed.tif"  # sizes and kinds may differ
    with tifffile.TiffWriter(mixed) as file:
        file.write(RGB, photometric="rgb")
        file.write(GREY[:33, :60], photometric="minisblack")
    assert count_pages(mixed) == 2 and TiffImage(mixed, 2).shape == (33, 60, 3)
    pyramids = tmp_path / "pyramids.tif"
    levels = write_pyramid(pyramids, pages=2)
    with TiffImage(pyramids, 2) as image:
        assert image.pages == 2 and len(image.sizes) == 3
        check_windows(image.at_level(1), levels[1] // 2)


def test_names_of_pages(tmp_path: Path) -> None:
    path = Path("a b/ü#x.tif")
    assert file_and_page(page_name(path, 12)) == (path, 12)
    assert file_and_page("a.tif") == (Path("a.tif"), None)
    real = tmp_path / "a.tif#page=1"  # a file of such a name is that file
    real.write_bytes(b"x")
    assert file_and_page(real) == (real, None)


def test_what_is_kept_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, RGB, photometric="rgb", tile=(32, 32), compression="zlib")
    monkeypatch.setattr(tiff_plane, "KEPT", 3 * 32 * 32 * 3)
    with TiffImage(path) as image:
        check_windows(image, RGB)
        plane = image._planes[0]
        assert plane._bytes == 3 * 32 * 32 * 3 and len(plane._kept) == 3


def test_a_pass_takes_every_stored_piece_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiff_plane, "_BLOCK", 5000)
    for layout in ({"tile": (32, 48)}, {"rowsperstrip": 7}, {}):
        for compression in ("zlib", None):
            path = tmp_path / "a.tif"
            tifffile.imwrite(path, GREY, compression=compression, **layout)
            with TiffImage(path) as image:
                plane = image._planes[0]
                seen = np.zeros((H, W), int)
                for rows, columns in plane.blocks():
                    seen[slice(*rows), slice(*columns)] += 1
                assert (seen == 1).all()


def test_arrays_that_lie_elsewhere() -> None:
    class Stored:  # as zarr and h5py have it
        shape, dtype, reads = RGB.shape, RGB.dtype, 0

        def __getitem__(self, window: Any) -> np.ndarray:
            self.reads += 1
            return RGB[window]

    assert in_windows(Stored()) and not in_windows(RGB) and not in_windows("a.tif")
    image = open_windows(Stored())
    np.testing.assert_array_equal(image[3:9, 4:8], RGB[3:9, 4:8])
    picture, scale = overview(image, 50)
    assert picture.shape == (34, 49, 3) and scale.tolist() == [3, 3]
    wrong = Stored()
    wrong.shape = (4, 4, 2)
    with pytest.raises(ImageError, match=r"shape \(4, 4, 2\): expected \(H, W, 3\)"):
        Windows(wrong)


def test_what_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with pytest.raises(FileNotFoundError, match="no such image"):
        TiffImage(path)
    with pytest.raises(IsADirectoryError, match="is a folder"):
        TiffImage(tmp_path)
    for content, message in (
        (b"", "the file is empty"),
        (b"\x89PNG\r\n\x1a\n", "no TIFF, but starts as a PNG"),
        (b"II*\0\x08\0\0\0", "TIFF"),
        (b"II*\0\xff\xff\xff\x7f", "TIFF"),
    ):
        path.write_bytes(content)
        assert is_tiff(path) == content.startswith(b"II")
        with pytest.raises(ImageError, match=message):
            TiffImage(path)
    five = {"photometric": "rgb", "planarconfig": "contig", "extrasamples": (0, 0)}
    tifffile.imwrite(path, np.zeros((H, W, 5), np.uint8), **five)
    with pytest.raises(ImageError, match=r"RGB with 5 values a pixel.*expected grey, RGB"):
        TiffImage(path)
    tifffile.imwrite(path, np.full((H, W), -1, np.int16))
    with TiffImage(path) as image, pytest.raises(ImageError, match="from -1 to -1: expected"):
        image[0:4, 0:4]
    tifffile.imwrite(path, np.full((H, W), np.nan, np.float32))
    with TiffImage(path) as image, pytest.raises(ImageError, match="NaN or infinite"):
        image[0:4, 0:4]


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_file_cut_short(tmp_path: Path, compression: Any) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, RGB, photometric="rgb", compression=compression, rowsperstrip=20)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    with TiffImage(path) as image:
        np.testing.assert_array_equal(image[0:20, 0:20], RGB[:20, :20])
        with pytest.raises(ImageError, match=r"a\.tif: the file ends before its pixels do"):
            image[0:H, 0:W]
    if compression:
        start = tifffile.TiffFile(path).pages[0].dataoffsets[0]
        path.write_bytes(data[:start] + b"\0" * 40 + data[start + 40 :])
        with (
            TiffImage(path) as image,
            pytest.raises(ImageError, match="in tile or strip 0"),
        ):
            image[0:H, 0:W]


def test_without_the_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, stack = tmp_path / "a.tif", tmp_path / "stack.tif"
    Image.fromarray(RGB).save(path)
    tifffile.imwrite(stack, np.stack([RGB, RGB]), photometric="rgb")
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(ImportError, match=r'pip install "mlx-rcnn\[tiff\]"'):
        TiffImage(path)
    np.testing.assert_array_equal(open_windows(path), RGB)  # as Pillow reads it
    with pytest.raises(ImportError, match="needs tifffile"):
        open_windows(stack)  # of which Pillow would give the first page


def test_compression_that_needs_imagecodecs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(RGB).save(path, compression="jpeg")

    class Lacking(dict):  # what tifffile has without the library
        def __getitem__(self, key: Any) -> Any:
            raise KeyError("<COMPRESSION.JPEG: 7> requires the 'imagecodecs' package")

    monkeypatch.setattr(tifffile.TIFF, "DECOMPRESSORS", Lacking(), raising=False)
    with pytest.raises(ImportError, match="by JPEG, which needs imagecodecs: pip install imagec"):
        TiffImage(path)
    np.testing.assert_array_equal(open_windows(path), load_image(path))


def test_jpeg(tmp_path: Path) -> None:
    pytest.importorskip("imagecodecs", reason="an optional library, which decodes JPEG in TIFF")
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, RGB, photometric="rgb", tile=(32, 32), compression="jpeg")
    with TiffImage(path) as image:
        check_windows(image, tifffile.imread(path))
