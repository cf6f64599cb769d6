"""One case: its reports and findings, its slices, its volume, where it shows what.

In: a case id of the index. Out: JSON, JPEG, NIfTI with range requests; pictures may be kept by the browser and carry a
tag. Refused: ids, planes, windows and slices that are not there.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.responses import FileResponse

from medfinder.app.server.answers import case_as_json, evidence_as_json
from medfinder.app.server.faults import Refusal
from medfinder.app.server.gate import Gate
from medfinder.app.server.pictures import PLANES, SIZES, WINDOWS, open_volume, tag_of, write_heat
from medfinder.app.server.service import Service
from medfinder.curation.dataset import view_beside
from medfinder.retrieval.evidence import HeatMap, evidence_in

# A day: a picture is asked for again with its tag after that.
_KEEP = "private, max-age=86400"
_GZIP, _NIFTI, _JPEG = "application/gzip", "application/octet-stream", "image/jpeg"

CaseId = Annotated[str, Path(max_length=200)]
Asked = Annotated[str, Query(min_length=1, max_length=1_000, description="a finding by any of its names, or words")]


def make_case_router(service: Service, gate: Gate) -> APIRouter:
    """Make the routes for cases."""
    router = APIRouter(prefix="/v1/cases", dependencies=[Depends(gate("viewer"))], tags=["cases"])

    @router.get("/{case_id}")
    async def show(case_id: CaseId) -> dict[str, Any]:
        """Tell what is known of a case."""
        return await service.run(_describe, service, case_id)

    @router.get("/{case_id}/volume", response_class=FileResponse, responses=_binary(_NIFTI, _GZIP))
    async def fetch_volume(case_id: CaseId, request: Request, preview: Literal["0", "1"] = "0") -> Response:
        """Fetch the volume as finely as it is kept, as NIfTI; with preview=1 gzipped and at most 256 voxels wide."""
        path = service.view(case_id)
        if preview == "1":
            return await _picture(service, request, _GZIP, lambda: service.pictures.preview(path))
        headers = {"Cache-Control": _KEEP, "ETag": f'"{tag_of(path)}"'}
        if _is_held(request, headers["ETag"]):
            return Response(status_code=304, headers=headers)
        name = "".join(letter for letter in case_id if letter.isalnum())[:40]
        return FileResponse(path, media_type=_NIFTI, headers=headers, filename=f"{name}.nii")

    @router.get("/{case_id}/slices/{plane}/{number}.jpg", response_class=Response, responses=_binary(_JPEG))
    async def draw_slice(
        request: Request,
        case_id: CaseId,
        plane: Annotated[str, Path(description=f"{', '.join(PLANES)}")],
        number: Annotated[int, Path(ge=0, le=4_096)],
        window: Annotated[str, Query(description=f"{', '.join(WINDOWS)}")] = "lung",
        size: Annotated[int, Query(ge=SIZES.start, le=SIZES.stop - 1)] = 512,
    ) -> Response:
        """Draw one slice, counted as those of the standardised volume, in radiological convention."""
        path, view = service.volume(case_id), service.view(case_id)
        return await _picture(
            service, request, _JPEG, lambda: service.pictures.slice(path, view, plane, number, window, size)
        )

    @router.get("/{case_id}/thumbnail/{place}.jpg", response_class=Response, responses=_binary(_JPEG))
    async def draw_thumbnail(
        request: Request, case_id: CaseId, place: Annotated[int, Path(ge=0, le=2, description="0 axial, 1, 2")]
    ) -> Response:
        """Draw a small axial, coronal or sagittal slice through the middle."""
        path, view = service.volume(case_id), service.view(case_id)
        return await _picture(service, request, _JPEG, lambda: service.pictures.thumbnail(path, view, place))

    @router.get("/{case_id}/evidence")
    async def show_evidence(case_id: CaseId, asked: Asked) -> dict[str, Any]:
        """Tell where a case looks most like a finding or other words: a box in mm, slices; not whether it is there."""
        heat = await service.run(_look, service, case_id, asked)
        return evidence_as_json(evidence_in(heat))

    @router.get("/{case_id}/heat", response_class=Response, responses=_binary(_GZIP))
    async def draw_heat(case_id: CaseId, asked: Asked, request: Request) -> Response:
        """Draw where a case looks like a finding or other words: gzipped NIfTI of bytes, 255 where it does most."""

        def draw() -> tuple[bytes, str]:
            tag = tag_of(service.volume(case_id), "heat", service.model.digest, asked)
            return write_heat(_look(service, case_id, asked)), tag

        return await _picture(service, request, _GZIP, draw)

    return router


def _look(service: Service, case_id: str, asked: str) -> HeatMap:
    heat = service.searcher.look_for(asked, service.volume(case_id))
    if heat is None:
        raise Refusal(404, "this model cannot tell where a volume looks like these words")
    return heat


def _binary(*kinds: str) -> dict[int | str, dict[str, Any]]:
    content = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in kinds}
    return {200: {"content": content}, 206: {"description": "a part"}, 304: {"description": "unchanged"}}


def _describe(service: Service, case_id: str) -> dict[str, Any]:
    indexed = service.case(case_id)
    facts = case_as_json(indexed, viewer=service.viewer_link(indexed.case.study_id))
    if indexed.volume is not None:
        volume = open_volume(view_beside(indexed.volume))
        facts["grid"] = {
            "shape": list(volume.shape),
            "spacing_mm": [round(one, 4) for one in volume.spacing_mm],
            "affine": volume.affine.round(4).tolist(),
        }
    return facts


async def _picture(service: Service, request: Request, kind: str, make: Callable[[], tuple[bytes, str]]) -> Response:
    content, tag = await service.run(make)
    headers = {"Cache-Control": _KEEP, "ETag": f'"{tag}"'}
    if _is_held(request, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=kind, headers=headers)


def _is_held(request: Request, tag: str) -> bool:
    held = request.headers.get("if-none-match", "")
    return tag in (one.strip().removeprefix("W/") for one in held.split(","))
