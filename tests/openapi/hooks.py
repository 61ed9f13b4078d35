"""What schemathesis cannot guess: a picture, and ids of a session, a mask set and a job that are there.

Every other request gets them in place of what was generated. Searches are kept small, since there are hundreds.
"""

import base64
import hashlib
import itertools
import os
from collections import defaultdict
from typing import Any

import cv2
import numpy as np
import requests
import schemathesis
from schemathesis.transport.serialization import Binary

URL = os.environ["OPENAPI_TEST_URL"]
SMALL_SEARCH = {"points_per_side": 2, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "box_nms_thresh": 1.0}


def _picture() -> bytes:
    pixels = np.zeros((24, 31, 3), np.uint8)
    pixels[6:18, 8:20] = (40, 200, 250)
    return cv2.imencode(".png", pixels)[1].tobytes()


def _post(path: str, body: dict[str, Any], **headers: str) -> dict[str, Any]:
    answer = requests.post(URL + path, json=body, headers=headers, timeout=120)
    answer.raise_for_status()
    found: dict[str, Any] = answer.json()
    return found


PICTURE = _picture()
TEXT = base64.b64encode(PICTURE).decode()
SESSION = _post("/sessions", {"image": TEXT})["session_id"]
MASK_SET = _post("/generate_masks", {"session_id": SESSION, **SMALL_SEARCH})["mask_set_id"]
MASK = _post("/segment", {"session_id": SESSION, "points": [[12, 12]]})["results"][0]["masks"][0]["mask_id"]
JOB = _post("/generate_masks", {"session_id": SESSION, **SMALL_SEARCH}, Prefer="respond-async")["job_id"]
RLE = {"size": [24, 31], "counts": [100, 50, 24 * 31 - 150]}
PLAIN = {
    "/segment": {"session_id": SESSION, "points": [[12, 12]]},
    "/generate_masks": {"session_id": SESSION, **SMALL_SEARCH},
    "/group_masks": {"mask_set_id": MASK_SET},
}
FILES: defaultdict[str, "itertools.count[int]"] = defaultdict(itertools.count)  # by operation
REAL = {"session_id": SESSION, "mask_set_id": MASK_SET, "mask_id": MASK, "job_id": JOB, "image": TEXT}


def _chance(value: object, salt: str) -> bool:
    """Heads or tails, the same in every run, and independent for two salts (of a CRC no bit is)."""
    return hashlib.blake2b(f"{salt}{value!r}".encode(errors="replace"), digest_size=1).digest()[0] % 2 == 0


@schemathesis.hook
def map_body(context: schemathesis.HookContext, body: Any) -> Any:
    """Put what is real in place of what was generated, now and then."""
    if isinstance(body, bytes | Binary):
        return _file(context.operation.label, body)
    if not isinstance(body, dict):
        return body
    real = {name: REAL[name] for name in body if name in REAL and _chance(body, name)}
    if isinstance(body.get("image"), bytes) and "image" in real:  # a form
        real["image"] = PICTURE
    changed = {**body, **real}
    # A picture and an id at once are refused: mostly one of them is left out.
    for name in ("image", "mask_set_id"):
        if "session_id" in changed and name in changed and _chance(body, f"drop {name}"):
            del changed[name]
    if isinstance(changed.get("prompts"), list):
        changed["prompts"] = [_with_mask(prompt) for prompt in changed["prompts"]]
    if context.operation.path == "/mask_sets" and _chance(body, "masks"):
        changed |= {"session_id": SESSION, "masks": [{"segmentation": RLE}]}
    # Generated prompts are seldom all within the picture and a schema is broken in many places at once, so some
    # requests are plain: how often an operation succeeds must not hang on luck.
    plain = PLAIN.get(context.operation.path)
    if plain is not None and _chance(body, "plain"):
        return dict(plain)
    if context.operation.path in ("/generate_masks", "/group_masks"):
        _keep_small(changed if context.operation.path == "/generate_masks" else changed.setdefault("generate", {}))
    return changed


def _file(operation: str, body: bytes | Binary) -> bytes:
    """Every fourth file is a picture; the others end too early, a little later each.

    What is generated is a pixel, nearly always the same. With a file there is no word on how to search it, so a search
    takes seconds: few files shall be whole.
    """
    number, data = next(FILES[operation]), body.data if isinstance(body, Binary) else body
    return PICTURE if number % 4 == 0 else data[: number % max(len(data), 1)]


def _with_mask(prompt: Any) -> Any:
    if isinstance(prompt, dict) and "mask_id" in prompt and _chance(prompt, "mask"):
        return {**prompt, "mask_id": MASK}
    return prompt


def _keep_small(search: Any) -> None:
    if not isinstance(search, dict):
        return
    for name, most in (("points_per_side", 3), ("crop_n_layers", 1)):
        value = search.get(name)
        if name == "points_per_side" and (value is None or isinstance(value, bool)):
            search[name] = 2
        elif isinstance(value, int) and value > most:
            search[name] = most


@schemathesis.hook
def map_path_parameters(context: schemathesis.HookContext, path_parameters: Any) -> Any:
    """Real ids in addresses; what is deleted is what the stateful phase made itself."""
    if not isinstance(path_parameters, dict) or context.operation.method.upper() == "DELETE":
        return path_parameters
    real = {name: REAL[name] for name in path_parameters if name in REAL and _chance(path_parameters, name)}
    return {**path_parameters, **real}


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: schemathesis.Case, kwargs: Any) -> None:  # noqa: ARG001
    """Some of the long work is wanted as a job."""
    if case.operation.path in ("/generate_masks", "/group_masks") and _chance(case.body, "prefer"):
        case.headers["Prefer"] = "respond-async"
