"""CTs that come from outside: to search with, to embed, to keep.

In: forms with a .nii, .nii.gz or .zip of DICOM files. Out: hits, a vector, or the id of a job. What is sent is read in
a process that can be killed; the server's own reads only the NIfTI file that this process wrote. Refused: what
``uploads`` and ``reading`` refuse; two questions at once, where the search room does.
"""

import shutil
from pathlib import Path
from typing import Annotated, Any

import anyio.to_thread
import numpy as np
from fastapi import APIRouter, Depends, Request
from fastapi import Path as InPath
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medfinder.app.server.access import Reader
from medfinder.app.server.faults import Refusal
from medfinder.app.server.gate import Gate
from medfinder.app.server.jobs import Job, Jobs
from medfinder.app.server.reading import Curated, curate_upload, read_upload
from medfinder.app.server.search_routes import Found, Wanted, answer, note_answer, wanted_as_query
from medfinder.app.server.service import Service
from medfinder.app.server.uploads import Upload, receive_form, upload_folder
from medfinder.app.server.worker import Worker
from medfinder.curation.dataset import Dataset
from medfinder.retrieval.build import case_digest
from medfinder.retrieval.search import MAX_CHARACTERS
from medfinder.volume import body_region, standardise_file

_LISTS = ("liked", "disliked")
_WITH_CT = ("text", *_LISTS, "where", "k", "offset", "group", "facets", "explain")


class AskedText(BaseModel):
    """A text to embed."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"text": "left pleural effusion"}]})
    text: Annotated[str, Field(min_length=1, max_length=MAX_CHARACTERS)]


class Vector(BaseModel):
    """An embedding: a unit vector, nearer means more alike."""

    model: str
    digest: str
    embedding: list[float]
    region: str | None = None
    notes: list[str] = []


class Accepted(BaseModel):
    """An upload that nothing can lose any more."""

    job: str
    status: str
    link: str


def make_ct_router(service: Service, gate: Gate, jobs: Jobs, worker: Worker) -> APIRouter:
    """Make the routes for uploads."""
    router = APIRouter(prefix="/v1", tags=["CT"])
    limits = service.limits
    viewer = Annotated[Reader, Depends(gate("viewer"))]

    @router.post("/search/ct", response_model=Found, openapi_extra=_form(*_WITH_CT))
    async def search_by_ct(request: Request, reader: viewer) -> dict[str, Any]:
        """Find the examinations most like a CT, and a text where one is given."""
        with upload_folder(service.folder) as folder:
            upload = await receive_form(request, folder, limits, known=_WITH_CT)
            wanted = _wanted(upload.fields)
            volume, notes = await _read(worker, upload, limits.read_s)
            query = wanted_as_query(wanted, ct=volume)
            found = await service.run(answer, service, reader, wanted, query)
        note_answer(request, wanted, found)
        return {**found, "notes": [*found["notes"], *notes]}

    @router.post("/embed", response_model=Vector, openapi_extra=_text_or_form(), dependencies=[Depends(gate("viewer"))])
    async def embed(request: Request) -> dict[str, Any]:
        """Give the vector of a text (JSON) or of a CT (form)."""
        if request.headers.get("content-type", "").split(";")[0].strip().lower() == "application/json":
            text = _read_json(await request.body(), limits.body_kb * 1024)
            return await service.run(_embed_text, service, text)
        with upload_folder(service.folder) as folder:
            upload = await receive_form(request, folder, limits, known=("text",))
            volume, notes = await _read(worker, upload, limits.read_s)
            return await service.run(_embed_volume, service, volume, notes)

    @router.post(
        "/ingest",
        status_code=202,
        response_model=Accepted,
        openapi_extra=_form("report"),
        dependencies=[Depends(gate("curator"))],
    )
    async def ingest(request: Request) -> dict[str, str]:
        """Take a CT, and its report, into the index; answered once it is stored, searchable soon after."""
        jobs.require_room()
        with upload_folder(service.folder) as folder:
            upload = await receive_form(request, folder, limits, known=("report",))
            job = await anyio.to_thread.run_sync(jobs.add, upload.file, upload.fields.get("report", ""))
        return {"job": job.id, "status": job.status, "link": f"/v1/jobs/{job.id}"}

    @router.get("/jobs/{job_id}", response_model=Job, dependencies=[Depends(gate("curator"))])
    async def show_job(job_id: Annotated[str, InPath(max_length=64)]) -> Job:
        """Tell how far an upload is on its way."""
        job = await anyio.to_thread.run_sync(jobs.find, job_id)
        if job is None:
            raise Refusal(404, "no such job")
        return job

    return router


def index_upload(service: Service, worker: Worker, job: Path, out: Path) -> Curated:
    """Curate a job's upload and add its cases to the open index; searches go on meanwhile."""
    upload = next(file for file in job.iterdir() if file.name.startswith("upload."))
    shutil.rmtree(out, ignore_errors=True)
    report = (job / "report.txt").read_text(encoding="utf-8")
    key = service.folder / "ids.key"
    grid = service.model.grid
    limits = service.limits
    links = service.viewer.path if service.viewer is not None else None
    made = worker.run(curate_upload, upload, out, grid, key, report, limits, links, seconds=limits.ingest_s)
    dataset = Dataset.open(out)
    for case in dataset.cases:
        hu = np.asarray(dataset.volume(case))
        image = service.model.encode_volumes([hu])
        text = service.model.encode_texts([case.report or case.report_es])
        digests = [case_digest(case, hu)]
        service.index.add([case], image, text, out, model_digest=service.model.digest, digests=digests)
    return made


async def _read(worker: Worker, upload: Upload, seconds: float) -> tuple[Path, tuple[str, ...]]:
    """Have an upload read; give the NIfTI file that came of it, and what had to be mended."""
    volume, limits = upload.file.with_name("read.nii"), upload.limits

    def read() -> tuple[str, ...]:
        return worker.run(read_upload, upload.file, volume, limits, seconds=seconds)

    return volume, await anyio.to_thread.run_sync(read)


def _wanted(fields: dict[str, str]) -> Wanted:
    """Read the fields of a form; a list's values stand between commas."""
    lists = {name: [one.strip() for one in fields[name].split(",") if one.strip()] for name in _LISTS if name in fields}
    try:
        return Wanted.model_validate(fields | lists)
    except ValidationError as error:
        first = error.errors()[0]
        raise Refusal(422, f"{'.'.join(map(str, first['loc']))}: {first['msg']}"[:300]) from None


def _read_json(body: bytes, most: int) -> str:
    if len(body) > most:
        raise Refusal(413, f"a text of more than {most // 1024} kB; send less")
    try:
        return AskedText.model_validate_json(body).text
    except ValidationError as error:
        raise Refusal(422, f"text: {error.errors()[0]['msg']}"[:300]) from None


def _embed_text(service: Service, text: str) -> dict[str, Any]:
    return _vector(service, service.model.encode_texts([text])[0])


def _embed_volume(service: Service, path: Path, notes: tuple[str, ...]) -> dict[str, Any]:
    volume = standardise_file(path, service.model.grid)
    region = body_region(volume)
    told = [*notes, *([] if region.name == "chest" else [f"not a chest CT: {region.reason}"])]
    return {**_vector(service, service.model.encode_volumes([volume.hu])[0]), "region": region.name, "notes": told}


def _vector(service: Service, vector: np.ndarray) -> dict[str, Any]:
    model = service.model
    return {"model": model.name, "digest": model.digest, "embedding": [round(float(one), 7) for one in vector]}


def _form(*texts: str) -> dict[str, Any]:
    """Tell OpenAPI of a form that is read as it comes."""
    fields = {name: {"type": "string"} for name in texts}
    schema = {
        "type": "object",
        "required": ["file"],
        "properties": {"file": {"type": "string", "format": "binary"}, **fields},
    }
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


def _text_or_form() -> dict[str, Any]:
    described = _form()
    text = AskedText.model_json_schema()
    described["requestBody"]["content"]["application/json"] = {"schema": text}
    return described
