"""Mask sets: what is kept of one, and how it is sent."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from sam_server import images
from sam_server.automatic.generate import generate
from sam_server.automatic.output import to_dicts
from sam_server.automatic.parameters import AutomaticParameters, OutputMode
from sam_server.automatic.search import CancelledError
from sam_server.jobs.queue import CancelledJobError, JobContext
from sam_server.masks.measured_set import measure_set
from sam_server.masks.record import MaskFormat
from sam_server.sessions.kept import Session
from sam_server.sessions.mask_sets import KeptMaskSet
from sam_server.web.answers import picture_fields
from sam_server.web.model import LoadedModel
from sam_server.web.schemas import SearchIn
from sam_server.web.state import Server

# What the formats of SamAutomaticMaskGenerator are called elsewhere in this API.
FORMAT_OF_MODE: dict[OutputMode, MaskFormat] = {"coco_rle": "rle", "binary_mask": "png"}


def search_parameters(
    fields: SearchIn, model: LoadedModel, begin_with: Mapping[str, Any] | None = None
) -> AutomaticParameters:
    """The parameters of the search that a request asks for, with the model's and the server's defaults for the rest.

    Args:
        fields: of the request.
        model: that will search.
        begin_with: values that the request may change, such as those of a preset.

    Raises:
        ParameterError: a value is out of range.
    """
    given = {name: getattr(fields, name) for name in fields.model_fields_set & SearchIn.model_fields.keys()}
    values = {**(begin_with or {}), **given}
    return AutomaticParameters.from_values(values, model.report.performance_mode, model.backend.spec.model_type)


def generate_work(
    state: Server, session: Session, parameters: AutomaticParameters
) -> Callable[[JobContext], dict[str, Any]]:
    """Work for the job queue that finds every mask of a session's picture and keeps the set; gives `JobResultOut`."""
    model = state.model()

    def work(context: JobContext) -> dict[str, Any]:
        picture = images.read(session.image.source, state.settings.image_limits)
        try:
            masks = generate(
                model.background_backend,
                picture.pixels,
                parameters,
                embedding=session.image.embedding,
                progress=lambda progress: context.report(asdict(progress)),
                cancelled=context.cancelled,
            )
        except CancelledError:
            raise CancelledJobError from None
        kept = KeptMaskSet(measure_set(masks, lambda: _stop_if_cancelled(context)), parameters)
        set_id = state.sessions.keep_mask_set(session.id, kept)
        return {"session_id": session.id, "mask_set_id": set_id, "count": len(masks)}

    return work


def _stop_if_cancelled(context: JobContext) -> None:
    if context.cancelled():
        raise CancelledJobError


def mask_set_fields(
    session: Session, set_id: str, kept: KeptMaskSet, mask_format: MaskFormat, mode: OutputMode | None = None
) -> dict[str, Any]:
    """The fields of `MaskSetOut`.

    Args:
        session: the owner.
        set_id: of the mask set.
        kept: the mask set.
        mask_format: how masks are written, unless `mode` is "uncompressed_rle".
        mode: the output_mode that was asked for.
    """
    masks = kept.measured.masks
    if mode == "uncompressed_rle":
        records = to_dicts(masks, mode)
    else:
        records = [record.to_dict(mask_format) for record in masks.records]
    return {
        **picture_fields(session),
        "mask_set_id": set_id,
        "count": len(records),
        "parameters": found_with(kept),
        "masks": records,
    }


def found_with(kept: KeptMaskSet) -> dict[str, Any]:
    """The parameters that the masks were found with; none for masks that a caller brought."""
    values = {} if kept.parameters is None else asdict(kept.parameters)
    return {name: value for name, value in values.items() if name != "output_mode"}
