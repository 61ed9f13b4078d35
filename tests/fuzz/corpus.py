"""Small whole pictures in every kind of file that the reader knows, and in two that it must refuse."""

import io
import itertools

import cv2
import numpy as np
import tifffile
from PIL import Image
from skimage import data

# What the reader is to refuse, however it is damaged.
STRANGERS = ("GIF", "AVIF")

_TIFF_COMPRESSIONS = ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "tiff_deflate")
_DEEP_DTYPES = (np.uint16, np.int16, np.uint32, np.float16, np.float32, np.float64)


def make_corpus() -> dict[str, bytes]:
    """Files by name; the first word of a name is the format."""
    rgb = np.ascontiguousarray(data.chelsea()[100:124, 100:131])
    return {**_pngs(rgb), **_photos(rgb), **_bitmaps(rgb), **_tiffs(rgb), **_deep_tiffs(rgb), **_strangers(rgb)}


def _save(pixels: np.ndarray | Image.Image, file_format: str, **options: object) -> bytes:
    image = Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def _with_alpha(rgb: np.ndarray) -> np.ndarray:
    alpha = np.linspace(0, 255, rgb[..., 0].size).reshape(rgb.shape[:2]).astype(np.uint8)
    return np.dstack([rgb, alpha])


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def _pngs(rgb: np.ndarray) -> dict[str, bytes]:
    image = Image.fromarray(rgb)
    deep = rgb.astype(np.uint16) * 200
    deep_alpha = np.dstack([deep, deep[..., 0]])
    frames = [Image.fromarray(255 - rgb)]
    return {
        "PNG RGB": _save(rgb, "PNG"),
        "PNG RGB with EXIF": _save(rgb, "PNG", exif=_exif(6)),
        "PNG grey": _save(image.convert("L"), "PNG"),
        "PNG grey and alpha": _save(image.convert("LA"), "PNG"),
        "PNG 1 bit": _save(image.convert("1"), "PNG"),
        "PNG RGBA": _save(_with_alpha(rgb), "PNG"),
        "PNG palette": _save(image.quantize(16), "PNG"),
        "PNG palette with alpha": _save(image.quantize(16), "PNG", transparency=bytes(range(0, 160, 10))),
        "PNG grey of 16 bits": _save(deep[..., 0], "PNG"),
        "PNG RGB of 16 bits": cv2.imencode(".png", deep)[1].tobytes(),
        "PNG RGBA of 16 bits": cv2.imencode(".png", deep_alpha)[1].tobytes(),
        "PNG animated": _save(image, "PNG", save_all=True, append_images=frames),
    }


def _photos(rgb: np.ndarray) -> dict[str, bytes]:
    image, second = Image.fromarray(rgb), Image.fromarray(255 - rgb)
    return {
        "JPEG RGB": _save(rgb, "JPEG"),
        "JPEG progressive with EXIF": _save(rgb, "JPEG", progressive=True, exif=_exif(8)),
        "JPEG grey": _save(image.convert("L"), "JPEG"),
        "JPEG CMYK": _save(image.convert("CMYK"), "JPEG"),
        "JPEG with restarts": _save(rgb, "JPEG", restart_marker_blocks=2),
        "JPEG of two pictures": _save(rgb, "MPO", save_all=True, append_images=[second]),
        "WEBP lossy": _save(rgb, "WEBP"),
        "WEBP lossless": _save(rgb, "WEBP", lossless=True),
        "WEBP RGBA with EXIF": _save(_with_alpha(rgb), "WEBP", exif=_exif(3)),
        "WEBP animated": _save(image, "WEBP", save_all=True, append_images=[second]),
    }


def _bitmaps(rgb: np.ndarray) -> dict[str, bytes]:
    image = Image.fromarray(rgb)
    return {
        "BMP RGB": _save(rgb, "BMP"),
        "BMP RGBA": _save(_with_alpha(rgb), "BMP"),
        "BMP palette": _save(image.quantize(16), "BMP"),
        "BMP 1 bit": _save(image.convert("1"), "BMP"),
    }


def _tiffs(rgb: np.ndarray) -> dict[str, bytes]:
    image, second = Image.fromarray(rgb), Image.fromarray(255 - rgb)
    files = {f"TIFF RGB {name}": _save(rgb, "TIFF", compression=name) for name in _TIFF_COMPRESSIONS}
    files["TIFF 1 bit of a fax"] = _save(image.convert("1"), "TIFF", compression="group4")
    files["TIFF palette"] = _save(image.quantize(16), "TIFF")
    files["TIFF CMYK"] = _save(image.convert("CMYK"), "TIFF")
    files["TIFF RGBA"] = _save(_with_alpha(rgb), "TIFF")
    files["TIFF of two pages"] = _save(rgb, "TIFF", save_all=True, append_images=[second])
    files["TIFF turned"] = _save(rgb, "TIFF", tiffinfo={0x0112: 7})
    files["TIFF RGB of 16 bits, LZW"] = cv2.imencode(".tiff", rgb.astype(np.uint16) * 200)[1].tobytes()
    return files


def _deep_tiffs(rgb: np.ndarray) -> dict[str, bytes]:
    files = {}
    for dtype, tile in itertools.product(_DEEP_DTYPES, (None, (16, 16))):
        pixels = rgb.astype(dtype) * dtype(100)
        options = {"photometric": "rgb", "tile": tile, "compression": "zlib" if tile else None}
        files[f"TIFF RGB {np.dtype(dtype)}, tiles {tile}"] = _write_tiff(pixels, **options)
        files[f"TIFF grey {np.dtype(dtype)}, tiles {tile}"] = _write_tiff(pixels[..., 0], tile=tile)
    deep = rgb.astype(np.uint16) * 200
    files["TIFF big-endian"] = _write_tiff(deep, photometric="rgb", byteorder=">")
    files["TIFF with 64-bit offsets"] = _write_tiff(deep, photometric="rgb", bigtiff=True)
    planes = np.ascontiguousarray(np.moveaxis(deep, -1, 0))
    files["TIFF of planes"] = _write_tiff(planes, photometric="rgb", planarconfig="separate")
    files["TIFF with a predictor"] = _write_tiff(deep, photometric="rgb", compression="zlib", predictor=2)
    packbits = [cv2.IMWRITE_TIFF_COMPRESSION, cv2.IMWRITE_TIFF_COMPRESSION_PACKBITS]
    files["TIFF PackBits of 16 bits"] = cv2.imencode(".tiff", deep, packbits)[1].tobytes()
    return files


def _write_tiff(pixels: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, metadata=None, **options)
    return file.getvalue()


def _strangers(rgb: np.ndarray) -> dict[str, bytes]:
    return {"GIF": _save(Image.fromarray(rgb).quantize(16), "GIF"), "AVIF": _save(rgb, "AVIF")}
