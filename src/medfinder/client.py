"""A client of the search service that speaks its words: search, case, embed, ingest.

In: the address of a server, a key where it asks for one. Out: plain values as the server sends them. Refused with
``ServerError``: what the server refuses, with the server's own sentence, and a server that does not answer. Only
Python's standard library is needed.

Example::

    client = medfinder.Client("http://127.0.0.1:8080")
    for hit in client.search("left pleural effusion", k=3)["hits"]:
        print(hit["rank"], hit["score"], hit["findings"])
"""

import http.client
import json
import secrets
import ssl
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import Request, urlopen

from medfinder.errors import ConfigError, MedFinderError

_CHUNK = 2**20
_PAUSE_S = 0.5
_STUDY_S = 600.0


class ServerError(MedFinderError):
    """The server refused, failed, or did not answer.

    Attributes:
        status: of HTTP; 0 when there was no answer.
        code: short and stable, e.g. ``"not found"``.
    """

    def __init__(self, message: str, *, status: int = 0, code: str = "no answer") -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class Client:
    """Asks one server.

    Args:
        url: e.g. ``"http://127.0.0.1:8080"``.
        key: as ``medfinder keys add`` showed it.
        timeout_s: for one answer.
    """

    def __init__(self, url: str, *, key: str | None = None, timeout_s: float = 120.0) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ConfigError(f"{url!r} is no address of a server; expected e.g. http://127.0.0.1:8080")
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._timeout_s = timeout_s

    def info(self) -> dict[str, Any]:
        """Tell what the server searches, by which model."""
        return self._json("GET", "/v1/info")

    def search(self, text: str | None = None, *, ct: Path | str | None = None, **wanted: Any) -> dict[str, Any]:
        """Search by words, a CT, or whatever else the server takes.

        Args:
            text: a few words, English or Spanish.
            ct: a .nii, .nii.gz or .zip of DICOM files, which is sent to the server.
            wanted: report, keyword, case_id, liked, disliked, box, where, k, offset, group, facets.

        Returns:
            ``hits``, ``total``, ``notes``, ``facets``, ``query_id``, ``took_ms``.

        Raises:
            ServerError: the server refuses the question; its sentence says why.
        """
        if text is not None:
            wanted["text"] = text
        if ct is not None:
            fields = {name: _in_form(value) for name, value in wanted.items()}
            return self._form("/v1/search/ct", Path(ct), fields)
        return self._json("POST", "/v1/search", wanted)

    def search_study(self, study_instance_uid: str, **wanted: Any) -> dict[str, Any]:
        """Search by a study of the PACS behind the server, which need not be in its index.

        Args:
            study_instance_uid: DICOM's StudyInstanceUID.
            wanted: as for ``search``.

        Raises:
            ServerError: 404 where the PACS has no such study, 502 where it does not answer, 501 where the server
                knows no PACS.
        """
        said = {"study_instance_uid": study_instance_uid, **wanted}
        # The server fetches the study first, for as long as its limit study_s allows.
        return self._json("POST", "/v1/search/study", said, timeout_s=max(self._timeout_s, _STUDY_S))

    def case(self, case_id: str) -> dict[str, Any]:
        """Tell what is known of a case: reports, findings, links."""
        return self._json("GET", f"/v1/cases/{quote(case_id, safe='')}")

    def volume(self, case_id: str, out: Path | str) -> Path:
        """Fetch the standardised volume of a case into a .nii file."""
        place = Path(out)
        with self._open("GET", f"/v1/cases/{quote(case_id, safe='')}/volume") as answer, place.open("wb") as file:
            while chunk := answer.read(_CHUNK):
                file.write(chunk)
        return place

    def evidence(self, case_id: str, asked: str) -> dict[str, Any]:
        """Tell where a case looks most like a finding or other words; not whether it is there."""
        query = urlencode({"asked": asked})
        return self._json("GET", f"/v1/cases/{quote(case_id, safe='')}/evidence?{query}")

    def keywords(self, typed: str = "") -> list[dict[str, str]]:
        """Suggest findings for the beginning of a word."""
        found: Any = self._json("GET", f"/v1/keywords?{urlencode({'q': typed})}")
        return list(found)

    def embed(self, text: str | None = None, *, ct: Path | str | None = None) -> list[float]:
        """Give the vector of a text or of a CT.

        Raises:
            ConfigError: not exactly one of the two is given.
        """
        if (text is None) == (ct is None):
            raise ConfigError("embed takes a text or a ct; give exactly one")
        found = self._json("POST", "/v1/embed", {"text": text}) if ct is None else self._form("/v1/embed", Path(ct), {})
        return list(found["embedding"])

    def ingest(self, path: Path | str, *, report: str | None = None, wait_s: float | None = 600.0) -> dict[str, Any]:
        """Take a CT, and its report, into the server's index.

        Args:
            path: a .nii, .nii.gz or .zip of DICOM files.
            wait_s: until it can be searched for; None returns at once, the server has it safe by then.

        Returns:
            The job: ``status`` (waiting, working, done, failed), ``cases``, ``dropped``, ``message``.

        Raises:
            ServerError: it was refused, failed, or is not done within ``wait_s``.
        """
        job_id = self._form("/v1/ingest", Path(path), {"report": report} if report else {})["job"]
        until = time.monotonic() + (wait_s or 0.0)
        while (job := self.job(job_id))["status"] in ("waiting", "working") and wait_s is not None:
            if time.monotonic() > until:
                raise ServerError(f"job {job_id} is not done after {wait_s:g} s; ask again with job({job_id!r})")
            time.sleep(_PAUSE_S)
        if job["status"] == "failed":
            raise ServerError(job["message"], status=200, code="failed")
        return job

    def job(self, job_id: str) -> dict[str, Any]:
        """Tell how far an upload is on its way."""
        return self._json("GET", f"/v1/jobs/{quote(job_id, safe='')}")

    def _json(
        self, method: str, path: str, value: Mapping[str, Any] | None = None, *, timeout_s: float | None = None
    ) -> dict[str, Any]:
        body = None if value is None else json.dumps(value).encode()
        kind = {"Content-Type": "application/json"} if body else {}
        with self._open(method, path, body, kind, timeout_s) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def _form(self, path: str, file: Path, fields: Mapping[str, str]) -> dict[str, Any]:
        if not file.is_file():
            raise ConfigError(f"no file at {file}; give a .nii, .nii.gz or .zip of DICOM files")
        boundary = secrets.token_hex(16)
        head, tail = _form_edges(boundary, fields)
        headers = {
            "Content-Type": f"multipart/form-data; boundary={boundary}",
            "Content-Length": str(len(head) + file.stat().st_size + len(tail)),
        }
        with self._open("POST", path, _pieces(head, file, tail), headers) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def _open(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> Any:
        request = Request(self._url + path, body, {**self._headers, **(headers or {})}, method=method)
        try:
            return urlopen(request, timeout=timeout_s or self._timeout_s)
        except HTTPError as error:
            with error:
                raise _told(error) from None
        except (URLError, http.client.HTTPException, OSError) as error:
            reason = getattr(error, "reason", None) or error
            if isinstance(reason, ssl.SSLCertVerificationError):
                raise ServerError(
                    f"{self._url} is not trusted: {reason.verify_message}; name the PEM file of its authority in "
                    "SSL_CERT_FILE, and the host as its certificate does",
                    code="certificate",
                ) from error
            raise ServerError(f"{self._url} does not answer: {reason}") from error


def _in_form(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _form_edges(boundary: str, fields: Mapping[str, str]) -> tuple[bytes, bytes]:
    """Write what stands before and after the file; its own name stays here, since it may name a patient."""
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    ]
    file = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="ct"\r\n\r\n'
    return "".join([*parts, file]).encode(), f"\r\n--{boundary}--\r\n".encode()


def _pieces(head: bytes, file: Path, tail: bytes) -> Iterator[bytes]:
    yield head
    with file.open("rb") as opened:
        while chunk := opened.read(_CHUNK):
            yield chunk
    yield tail


def _told(error: HTTPError) -> ServerError:
    try:
        said = json.load(error)["error"]
        return ServerError(str(said["message"]), status=error.code, code=str(said["code"]))
    except (ValueError, KeyError, TypeError):
        return ServerError(f"the server answered {error.code} {error.reason}", status=error.code, code="error")
