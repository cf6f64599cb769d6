"""The audit finds what was planted, wherever it was, and never repeats it."""

import ast
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from medfinder import curation, sources, volume
from medfinder.curation.curate import CurationSettings, curate
from medfinder.curation.dataset import CASES
from medfinder.curation.deidentify import find_phi
from medfinder.curation.deidentify.audit import audit_phi
from medfinder.errors import ConfigError
from medfinder.records import Language
from medfinder.sources.phantoms.write import write_phantoms
from medfinder.volume import Grid

# What is planted; the audit must tell where it stands without saying it.
TELLING = "informado por dra. zubizarreta el 12/03/2019"
WORDS = ("zubizarreta", "12/03/2019")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("audit")
    write_phantoms(place / "phantoms", studies=3, seed=5, size=48)
    curate(
        place / "phantoms", place / "dataset", CurationSettings(grid=Grid(shape=(16, 16, 16), spacing_mm=(20.0,) * 3))
    )
    return place / "dataset"


@pytest.fixture
def dataset(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "dataset"))


def change_cases(dataset: Path, change: Callable[[list[dict[str, Any]]], None]) -> str:
    table = pq.read_table(dataset / CASES)
    rows = table.to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), dataset / CASES)
    return str(rows[1]["case_id"])


def change_header(dataset: Path, change: Callable[[Any], None]) -> None:
    path = next((dataset / "volumes").iterdir())
    image: Any = nib.load(path)
    copy = nib.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header)
    change(copy.header)
    path.unlink()
    nib.save(copy, path)


def test_a_dataset_of_phantoms_is_clean(dataset: Path) -> None:
    audit = audit_phi(dataset)
    assert audit.leaks == ()
    assert audit.is_clean
    assert audit.files >= 7
    assert audit.texts > 20


def words_of_ours() -> set[str]:
    """Every string of two to six plain words in the rooms that curate: reasons, stages, lines of tables."""
    rooms = [Path(curation.__file__).parent, Path(sources.__file__).parent, Path(volume.__file__).parent]
    files = [file for room in rooms for file in room.rglob("*.py") if "phantoms" not in file.parts]
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))]
    texts = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return {text for text in texts if re.fullmatch(r"[a-z]+(?:[ -][a-z]+){1,5}", text)}


@pytest.mark.parametrize("language", ["es", "en"])
def test_no_reason_of_curation_is_taken_for_a_name_in_a_card(language: Language) -> None:
    reasons = words_of_ours()
    assert {"duplicate row", "bad spacing", "same text"} <= reasons
    card = "\n".join(f"| table: {reason} | 1 |" for reason in sorted(reasons))
    assert [card[span.start : span.end] for span in find_phi(card, language)] == []


def plant_report(dataset: Path) -> None:
    change_cases(dataset, lambda rows: rows[1].update(report=rows[1]["report"] + " " + TELLING))


def plant_nested(dataset: Path) -> None:
    change_cases(dataset, lambda rows: rows[1].update(notes=[TELLING]))


def plant_metadata(dataset: Path) -> None:
    table = pq.read_table(dataset / CASES)
    pq.write_table(table.replace_schema_metadata({"made by": TELLING}), dataset / CASES)


def plant_provenance(dataset: Path) -> None:
    path = dataset / "provenance.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "comment": {"deep": [TELLING]}}))


def plant_card(dataset: Path) -> None:
    (dataset / "README.md").write_text((dataset / "README.md").read_text() + f"\n{TELLING}\n")


def plant_hidden(dataset: Path) -> None:
    (dataset / ".notes.txt").write_text(TELLING)


def plant_descrip(dataset: Path) -> None:
    change_header(dataset, lambda header: header.__setitem__("descrip", b"ZUBIZARRETA^MIREN"))


def plant_aux_file(dataset: Path) -> None:
    change_header(dataset, lambda header: header.__setitem__("aux_file", b"dr. zubizarreta"))


def plant_db_name(dataset: Path) -> None:
    change_header(dataset, lambda header: header.__setitem__("db_name", b"nhc 556677"))


def plant_intent(dataset: Path) -> None:
    change_header(dataset, lambda header: header.__setitem__("intent_name", b"12/03/2019"))


def plant_extension(dataset: Path) -> None:
    extension = nib.nifti1.Nifti1Extension("comment", TELLING.encode())
    change_header(dataset, lambda header: header.extensions.append(extension))


def plant_file_name(dataset: Path) -> None:
    (dataset / "garcia_lopez-20190312.txt").write_text("nothing")


@pytest.mark.parametrize(
    ("plant", "where"),
    [
        (plant_report, "report"),
        (plant_nested, "notes"),
        (plant_metadata, "metadata"),
        (plant_provenance, "provenance.json"),
        (plant_card, "README.md"),
        (plant_hidden, ".notes.txt"),
        (plant_descrip, "descrip"),
        (plant_aux_file, "aux_file"),
        (plant_db_name, "db_name"),
        (plant_intent, "intent_name"),
        (plant_extension, "extension"),
        (plant_file_name, "its name"),
    ],
)
def test_what_is_planted_is_found_and_not_repeated(dataset: Path, plant: Callable[[Path], None], where: str) -> None:
    plant(dataset)
    audit = audit_phi(dataset)
    assert audit.leaks
    assert all(where in leak.where for leak in audit.leaks)
    told = repr(audit).lower()
    assert not [word for word in (*WORDS, "garcia", "miren", "556677") if word in told]


def test_the_case_of_a_leak_is_named(dataset: Path) -> None:
    case_id = change_cases(dataset, lambda rows: rows[1].update(report=TELLING))
    assert all(case_id in leak.where for leak in audit_phi(dataset).leaks)


def test_a_file_that_cannot_be_looked_into_is_told(dataset: Path) -> None:
    (dataset / "more.bin").write_bytes(b"\0\1")
    audit = audit_phi(dataset)
    assert not audit.is_clean
    assert [place.split(":")[0] for place in audit.unread] == ["more.bin"]


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no folder"):
        audit_phi(tmp_path / "none")


def test_an_empty_folder_does_not_pass_for_clean(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no file"):
        audit_phi(tmp_path)


def test_the_command_ends_with_1_when_anything_is_found(dataset: Path) -> None:
    plant_card(dataset)
    command = [sys.executable, "-m", "medfinder.cli", "audit-phi", str(dataset)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 1
    assert "README.md" in answer.stdout
    assert not [word for word in WORDS if word in answer.stdout + answer.stderr]
