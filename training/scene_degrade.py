"""What a camera adds to a drawn scene: light, shadow, blur, noise, compression, grey."""

import cv2
import numpy as np

from sam_server import images
from sam_server.arrays import ByteArray, FloatArray
from training.scene_textures import gradient

# Of a 16-bit camera: photons at white, electrons of read noise, grey levels without light and per photon.
PHOTONS = (40.0, 4000.0)
READ_NOISE = 2.0
DARK_LEVEL = (100.0, 2000.0)
GAIN = (0.5, 8.0)


def uneven_light(image: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Vignette, a ramp of light, soft cast shadows."""
    height, width = image.shape[:2]
    gain = np.ones((height, width), np.float32)
    if rng.random() < 0.35:
        y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
        gain -= rng.uniform(0.05, 0.45) * (x**2 + y**2) / 2
    if rng.random() < 0.35:
        gain += gradient(height, width, rng) * rng.uniform(0, 0.4)
    if rng.random() < 0.2:
        shadow = np.zeros((height // 8, width // 8), np.float32)
        points = rng.integers(-20, height // 8 + 20, (1, 5, 2)).astype(np.int32)
        cv2.fillPoly(shadow, [points[0]], 1.0)
        shadow = cv2.GaussianBlur(shadow, (0, 0), rng.uniform(0.6, 4))
        gain -= cv2.resize(shadow, (width, height)) * rng.uniform(0.1, 0.5)
    return image * np.clip(gain, 0.1, 1.6)[..., None]


def optics(image: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Blur of lens, focus or motion. A little of it always, so that edges are not sharper than a camera's."""
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.35, 0.9))
    if rng.random() < 0.15:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.8, 2.5))
    if rng.random() < 0.07:
        length = int(rng.integers(3, 10))
        kernel = np.zeros((length, length), np.float32)
        angle = rng.uniform(0, np.pi)
        reach = np.array([np.cos(angle), np.sin(angle)]) * (length - 1) / 2
        middle = (length - 1) / 2
        start, end = np.round(middle - reach).astype(int), np.round(middle + reach).astype(int)
        cv2.line(kernel, (int(start[0]), int(start[1])), (int(end[0]), int(end[1])), 1.0)
        image = cv2.filter2D(image, -1, kernel / kernel.sum())
    return image


def tone(image: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Contrast, gamma and grey."""
    if rng.random() < 0.3:
        contrast, level = rng.uniform(0.25, 0.9), rng.uniform(0, 1)
        image = image * contrast + level * (1 - contrast)
    if rng.random() < 0.3:
        image = np.clip(image, 0, 1) ** rng.uniform(0.6, 1.7)
    if rng.random() < 0.35:
        image = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2)
    return image.astype(np.float32)


def sensor(image: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Shot noise and read noise, of colour or grey."""
    if rng.random() < 0.6:
        level = rng.uniform(0.003, 0.03) if rng.random() < 0.8 else rng.uniform(0.03, 0.08)
        grey = np.ptp(image[0, 0]) < 1e-6 or rng.random() < 0.3
        noise = rng.standard_normal((*image.shape[:2], 1 if grey else 3), dtype=np.float32)
        image = image + noise * level * np.sqrt(np.clip(image, 0.05, 1))
    return image


def compress(image: ByteArray, rng: np.random.Generator) -> ByteArray:
    """JPEG at a random quality, sometimes."""
    if rng.random() < 0.3:
        done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(35, 95))])
        if done:
            image = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
    return image


def photograph(image: FloatArray, rng: np.random.Generator) -> ByteArray:
    """(H, W, 3) float32 in [0, 1] to the uint8 picture that a camera would give."""
    image = tone(optics(uneven_light(image, rng), rng), rng)
    image = sensor(np.clip(image, 0, 1), rng)
    return compress(np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8), rng)


def deep_camera(image: ByteArray, rng: np.random.Generator) -> ByteArray:
    """A picture as a scientific camera takes it in the dark, and as the server reads that 16-bit file.

    Args:
        image: (H, W, 3) uint8.
        rng: draws light, gain, dark level and noise.

    Returns:
        (H, W, 3) uint8, grey: counted photons, scaled to the range that holds nearly all of them.
    """
    photons = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) * np.float32(np.exp(rng.uniform(*np.log(PHOTONS))) / 255)
    noise = rng.standard_normal(photons.shape, dtype=np.float32) * np.sqrt(photons + np.float32(READ_NOISE**2))
    levels = rng.uniform(*DARK_LEVEL) + rng.uniform(*GAIN) * (photons + noise)
    done, data = cv2.imencode(".tif", np.clip(levels, 0, 65535).astype(np.uint16), [cv2.IMWRITE_TIFF_COMPRESSION, 1])
    if not done:
        raise ValueError("OpenCV could not write a TIFF of 16 bits")
    return images.read(data.tobytes()).pixels
