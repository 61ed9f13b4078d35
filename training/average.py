"""Average the weights of two models of one variant: `python -m training.average FIRST SECOND --share 0.3`.

A model that was trained further, mixed with the one it came from, often does better at what neither saw in training
than both (Wortsman et al. 2022, Robust fine-tuning of zero-shot models). Its predicted IoU fits the masks of neither:
train the IoU head afterwards (docs/training.md), or take that of a similar mixture with `--head`.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from training.export import WEIGHTS, export, read_weights

# What the weights begin with that predict the IoU of masks.
IOU_HEAD = "mask_decoder.iou_prediction_head."


def average(first: Mapping[str, Tensor], second: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Weights at `share` of the way from the second model to the first.

    Args:
        first, second: by SAM's key names, of the same variant.
        share: of the first, 0 to 1.

    Returns:
        All weights, float32.

    Raises:
        ValueError: the share is out of range, or the models differ in a weight's name or shape.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must be 0 to 1, not {share}")
    _require_one_variant(first, second)
    return {key: second[key].float().lerp(value.float(), share) for key, value in first.items()}


def with_head(weights: Mapping[str, Tensor], head: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights with the IoU head of another model.

    Args:
        weights, head: by SAM's key names, of the same variant.

    Raises:
        ValueError: the models differ in a weight's name or shape.
    """
    _require_one_variant(weights, head)
    return {key: head[key] if key.startswith(IOU_HEAD) else value for key, value in weights.items()}


def _require_one_variant(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> None:
    shapes = [{key: value.shape for key, value in weights.items()} for weights in (first, second)]
    if shapes[0] != shapes[1]:
        raise ValueError("the models have different weights: only models of one variant can be averaged")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("first", type=Path, help="NAME.ckpt of a run, or a file with config.json beside it")
    parser.add_argument("second", type=Path, help="another one, whose logits have the same scale")
    parser.add_argument("--share", type=float, default=0.5, help="of the first")
    parser.add_argument("--head", type=Path, help="a third one, whose IoU head is taken as it is")
    parser.add_argument("--out", type=Path, default=Path("build/mean"))
    arguments = parser.parse_args()
    (first, variant), (second, _) = read_weights(arguments.first), read_weights(arguments.second)
    try:
        mean = average(first, second, arguments.share)
        if arguments.head:
            mean = with_head(mean, read_weights(arguments.head)[0])
        export(mean, variant, arguments.out)
    except ValueError as error:
        parser.error(str(error))
    print(arguments.out / WEIGHTS)


if __name__ == "__main__":
    main()
