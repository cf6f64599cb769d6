"""The key: where it may lie, what it makes of ids, dates and studies."""

import hashlib
import hmac
from pathlib import Path

import pytest

from medfinder.curation.deidentify import Key, pseudonym, rekey, rekey_dropped, shift_days
from medfinder.errors import ConfigError
from medfinder.records import Claim, Dropped, Series, Study

KEY = Key(bytes(range(32)))
STUDY = Study(
    study_id="s1",
    patient_id="p1",
    source="dicom",
    series=(Series("a", Path("x"), "1.2.3"), Series("b", Path("y"))),
    age_years=94,
    date_offset_days=12,
    claims=(Claim("patient", "p1", "p1"), Claim("session", "e1", "e2"), Claim("sex", "F", "M"), Claim("date", "", "d")),
)


def test_a_key_is_written_once_for_its_owner_alone_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "key"
    made = Key.make(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert Key.read(path) == made
    assert made.secret.hex() not in repr(made)
    with pytest.raises(ConfigError, match="never overwritten"):
        Key.make(path)


def test_a_key_inside_what_is_given_away_is_refused(tmp_path: Path) -> None:
    dataset = tmp_path / "dataset"
    dataset.mkdir()
    with pytest.raises(ConfigError, match="given away"):
        Key.make(dataset / "key", outside=(dataset,))
    Key.make(tmp_path / "key")
    (dataset / "link").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="given away"):
        Key.read(dataset / "key", outside=(dataset,))


@pytest.mark.parametrize(("content", "said"), [("", "no key file"), ("zz", "no key file"), ("00" * 8, "8 bytes")])
def test_what_is_no_key_is_refused(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "key"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=said if content else "0 bytes"):
        Key.read(path)


def test_a_key_that_others_may_read_or_that_is_absent_is_refused(tmp_path: Path) -> None:
    Key.make(tmp_path / "key")
    (tmp_path / "key").chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        Key.read(tmp_path / "key")
    with pytest.raises(ConfigError, match="make-key"):
        Key.read(tmp_path / "none")


def test_a_pseudonym_is_an_hmac() -> None:
    expected = hmac.new(bytes(range(32)), b"patient\0P1", hashlib.sha256).hexdigest()[:16]
    assert pseudonym(KEY, "patient", "P1") == expected
    assert pseudonym(Key(bytes(32)), "patient", "P1") != expected


def test_dates_of_patients_move_back_by_many_different_numbers_of_days() -> None:
    shifts = {shift_days(KEY, f"P{number}") for number in range(1000)}
    assert max(shifts) <= -31
    assert min(shifts) >= -3652
    assert len(shifts) > 800


def test_rekeying_hides_every_id_and_keeps_what_the_pairing_audit_compares() -> None:
    study = rekey(STUDY, KEY)
    assert not {study.study_id, study.patient_id, *(one.series_id for one in study.series)} & {"s1", "p1", "a", "b"}
    assert study.series[0].series_instance_uid == "1.2.3"
    patient, session, sex, day = study.claims
    assert patient.image == patient.report != "p1"
    assert session.image != session.report
    assert (sex.image, sex.report) == ("F", "M")
    assert day.image == "" != day.report
    assert study.age_years == 90
    assert study.date_offset_days == 12


def test_what_was_set_aside_goes_under_the_same_pseudonym() -> None:
    row = rekey_dropped(Dropped("s1", "a", "dicom", "series", "localizer", "2 images"), KEY)
    study = rekey(STUDY, KEY)
    assert (row.study_id, row.series_id) == (study.study_id, study.series[0].series_id)
    assert rekey_dropped(Dropped("s1", "", "dicom", "read", "x", "y"), KEY).series_id == ""
