"""Bytes of a picture file to RGB pixels: formats, rotation, 16-bit scaling, limits that hold before decoding.

Transparent pictures are laid on white, as a browser shows them. Of a file with several pages or frames the first
is read. What the file says of its colour profile is not applied.
"""

import hashlib
import io
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image, _imaging

from sam_server.arrays import ByteArray
from sam_server.file_checks import (
    DEFLATE,
    UNCOMPRESSED,
    count_pages,
    quieten_libtiff,
    segments_fault,
    tile_fault,
    webp_canvas,
)

# Formats as Pillow names them. MPO is the JPEG of telephones with a second picture behind the first.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
_OPENED = (*FORMATS, "MPO")
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_TIFF_SIGNATURES = _SIGNATURES[4:]

# Percentiles that become 0 and 255: microscopes leave single hot and dead pixels outside them.
PERCENTILES = (0.1, 99.9)

# Orientation tag of EXIF and TIFF 6.0.
_ORIENTATION = 0x0112
_BITS_PER_SAMPLE = 258
_MAX_UINT8, _MAX_UINT16 = 255, 65535
# Offset of the bit depth in a PNG: signature, then length, name, width and height of IHDR.
_PNG_BIT_DEPTH = 24
_TILE_WIDTH, _TILE_LENGTH = 322, 323
# Arithmetic in floats takes 8 to 16 times the memory of the pixels, so it is done on so many at a time.
_BLOCK_PIXELS = 1 << 20

# Pillow's own check of the pixel count warns at a size of its choosing; `read` refuses at ours before decoding.
Image.MAX_IMAGE_PIXELS = None
# Odd metadata is no concern of a caller who wants pixels.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

# A damaged file is told to who sent it, not to the log, where every upload could write what it likes.
for _name in ("tifffile", "PIL"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
quieten_libtiff(_imaging.__file__)

AnyArray = npt.NDArray[Any]


class ImageError(ValueError):
    """A picture that cannot be read; the message says what to change, `code` is stable."""

    code = "image_error"


class EmptyImageError(ImageError):
    """There are no bytes."""

    code = "image_empty"


class NotAnImageError(ImageError):
    """The bytes are none of the formats."""

    code = "not_an_image"


class UnsupportedImageError(ImageError):
    """A picture of a known format in a kind of pixels that is not read."""

    code = "image_unsupported"


class ImageTooLargeError(ImageError):
    """More bytes or more pixels than the limits allow."""

    code = "image_too_large"


class TruncatedImageError(ImageError):
    """The file ends before the picture does."""

    code = "image_truncated"


class CorruptImageError(ImageError):
    """The file is damaged."""

    code = "image_corrupt"


@dataclass(frozen=True)
class ImageLimits:
    """What is refused before decoding.

    Attributes:
        max_bytes: size of the file in bytes.
        max_pixels: width * height of the picture.
    """

    max_bytes: int = 64 * 1024 * 1024
    max_pixels: int = 50_000_000


@dataclass(frozen=True)
class Scaling:
    """How deep pixels became 8 bits: `low` and below are 0, `high` and above 255, linear between.

    Attributes:
        low: value at the low percentile, over all channels.
        high: value at the high percentile.
        low_percentile: in 0 to 100.
        high_percentile: in 0 to 100.
    """

    low: float
    high: float
    low_percentile: float
    high_percentile: float


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded picture.

    Attributes:
        pixels: (H, W, 3) uint8 RGB, contiguous, after EXIF rotation.
        format: one of FORMATS.
        mode: pixels of the file as Pillow names them, such as "RGB", "P", "CMYK" or "I;16".
        pages: pages or frames in the file; the first one is `pixels`.
        scaling: for pixels of more than 8 bits; None otherwise.
        sha256: content address of `pixels`. The same picture has the same address in another lossless file or
            with other metadata, since what the model sees is the same.
    """

    pixels: ByteArray
    format: str
    mode: str
    pages: int
    scaling: Scaling | None
    sha256: str

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return (self.pixels.shape[0], self.pixels.shape[1])


def read(data: bytes, limits: ImageLimits | None = None, percentiles: tuple[float, float] = PERCENTILES) -> Picture:
    """Decode a picture file.

    Args:
        data: the bytes of a JPEG, PNG, WebP, BMP or TIFF file.
        limits: what is refused before decoding; `ImageLimits()` if None.
        percentiles: values in 0 to 100 at which pixels of more than 8 bits become 0 and 255.

    Raises:
        ImageError: a subclass with a stable `code`; nothing else is raised, whatever the bytes.
    """
    limits = limits or ImageLimits()
    _check_bytes(data, limits)
    if (canvas := webp_canvas(data)) is not None and min(canvas) > 0:
        _check_pixels(*canvas, limits)
    try:
        image = Image.open(io.BytesIO(data), formats=_OPENED)
    except Exception as error:  # Pillow raises nearly anything on damaged headers
        if data.startswith(_TIFF_SIGNATURES):
            return _read_deep_tiff(data, limits, percentiles)
        raise _refusal(data, error) from None
    with image:
        _check_pixels(image.width, image.height, limits)
        if _is_deep_tiff(image):
            return _read_deep_tiff(data, limits, percentiles)
        try:
            return _read(image, data, percentiles)
        except ImageError:
            raise
        except Exception as error:  # likewise on damaged contents
            raise _damage(error) from None


def _check_bytes(data: bytes, limits: ImageLimits) -> None:
    if not data:
        raise EmptyImageError("the picture is empty: send the bytes of a file")
    if len(data) > limits.max_bytes:
        raise ImageTooLargeError(
            f"the picture has {len(data):,} bytes, the limit is {limits.max_bytes:,}: send a smaller file"
        )


def _check_pixels(width: int, height: int, limits: ImageLimits) -> None:
    if width < 1 or height < 1:
        raise CorruptImageError(f"the picture says that it is {width} x {height} pixels")
    if width * height > limits.max_pixels:
        raise ImageTooLargeError(
            f"the picture has {width} x {height} = {width * height:,} pixels, the limit is {limits.max_pixels:,}:"
            " scale it down or cut it into tiles"
        )


def _refusal(data: bytes, error: Exception) -> ImageError:
    if data.startswith(_SIGNATURES) and not isinstance(error, MemoryError):
        return _damage(error)
    return NotAnImageError(f"the bytes are no picture that can be read: send {', '.join(FORMATS)}")


def _damage(error: Exception) -> ImageError:
    if isinstance(error, MemoryError):
        return ImageTooLargeError("there is not enough memory to decode the picture: scale it down")
    if "truncated" in str(error).lower() or isinstance(error, EOFError):
        return TruncatedImageError("the file ends before the picture does: send all of it")
    return CorruptImageError("the file is damaged: save the picture again")


def _read(image: Image.Image, data: bytes, percentiles: tuple[float, float]) -> Picture:
    mode = image.mode
    file_format = "JPEG" if image.format == "MPO" else str(image.format)
    pages = _pages(image, data)
    _check_tile(image)
    image.load()
    # Pillow turns TIFF pages upright when it loads them, and takes the tag away.
    orientation = _orientation(image)
    scaling = None
    if _is_deep_png(image, data):
        mode += ";16"
        pixels, scaling = _scale(_decode_with_opencv(data), percentiles)
    elif mode[0] in "IF":
        pixels, scaling = _scale(np.asarray(image), percentiles)
    else:
        pixels = _to_rgb(image)
    return _picture(_turn(pixels, orientation), file_format, mode, pages, scaling)


def _read_deep_tiff(data: bytes, limits: ImageLimits, percentiles: tuple[float, float]) -> Picture:
    """Read the kinds of TIFF that Pillow does not, such as 16-bit or float RGB and 64-bit float."""
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            page = file.pages.first
            _check_pixels(page.imagewidth, page.imagelength, limits)
            pixels, scaling = _scale(_decode_tiff_page(page, data), percentiles)
            return _picture(pixels, "TIFF", str(page.dtype), count_pages(data), scaling)
    except ImageError:
        raise
    except Exception as error:  # tifffile, too, raises nearly anything
        raise _damage(error) from None


def _picture(pixels: ByteArray, file_format: str, mode: str, pages: int, scaling: Scaling | None) -> Picture:
    pixels = np.ascontiguousarray(pixels)
    digest = hashlib.sha256(f"{pixels.shape[0]} {pixels.shape[1]} ".encode())
    digest.update(pixels.data)
    return Picture(pixels, file_format, mode, pages, scaling, digest.hexdigest())


def _pages(image: Image.Image, data: bytes) -> int:
    if image.format == "TIFF":
        return count_pages(data)
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception:  # a later page is damaged; the first may be whole
        return 1
    finally:
        image.seek(0)


def _check_tile(image: Image.Image) -> None:
    if image.format == "TIFF":
        sides = [image.tag_v2.get(tag, 0) for tag in (_TILE_WIDTH, _TILE_LENGTH)]  # type: ignore[attr-defined]
        if all(isinstance(side, int) for side in sides):
            _refuse(tile_fault(sides[0] * sides[1], image.width * image.height))


def _refuse(fault: str | None) -> None:
    if fault is not None:
        raise CorruptImageError(f"the TIFF file is damaged, {fault}: save the picture again")


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged metadata; the pixels may be whole
        return 1
    return value if isinstance(value, int) else 1


def _turn(pixels: AnyArray, orientation: int) -> AnyArray:
    """Turn (H, W) or (H, W, C) pixels upright: orientations 5 to 8 swap the axes, then each flips its own."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def _to_rgb(image: Image.Image) -> ByteArray:
    try:
        if image.has_transparency_data:
            rgba = np.asarray(image.convert("RGBA"))
            return _on_white(rgba[..., :3], rgba[..., 3], _MAX_UINT8)
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    except ValueError:
        raise UnsupportedImageError(f"pixels of kind {image.mode} are not read: save the picture as RGB") from None


def _on_white(colour: AnyArray, alpha: AnyArray, full: float) -> ByteArray:
    """Lay (H, W, 3) uint8 colour on white by its (H, W) opacity in 0 to `full`."""

    def lay(colour: AnyArray, alpha: AnyArray) -> ByteArray:
        opacity = np.clip(alpha[..., None].astype(np.float32) / full, 0.0, 1.0)
        laid = np.rint(_MAX_UINT8 + (colour.astype(np.float32) - _MAX_UINT8) * opacity)
        white: ByteArray = laid.astype(np.uint8)
        return white

    return colour if (alpha == full).all() else _by_rows(lay, colour, alpha)


def _by_rows(work: Callable[..., ByteArray], *arrays: AnyArray) -> ByteArray:
    """`work` on blocks of rows of (H, W, ...) arrays, put together: for arithmetic on each pixel by itself."""
    height, width = arrays[0].shape[:2]
    rows = max(1, _BLOCK_PIXELS // width)
    return np.concatenate([work(*(a[row : row + rows] for a in arrays)) for row in range(0, height, rows)])


def _is_deep_png(image: Image.Image, data: bytes) -> bool:
    """True for 16 bits in several channels, of which Pillow keeps only the high byte."""
    return image.format == "PNG" and image.mode in ("RGB", "RGBA", "LA") and data[_PNG_BIT_DEPTH] == 16


def _is_deep_tiff(image: Image.Image) -> bool:
    """True for 16 bits in several channels, of which Pillow keeps only the high byte."""
    if image.format != "TIFF" or image.mode not in ("RGB", "RGBA"):
        return False
    depths = image.tag_v2.get(_BITS_PER_SAMPLE, (8,))  # type: ignore[attr-defined]
    return isinstance(depths, tuple) and 16 in depths


def _decode_tiff_page(page: Any, data: bytes) -> AnyArray:
    """Values of a TIFF page, (H, W) or (H, W, 3 or 4), upright."""
    grid = page.imagewidth * page.imagelength
    channels = page.size // grid
    if page.axes not in ("YX", "YXS", "SYX") or channels not in (1, 3, 4) or np.dtype(page.dtype).kind not in "iuf":
        raise UnsupportedImageError("TIFF pages of this kind are not read: save one, three or four channels")
    if page.is_tiled:
        _refuse(tile_fault(page.tilewidth * page.tilelength, grid))
    if page.compression not in (UNCOMPRESSED, *DEFLATE):
        # tifffile unpacks PackBits into lists of Python's numbers, and leaves the others to a package of its own.
        # OpenCV reads them, and turns the picture upright.
        if page.dtype == np.uint16:
            return _decode_with_opencv(data)
        raise UnsupportedImageError("this compression of TIFF is not read: save the picture with deflate or with none")
    _refuse(segments_fault(page, data))
    values: AnyArray = page.asarray()
    tag = page.tags.get(_ORIENTATION)
    values = np.moveaxis(values, 0, -1) if page.axes == "SYX" else values
    return _turn(values[..., 0] if channels == 1 and values.ndim == 3 else values, 1 if tag is None else tag.value)


def _decode_with_opencv(data: bytes) -> AnyArray:
    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None:
        raise UnsupportedImageError("16-bit pixels of this kind are not read: save 16-bit grey or 8-bit RGB")
    if values.ndim == 2:
        return values
    return cv2.cvtColor(values, cv2.COLOR_BGR2RGB if values.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)


def _scale(values: AnyArray, percentiles: tuple[float, float]) -> tuple[ByteArray, Scaling]:
    """Scale (H, W) or (H, W, 3 or 4) deep pixels to (H, W, 3) uint8; the fourth channel is opacity."""
    colour = values[..., :3] if values.ndim == 3 else values
    finite = colour if colour.dtype.kind in "iu" else colour[np.isfinite(colour)]
    low, high = (float(v) for v in np.percentile(finite, percentiles)) if finite.size else (0.0, 0.0)
    pixels = _stretch(colour, low, high)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    elif values.shape[2] == 4:
        full = np.iinfo(values.dtype).max if values.dtype.kind in "iu" else 1.0
        pixels = _on_white(pixels, values[..., 3], full)
    return pixels, Scaling(low, high, *percentiles)


def _stretch(values: AnyArray, low: float, high: float) -> ByteArray:
    span = high - low if high > low else 1.0
    if values.dtype == np.uint16:
        return _to_bytes(np.arange(_MAX_UINT16 + 1), low, span)[values]
    return _by_rows(lambda block: _to_bytes(block, low, span), values)


def _to_bytes(values: AnyArray, low: float, span: float) -> ByteArray:
    # Values near float64's limits overflow on the way and end up at 0 or 255, where they belong.
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = np.nan_to_num((values.astype(np.float64) - low) / span, posinf=1.0, neginf=0.0)
    return np.rint(np.clip(scaled, 0.0, 1.0) * _MAX_UINT8).astype(np.uint8)
