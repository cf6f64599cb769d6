"""One case over HTTP: its texts, its slices the right way round, its volume in parts."""

import gzip
import io
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from medfinder.app.server.pictures import PREVIEW_SIDE, Pictures
from medfinder.retrieval.evidence import HeatMap
from medfinder.retrieval.index import SearchIndex
from medfinder.retrieval.search import Searcher

from .conftest import make_index, serve


def test_a_case_tells_its_report_and_grid(client: TestClient) -> None:
    facts = client.get("/v1/cases/case2").json()
    assert facts["report"] == "Nodule of 8 mm <script>alert(1)</script>."
    assert facts["grid"]["shape"] == [32, 28, 32]
    assert facts["findings"][0]["name"] == "nodule"


@pytest.mark.parametrize(
    "path",
    [
        "/v1/cases/none",
        "/v1/cases/none/volume",
        "/v1/cases/none/slices/axial/1.jpg",
        "/v1/cases/none/thumbnail/0.jpg",
        "/v1/cases/..%2f..%2fetc%2fpasswd",
        "/v1/cases/%00",
        "/v1/jobs/none",
        "/v1/jobs/..",
        "/nothing",
    ],
)
def test_what_is_not_there_is_told(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not found"


@pytest.mark.parametrize(
    "tail",
    ["axial/32.jpg", "coronal/28.jpg", "oblique/1.jpg", "axial/-1.jpg", "axial/x.jpg", "axial/1.jpg?window=brain",
     "axial/1.jpg?size=5", "axial/1.jpg?size=999999"],
)  # fmt: skip
def test_a_slice_that_cannot_be_is_refused(client: TestClient, tail: str) -> None:
    assert client.get(f"/v1/cases/case0/slices/{tail}").status_code == 422


def test_slices_show_the_patients_right_on_the_left_and_front_and_head_on_top(tmp_path: Path) -> None:
    # A bright corner block: far right, front, head. By hand: it must be at the left and top of axial and coronal
    # slices, and in a sagittal one front is left and head is top.
    hu = np.full((40, 30, 20), -1000, np.int16)
    hu[35:, 25:, 15:] = 1000
    path = tmp_path / "v.nii"
    nib.save(nib.Nifti1Image(hu, np.diag([2.0, 2.0, 2.0, 1.0])), path)
    pictures = Pictures(10**6)
    for plane, number in (("axial", 17), ("coronal", 27), ("sagittal", 37)):
        jpeg, _ = pictures.slice(path, path, plane, number, "bone", 200)
        grey = np.asarray(Image.open(io.BytesIO(jpeg)), float)
        rows, columns = np.nonzero(grey > 200)
        assert rows.mean() < grey.shape[0] / 2, plane
        assert columns.mean() < grey.shape[1] / 2, plane
    axial = Image.open(io.BytesIO(pictures.slice(path, path, "axial", 17, "bone", 200)[0]))
    assert axial.size == (200, 150)


def test_a_finer_copy_is_what_is_looked_at(tmp_path: Path) -> None:
    with make_index(tmp_path) as index, serve(index, tmp_path / "state") as client:
        url = "/v1/cases/case0/slices/axial/16.jpg?window=bone&size=64"
        coarse = client.get(url)
        # Of the same extent: 11 mm voxels cut into four. By hand: the middle of slice 16 is 176 mm, and 176 mm lies in
        # the copy's slice 65.5, counted from its first middle at -4.125 mm.
        hu = np.full((128, 112, 128), -1000, np.int16)
        hu[:, :, 65:67] = 3000
        affine = np.diag([2.75, 2.75, 2.75, 1.0])
        affine[:3, 3] = -4.125
        (tmp_path / "views").mkdir()
        nib.save(nib.Nifti1Image(hu, affine), tmp_path / "views" / "case0.nii")
        fine = client.get(url)
        assert fine.headers["etag"] != coarse.headers["etag"]
        assert np.asarray(Image.open(io.BytesIO(fine.content))).min() > 200
        beside = client.get(url.replace("/16.jpg", "/18.jpg"))
        assert np.asarray(Image.open(io.BytesIO(beside.content))).max() < 20
        assert client.get(url.replace("/16.jpg", "/32.jpg")).status_code == 422
        assert client.get("/v1/cases/case0").json()["grid"]["shape"] == [128, 112, 128]
        assert nib.Nifti1Image.from_bytes(client.get("/v1/cases/case0/volume").content).shape == (128, 112, 128)


def test_a_heat_map_shows_where_a_finding_is_seen(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.zeros((4, 4, 4), np.float32)
    values[1, 2, 2] = 6.0
    heat = HeatMap("nodule", values, np.diag([88.0, 77.0, 88.0, 1.0]), (8.0, 7.0, 8.0))
    asked = []
    monkeypatch.setattr(Searcher, "look_for", lambda _, words, volume: asked.append((words, volume.suffix)) or heat)
    found = client.get("/v1/cases/case0/evidence?asked=nódulo").json()
    assert asked == [("nódulo", ".nii")]
    # By hand: the cell's middle is voxel (1.5 * 8, 2.5 * 7, 2.5 * 8).
    assert found["slices"] == {"sagittal": 12, "coronal": 17, "axial": 20}
    assert found["box"] == {"lo_mm": [44.0, 115.5, 132.0], "hi_mm": [132.0, 192.5, 220.0]}
    answer = client.get("/v1/cases/case0/heat?asked=nodule")
    image = nib.Nifti1Image.from_bytes(gzip.decompress(answer.content))
    drawn = np.asarray(image.dataobj)
    assert (drawn.dtype, drawn.shape) == (np.uint8, (12, 12, 12))
    [peak] = np.argwhere(drawn == 255).tolist()
    # By hand: the middle of cell (1, 2, 2), and a third of the way to the next one.
    assert (image.affine @ [*peak, 1]).tolist() == pytest.approx([88, 154, 176, 1])
    assert drawn[peak[0] + 1, peak[1], peak[2]] == 170
    assert drawn[:2].sum() == 0
    again = client.get(answer.request.url, headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("kind", ["evidence", "heat"])
def test_where_the_model_cannot_tell_it_says_so(client: TestClient, kind: str) -> None:
    refused = client.get(f"/v1/cases/case0/{kind}?asked=nodule")
    assert refused.status_code == 404
    assert "cannot tell where" in refused.json()["error"]["message"]
    assert client.get(f"/v1/cases/case0/{kind}").status_code == 422


def test_a_picture_is_kept_and_named_by_a_tag(client: TestClient) -> None:
    first = client.get("/v1/cases/case0/slices/axial/16.jpg?window=lung&size=128")
    assert first.headers["content-type"] == "image/jpeg"
    assert first.headers["cache-control"].startswith("private")
    again = client.get(first.request.url, headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    other = client.get("/v1/cases/case0/slices/axial/17.jpg?window=lung&size=128")
    assert other.headers["etag"] != first.headers["etag"]


def test_pictures_give_way_when_there_is_no_room(tmp_path: Path) -> None:
    path = tmp_path / "v.nii"
    nib.save(
        nib.Nifti1Image(np.random.default_rng(0).integers(-900, 900, (32, 32, 32)).astype(np.int16), np.eye(4)), path
    )
    pictures = Pictures(20_000)
    for number in range(32):
        pictures.slice(path, path, "axial", number, "lung", 64)
    assert 0 < sum(map(len, pictures._kept.values())) == pictures._bytes <= 20_000


def test_a_volume_comes_in_parts(client: TestClient) -> None:
    whole = client.get("/v1/cases/case1/volume")
    part = client.get("/v1/cases/case1/volume", headers={"range": "bytes=352-1351"})
    assert (part.status_code, part.content) == (206, whole.content[352:1352])
    assert part.headers["content-range"] == f"bytes 352-1351/{len(whole.content)}"
    assert client.get("/v1/cases/case1/volume", headers={"range": "bytes=99999999-"}).status_code == 416
    held = client.get("/v1/cases/case1/volume", headers={"if-none-match": whole.headers["etag"]})
    assert held.status_code == 304


def test_a_preview_is_narrow_and_lies_where_the_volume_lies(tmp_path: Path) -> None:
    hu = np.zeros((600, 8, 4), np.int16)
    hu[300:303] = 900
    path = tmp_path / "v.nii"
    nib.save(nib.Nifti1Image(hu, np.diag([0.5, 0.5, 1.0, 1.0])), path)
    content, _ = Pictures(10**8).preview(path)
    made = nib.Nifti1Image.from_bytes(gzip.decompress(content))
    assert max(made.shape[:2]) <= PREVIEW_SIDE
    # Voxels 300 to 302 of 0.5 mm have their middle at 150.5 mm; nibabel says where the preview's bright voxel lies.
    bright = np.argwhere(np.asarray(made.dataobj)[:, 0, 0] == 900)
    assert (made.affine @ [bright[0, 0], 0, 0, 1])[0] == pytest.approx(150.5)


def test_a_volume_that_has_gone_is_told(client: TestClient, library: SearchIndex) -> None:
    volume = library.path.parent / "volumes" / "case0.nii"
    volume.rename(volume.with_suffix(".away"))
    try:
        assert client.get("/v1/cases/case0/volume").status_code == 404
        assert client.get("/v1/cases/case0").json()["links"]["volume"] is None
    finally:
        volume.with_suffix(".away").rename(volume)
