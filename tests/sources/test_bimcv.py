"""The raw BIMCV tree: studies agree with the truth that the source never reads, and every fault has its reason."""

import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from medfinder.errors import ConfigError, DatasetError
from medfinder.records import Claim, Dropped, Finding, Study
from medfinder.sources import bimcv, find_source
from medfinder.sources.bimcv import read
from medfinder.sources.files import hash_id
from medfinder.sources.phantoms.bimcv_tree import TreeSettings, write_bimcv_tree
from medfinder.volume import read_volume

HEADER = "PatientID\tReportID\tReport\tLabels\tLocalizations\tLabelsLocalizationsBySentence\tlabelCUIS\n"


def split(entries: Any) -> tuple[dict[str, Study], list[Dropped]]:
    entries = list(entries)
    studies = {entry.study_id: entry for entry in entries if isinstance(entry, Study)}
    return studies, [entry for entry in entries if isinstance(entry, Dropped)]


def id_of(truth: dict[str, Any]) -> str:
    return hash_id("study", truth["subject"].removeprefix("sub-"), truth["session"].removeprefix("ses-"))


# A tree made by the generator, judged by its own truth.


@pytest.fixture(scope="module", params=[21, 22])
def tree(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bimcv") / "tree"
    settings = TreeSettings(mean_series=3, xray_session_rate=0.3)
    write_bimcv_tree(out, studies=12, seed=request.param, size=48, settings=settings)
    return out


@pytest.fixture(scope="module")
def truth(tree: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tree / "truth.jsonl").read_text(encoding="utf-8").splitlines()]


def test_every_ct_session_is_a_study_or_a_refusal_and_the_others_have_no_ct(
    tree: Path, truth: list[dict[str, Any]]
) -> None:
    studies, dropped = split(read(tree))
    sessions = [one for one in truth if one["record"] == "session"]
    twice = {id_of(one) for one in sessions if "two texts" in one["details"].values()}
    expected = {id_of(one) for one in sessions if one["modality"] == "CT"}
    assert studies.keys() == expected - twice
    assert {row.study_id for row in dropped if row.reason == "two reports"} == twice
    assert {row.study_id for row in dropped if row.reason == "no CT"} == {
        id_of(one) for one in sessions if one["modality"] != "CT"
    }
    assert [row.reason for row in dropped].count("no participant") == 1


def test_reports_patients_ages_and_days_are_those_of_the_truth(tree: Path, truth: list[dict[str, Any]]) -> None:
    studies, _ = split(read(tree))
    first_days: dict[str, str] = {}
    for one in truth:
        if one["record"] == "session" and one["modality"] == "CT":
            first_days[one["subject"]] = min(one["date"], first_days.get(one["subject"], one["date"]))
    for one in truth:
        if one["record"] != "session" or (study := studies.get(id_of(one))) is None:
            continue
        told = next((row["Report"] for row in one["rows"] if row["Report"]), None)
        assert study.report == told
        assert study.patient_id == hash_id("patient", one["subject"].removeprefix("sub-"))
        assert (study.age_years, study.sex, study.report_language) == (one["age_years"], one["sex"], "es")
        days = np.datetime64(one["date"]) - np.datetime64(first_days[one["subject"]])
        assert study.date_offset_days == days.astype(int)


def test_claims_of_patients_differ_exactly_where_the_row_names_another_one(
    tree: Path, truth: list[dict[str, Any]]
) -> None:
    studies, _ = split(read(tree))
    differing = {s.study_id for s in studies.values() for c in s.claims if c.report and c.image != c.report}
    mispaired = {id_of(one) for one in truth if "id and text of another patient" in one.get("details", {}).values()}
    assert differing == mispaired & studies.keys()


def test_hu_are_those_of_the_truth_wherever_the_rescale_stands(tree: Path, truth: list[dict[str, Any]]) -> None:
    studies, _ = split(read(tree))
    series = {one.path: one for study in studies.values() for one in study.series}
    seen: Counter[str] = Counter()
    for one in truth:
        path = tree / one.get("path", "none")
        unfit = {"empty", "z-spacing-is-field-of-view", "rgb"} & set(one["faults"])
        if one["record"] != "series" or path not in series or one["rescale"] is None or unfit:
            continue
        if one["kind"] == "localizer":
            continue
        rescale = one["rescale"]
        stored = np.asarray(nib.load(path).dataobj.get_unscaled()).astype(np.int32)
        is_told = rescale["where"] != "nowhere"
        hu = stored + (rescale["intercept"] if is_told else 0)
        # What lies at or below -1500 is padding by the reader's rule and becomes air.
        expected = np.where(hu <= -1500, -1024, hu)
        volume = read_volume(path, rescale=series[path].rescale)
        turned = nib.as_closest_canonical(nib.Nifti1Image(expected.astype(np.int16), nib.load(path).affine))
        np.testing.assert_array_equal(volume.hu, np.asarray(turned.dataobj))
        seen[rescale["where"]] += 1
    assert seen["side file"] >= 3
    assert seen["header and side file"] >= 3


def test_tags_come_from_side_files_and_are_empty_without_one(tree: Path, truth: list[dict[str, Any]]) -> None:
    studies, _ = split(read(tree))
    series = {one.path: one for study in studies.values() for one in study.series}
    for one in truth:
        if one["record"] == "series" and (found := series.get(tree / one["path"])) is not None:
            assert (found.tags.modality == "CT") == (one["side_file"] is not None)
            if one["side_file"] and one["kind"] == "localizer":
                assert found.tags.image_type[-1] == "LOCALIZER" or found.tags.image_type[-1] == "SECONDARY"


def test_the_tree_the_folder_above_and_its_links_give_the_same_studies(tree: Path, tmp_path: Path) -> None:
    above, dropped = split(read(tree))
    inside, _ = split(read(tree / "covid19_posi"))
    assert above.keys() == inside.keys()
    copy = tmp_path / "tree"
    shutil.copytree(tree, copy)
    session = next((copy / "covid19_posi").glob("sub-*/ses-*/mod-rx"))
    (session / "up").symlink_to(copy)
    (copy / "covid19_posi" / "down").symlink_to(session)
    circled, circled_dropped = split(read(copy))
    assert circled.keys() == above.keys()
    assert len(circled_dropped) == len(dropped)


def test_phantoms_are_called_synthetic(tree: Path) -> None:
    assert find_source(tree) == "bimcv"
    assert find_source(tree / "covid19_posi") == "bimcv"
    assert all(study.is_synthetic for study in split(read(tree))[0].values())


def test_no_name_of_a_subject_or_session_is_told(tree: Path) -> None:
    for entry in read(tree):
        if isinstance(entry, Dropped):
            assert "S0" not in repr(entry)
            assert "E1000" not in repr(entry)


# Trees made by hand: a file of a few bytes stands for a volume, which is never opened.


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "BIMCV" / "covid19_posi"


def add_ct(root: Path, subject: str, session: str, *, run: int = 1, tags: Any = None, kind: str = "ct") -> Path:
    folder = root / f"sub-{subject}" / f"ses-{session}" / "mod-rx"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"sub-{subject}_ses-{session}_run-{run}_bp-chest_{kind}.nii.gz"
    path.write_bytes(b"never opened")
    if tags is not None:
        path.with_name(path.name.replace(".nii.gz", ".json")).write_text(json.dumps(tags))
    return path


def add_labels(root: Path, *rows: str, name: str = "labels_covid_posi.tsv", encoding: str = "utf-8") -> Path:
    path = root / "derivatives" / "labels" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((HEADER + "".join(f"{row}\n" for row in rows)).encode(encoding))
    return path


def test_labels_become_findings_under_their_own_names_with_their_side(root: Path) -> None:
    add_ct(root, "S03001", "E10001")
    labels = "['pleural effusion', ' atelectasis', '', 'exclude', 'normal']"
    places = "[['pleural effusion', ' loc left'], ['atelectasis', 'loc left', 'loc lower lobe', 'loc right']]"
    add_labels(root, f"sub-S03001\tses-E10001\tderrame y atelectasia .\t{labels}\t[]\t{places}\t[C0032227]")
    (study,), dropped = split(read(root))[0].values(), split(read(root))[1]
    assert not dropped
    assert study.findings == (
        Finding("pleural effusion", laterality="left"),
        Finding("atelectasis", laterality="bilateral", location="lower lobe"),
    )


@pytest.mark.parametrize("name", ["Labels_covid_123.tsv", "Labels_covid_NEG_JAN21.tsv", "labels.txt", "labels.csv"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "cp1252"])
def test_a_label_table_is_known_by_its_header(root: Path, name: str, encoding: str) -> None:
    add_ct(root, "S03001", "E10001")
    add_labels(root, "S03001\tE10001\tatelectasia en lóbulo .\t[]\t[]\t[]\t[]", name=name, encoding=encoding)
    ((_, study),) = split(read(root.parent))[0].items()
    assert study.report == "atelectasia en lóbulo ."
    assert all(claim.image == claim.report for claim in study.claims if claim.report)


def test_two_reports_for_a_session_a_row_twice_and_a_row_for_no_image_each_have_their_reason(root: Path) -> None:
    for session in ("E10001", "E10002", "E10003"):
        add_ct(root, "S03001", session)
    add_labels(
        root,
        "S03001\tE10001\tuno .",
        "S03001\tE10001\tdos .",
        "S03001\tE10002\tderrame .",
        "S03001\tE10002\tderrame  .",
        "S03001\tE10003\t",
        "S03001\tE10003\tmasa .",
        "S03009\tE10009\tsin imagen .",
        "\t\tde nadie .",
        "S03001\tE10001\ta\tb\tc\td\te\tf\tg",
    )
    studies, dropped = split(read(root))
    assert sorted(study.report or "" for study in studies.values()) == ["derrame .", "masa ."]
    assert Counter(row.reason for row in dropped) == {
        "two reports": 1,
        "duplicate row": 2,
        "no image": 1,
        "unreadable row": 2,
    }
    assert "reports for this session differ (row 2 of label table, row 3" in next(
        row.detail for row in dropped if row.reason == "two reports"
    )
    assert not any(word in repr(dropped) for word in ("derrame", "sin imagen", "S03009"))


def test_a_session_without_a_row_takes_the_text_of_its_table_of_sessions(root: Path) -> None:
    add_ct(root, "S03001", "E10001")
    add_ct(root, "S03001", "E10002")
    add_ct(root, "S03001", "E10003")
    table = "session_id\tstudy_date\tmedical_evaluation\n"
    table += "ses-E10001\t20200301.0\t['tc torax . sin derrame, sin masas .']\n"
    table += "ses-E10002\t20200311.0\t['uno .', 'dos .']\n"
    (root / "sub-S03001" / "sub-S03001_sessions.tsv").write_text(table)
    studies, dropped = split(read(root))
    told = {study.date_offset_days: study.report for study in studies.values()}
    assert told == {0: "tc torax . sin derrame, sin masas .", None: None}
    assert [row.reason for row in dropped] == ["two reports"]


def test_days_ages_and_sexes_of_tables_and_tags_stand_side_by_side(root: Path) -> None:
    tags = {
        "00080060": {"vr": "CS", "Value": ["CT"]},
        "00080020": {"vr": "DA", "Value": ["20200305"]},
        "00100040": {"vr": "CS", "Value": ["M"]},
        "00101010": {"vr": "AS", "Value": ["071Y"]},
        "00180015": {"vr": "CS", "Value": ["ABDOMEN"]},
    }
    add_ct(root, "S03001", "E10001", tags=tags)
    table = "session_id\tstudy_date\tmedical_evaluation\nses-E10001\t20200401.0\t[]\n"
    (root / "sub-S03001" / "sub-S03001_sessions.tsv").write_text(table)
    people = "participant\tmodality_dicom\tbody_parts\tage\tgender\n"
    people += "sub-S03001\t['CT']\t[['chest']]\t[80, 81]\tF\nderivatives\t[]\t[]\t[]\tNone\nsub-S03002\t[]\t[]\t[]\tF\n"
    (root / "participants.tsv").write_text(people)
    studies, dropped = split(read(root))
    (study,) = studies.values()
    assert study.claims[2:] == (
        Claim("date", "0", "27"),
        Claim("body part", "abdomen", "chest"),
        Claim("sex", "M", "F"),
        Claim("age", "71", "80"),
    )
    assert (study.age_years, study.sex, study.date_offset_days) == (71, "M", 0)
    assert sorted(row.reason for row in dropped) == ["no image", "no participant"]


def test_series_that_are_misplaced_of_another_modality_or_told_twice_are_set_aside(root: Path) -> None:
    good = add_ct(root, "S03001", "E10001")
    good.with_name(good.name.removesuffix(".gz")).write_bytes(b"again")
    add_ct(root, "S03001", "E10001", run=2, kind="mr")
    add_ct(root, "S03001", "E10001", run=3, tags={"Modality": "PT"})
    stray = add_ct(root, "S03002", "E10002")
    shutil.copy(stray, good.parent)
    scans = "filename\tmodality\tbody_part\n"
    scans += f"mod-rx/{good.name}\tct\tchest\nmod-rx/{good.name.replace('run-1', 'run-7')}\tct\tchest\n"
    (good.parents[1] / "sub-S03001_ses-E10001_scans.tsv").write_text(scans)
    studies, dropped = split(read(root))
    assert [len(study.series) for study in studies.values()] == [1, 1]
    reasons = Counter(row.reason for row in dropped)
    assert reasons == {"duplicate file": 1, "not CT": 2, "misplaced": 1, "absent": 1}


def test_damaged_side_files_say_nothing_and_locked_ones_are_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = add_ct(root, "S03001", "E10001", tags={})
    first.with_name(first.name.replace(".nii.gz", ".json")).write_text('{"00080060": {"vr"')
    second = add_ct(root, "S03001", "E10001", run=2, tags={})
    real = Path.read_bytes

    def read_bytes(path: Path) -> bytes:
        if path.name.startswith("sub-S03001_ses-E10001_run-2"):
            raise PermissionError(13, os.strerror(13))
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    studies, dropped = split(read(root))
    (study,) = studies.values()
    assert [one.path for one in study.series] == [first]
    assert (study.series[0].tags.modality, study.series[0].rescale) == ("", None)
    assert [(row.reason, row.series_id) for row in dropped] == [
        ("unreadable side file", hash_id("series", second.name.removesuffix(".nii.gz")))
    ]
    assert "Permission denied" in dropped[0].detail


def test_a_locked_session_is_told_and_the_others_go_on(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_ct(root, "S03001", "E10001")
    add_ct(root, "S03002", "E10002")
    real = os.scandir

    def scandir(path: Path) -> Any:
        if Path(path).name == "ses-E10001":
            raise PermissionError(13, os.strerror(13))
        return real(path)

    monkeypatch.setattr("medfinder.sources.files.os.scandir", scandir)
    studies, dropped = split(read(root))
    assert list(studies) == [hash_id("study", "S03002", "E10002")]
    assert [(row.reason, row.study_id) for row in dropped] == [
        ("unreadable folder", hash_id("study", "S03001", "E10001"))
    ]


def test_rows_beyond_a_limit_are_counted_in_one(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bimcv, "MAX_ROWS_TOLD", 3)
    add_ct(root, "S03001", "E10001")
    add_labels(root, *(f"S1{n:04d}\tE2{n:04d}\ttexto ." for n in range(10)))
    _, dropped = split(read(root))
    assert [row.reason for row in dropped] == ["no image"] * 4
    assert dropped[-1].detail.startswith("7 more rows")


def test_a_given_table_stands_instead_of_those_in_the_tree(root: Path, tmp_path: Path) -> None:
    add_ct(root, "S03001", "E10001")
    add_labels(root, "S03001\tE10001\tantiguo .")
    (tmp_path / "mine.csv").write_text("ReportID,PatientID,Report\nE10001,S03001,nuevo .\n")
    ((_, study),) = split(read(root, table=tmp_path / "mine.csv"))[0].items()
    assert study.report == "nuevo ."
    (tmp_path / "wrong.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DatasetError, match="found 'a', 'b'; expected PatientID, ReportID"):
        read(root, table=tmp_path / "wrong.csv")


def test_what_is_no_bimcv_tree_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sub-01" / "ses-1").mkdir(parents=True)
    with pytest.raises(ConfigError, match="no raw BIMCV tree"):
        read(tmp_path)
