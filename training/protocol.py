"""The measuring protocol: clicks, boxes and corrections on labelled pictures, for any backend and any variant."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image

from sam_server.arrays import BoolArray, ByteArray, FloatArray
from sam_server.predictor import Prediction, Predictor
from sam_server.prompts import LABEL_BACKGROUND, LABEL_FOREGROUND, Prompt, make_prompt
from training.prompting import box_of, pick
from training.scene_canvas import Scene
from training.scenes import HELD_OUT_SEED, draw

# Objects measured in one picture, and the smallest of them: a droplet of 8 pixels across.
MAX_OBJECTS = 8
MIN_AREA = 48
# Clicks of the refined measure, the first included.
CLICKS = 3
# A segment that one person drew in a photograph counts from this area on.
MIN_SEGMENT_AREA = 400


@dataclass(frozen=True)
class LabelledPicture:
    """A picture and the objects to be found in it.

    Attributes:
        kind: what it is counted under.
        image: (H, W, 3) uint8 RGB.
        masks: (H, W) bool each.
    """

    kind: str
    image: ByteArray
    masks: tuple[BoolArray, ...]


@dataclass(frozen=True)
class Measured:
    """IoU of one object by every way of asking for it.

    Attributes:
        kind: of its picture.
        area: in pixels.
        click: one click in the middle, the mask of the highest predicted IoU.
        best: the same click, the best of three masks.
        single: the same click, the single-mask output.
        clicks: after CLICKS clicks.
        box: by its box, the single-mask output.
        predicted: (3,) predicted IoU of the three masks of one click.
        real: (3,) their real IoU.
    """

    kind: str
    area: int
    click: float
    best: float
    single: float
    clicks: float
    box: float
    predicted: FloatArray
    real: FloatArray


def iou(mask: BoolArray, truth: BoolArray) -> float:
    """Intersection over union; 1 where both are empty."""
    union = np.count_nonzero(mask | truth)
    return 1.0 if union == 0 else float(np.count_nonzero(mask & truth) / union)


def measure(predictor: Predictor, picture: LabelledPicture) -> list[Measured]:
    """Ask for every object of a picture by click, clicks and box."""
    embedding = predictor.encode(picture.image)
    rng = np.random.default_rng(0)
    middles = [pick(mask, rng, centre=True) for mask in picture.masks]
    one = [make_prompt([middle], [LABEL_FOREGROUND]) for middle in middles]
    boxes = [make_prompt(box=box_of(mask) - np.array([0, 0, 1, 1])) for mask in picture.masks]
    three = predictor.predict(embedding, one, multimask_output=True)
    single = predictor.predict(embedding, one, multimask_output=False)
    boxed = predictor.predict(embedding, boxes, multimask_output=False)
    refined, current = list(one), three
    for _ in range(CLICKS - 1):
        rows = zip(refined, current, picture.masks, strict=True)
        refined = [_correct(prompt, found, truth, rng) for prompt, found, truth in rows]
        current = predictor.predict(embedding, refined, multimask_output=False)
    out = []
    for index, truth in enumerate(picture.masks):
        real = np.array([iou(mask, truth) for mask in three[index].masks], np.float32)
        out.append(
            Measured(
                kind=picture.kind,
                area=int(np.count_nonzero(truth)),
                click=float(real[three[index].iou.argmax()]),
                best=float(real.max()),
                single=iou(single[index].mask(0), truth),
                clicks=iou(current[index].mask(0), truth),
                box=iou(boxed[index].mask(0), truth),
                predicted=three[index].iou,
                real=real,
            )
        )
    return out


def _correct(prompt: Prompt, found: Prediction, truth: BoolArray, rng: np.random.Generator) -> Prompt:
    """The prompt with one more click, in the middle of the largest error, going on from the mask it gave."""
    best = int(found.iou.argmax())
    wrong = found.mask(best) != truth
    x, y = pick(wrong if wrong.any() else truth, rng, centre=True)
    label = LABEL_FOREGROUND if truth[int(y), int(x)] else LABEL_BACKGROUND
    points = np.concatenate([prompt.points, np.array([[x, y]], prompt.points.dtype)])
    labels = np.concatenate([prompt.point_labels, np.array([label], prompt.point_labels.dtype)])
    return replace(prompt, points=points, point_labels=labels, mask_input=found.logits[best])


def held_out(kinds: Iterable[str], count: int, objects: int | None = MAX_OBJECTS) -> Iterable[LabelledPicture]:
    """Scenes from seeds that training never draws.

    Args:
        kinds: keys of KINDS.
        count: scenes of each kind.
        objects: most objects of a scene, drawn at random; all if None.
    """
    for kind in kinds:
        for number in range(count):
            picture = to_picture(draw(kind, HELD_OUT_SEED + number), objects)
            if picture.masks:
                yield picture


def to_picture(scene: Scene, objects: int | None = MAX_OBJECTS) -> LabelledPicture:
    """A scene with at most `objects` of its objects of MIN_AREA and more; all if None."""
    nodes = np.random.default_rng(HELD_OUT_SEED).permutation(scene.nodes(MIN_AREA))[:objects]
    return LabelledPicture(scene.kind, scene.image, tuple(scene.mask(int(node)) for node in nodes))


def photographs(folder: Path) -> Iterable[LabelledPicture]:
    """Pictures of BSDS500 with human segments: NAME.jpg and NAME.mat, the segments of the first person."""
    for path in sorted(folder.glob("*.mat")):
        truth = scipy.io.loadmat(path)["groundTruth"][0, 0]["Segmentation"][0, 0]
        image = np.asarray(Image.open(path.with_suffix(".jpg")).convert("RGB"))
        masks = [truth == value for value in np.unique(truth)]
        large = tuple(mask for mask in masks if np.count_nonzero(mask) >= MIN_SEGMENT_AREA)
        yield LabelledPicture("photographs", image, large)
