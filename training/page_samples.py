"""Make the sample pictures of the page: two scenes that the project draws itself, and a photograph of CC0 licence.

Run from the repository with `python -m training.page_samples`; needs training/requirements.txt.
"""

from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

from training.scenes import draw

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "sam_server" / "web" / "static" / "page" / "samples"
# Held-out scenes, chosen by eye: kind and seed of training/scenes.py.
SCENES = {"droplets": 1_000_000_002, "coins": 1_000_000_008}
SIDE = 640
THUMBNAIL = 240  # pixels of the longer side
QUALITY, THUMBNAIL_QUALITY = 88, 60


def scene(kind: str, seed: int) -> Image.Image:
    """A drawn scene."""
    return Image.fromarray(np.asarray(draw(kind, seed, SIDE).image))


def save(picture: Image.Image, name: str) -> None:
    """Write a picture and its thumbnail."""
    picture.convert("RGB").save(FOLDER / f"{name}.jpg", quality=QUALITY, optimize=True)
    small = picture.convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    small.save(FOLDER / f"thumb_{name}.webp", quality=THUMBNAIL_QUALITY, method=6)


def main() -> None:
    """Write all samples."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for kind, seed in SCENES.items():
        save(scene(kind, seed), kind)
    # "Coffee", Rachel Michetti, CC0: skimage.data.coffee.
    save(Image.fromarray(data.coffee()), "coffee")


if __name__ == "__main__":
    main()
