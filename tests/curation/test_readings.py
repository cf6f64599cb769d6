"""What readers say in the review page: stored at once, taken back step by step, never overwritten by another."""

import subprocess
import sys
from pathlib import Path

import pytest

from medfinder.curation.agreement import ALL, measure_agreement
from medfinder.curation.diagnoses import (
    Diagnosis,
    import_diagnoses,
    list_for_agreement,
    open_store,
    settle_diagnoses,
    write_diagnoses,
)
from medfinder.curation.readings import READINGS, finish, look, open_readings, say, standing, undo
from medfinder.errors import ConfigError


def statuses(dataset: Path) -> dict[tuple[str, str, str], str]:
    return {(one.case_id, one.finding, one.reader): one.status for one in open_store(dataset).diagnoses}


def test_each_word_is_a_line_with_who_before_and_after(tmp_path: Path) -> None:
    journal = open_readings(tmp_path)
    say(journal, "a", "nodule", "present", reader=" R1 ")
    changed = say(journal, "a", "nodule", "uncertain", reader="R1")
    assert (changed.before, changed.after, changed.reader) == ("present", "uncertain", "R1")
    assert len((tmp_path / READINGS).read_text(encoding="utf-8").splitlines()) == 2
    assert statuses(tmp_path) == {("a", "nodule", "R1"): "uncertain"}


def test_readers_do_not_overwrite_one_another(tmp_path: Path) -> None:
    # Two windows on one folder, each with its own view of the file.
    first, second = open_readings(tmp_path), open_readings(tmp_path)
    say(first, "a", "nodule", "present", reader="R1")
    other = say(second, "a", "nodule", "absent", reader="R2")
    assert other.before == ""
    assert statuses(tmp_path) == {("a", "nodule", "R1"): "present", ("a", "nodule", "R2"): "absent"}


def test_two_processes_that_write_at_once_lose_no_word(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from medfinder.curation.readings import open_readings, say\n"
        "journal = open_readings(Path(sys.argv[1]))\n"
        "for number in range(40): say(journal, f'c{number}', 'nodule', 'present', reader=sys.argv[2])"
    )
    both = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), name]) for name in ("R1", "R2")]
    assert [one.wait(60) for one in both] == [0, 0]
    assert len(statuses(tmp_path)) == 80


def test_undo_goes_back_step_by_step_and_leaves_others_alone(tmp_path: Path) -> None:
    journal = open_readings(tmp_path)
    say(journal, "a", "nodule", "present", reader="R1")
    say(journal, "a", "nodule", "absent", reader="R1")
    say(journal, "b", "mass", "present", reader="R1")
    say(journal, "b", "mass", "present", reader="R2")
    undo(journal, reader="R1")
    assert statuses(tmp_path) == {("a", "nodule", "R1"): "absent", ("b", "mass", "R2"): "present"}
    undo(journal, reader="R1")
    assert statuses(tmp_path)["a", "nodule", "R1"] == "present"
    say(journal, "c", "mass", "present", reader="R1")
    undo(journal, reader="R1")
    undo(journal, reader="R1")
    assert statuses(tmp_path) == {("b", "mass", "R2"): "present"}
    assert undo(journal, reader="R1") is None


def test_words_after_a_look_at_the_report_are_marked_and_the_look_stays(tmp_path: Path) -> None:
    journal = open_readings(tmp_path)
    blind = say(journal, "a", "nodule", "present", reader="R1")
    look(journal, "a", reader="R1")
    assert look(journal, "a", reader="R1") is None
    sighted = say(journal, "a", "mass", "present", reader="R1")
    elsewhere = say(journal, "b", "mass", "present", reader="R1")
    other = say(journal, "a", "mass", "present", reader="R2")
    assert [one.report_shown for one in (blind, sighted, elsewhere, other)] == [False, True, False, False]
    for _ in range(5):
        undo(journal, reader="R1")
    assert say(journal, "a", "nodule", "present", reader="R1").report_shown
    assert {one.report_shown for one in open_store(tmp_path).diagnoses if one.reader == "R1"} == {True}


def test_who_finished_a_case_without_naming_what_another_saw_says_absent(tmp_path: Path) -> None:
    journal = open_readings(tmp_path)
    say(journal, "a", "nodule", "present", reader="R1")
    finish(journal, "a", reader="R2")
    finish(journal, "b", reader="R2")
    assert statuses(tmp_path) == {("a", "nodule", "R1"): "present", ("a", "nodule", "R2"): "absent"}
    assert [settled.how for settled in settle_diagnoses(open_store(tmp_path).diagnoses)] == ["open"]
    undo(journal, reader="R2")
    undo(journal, reader="R2")
    assert statuses(tmp_path) == {("a", "nodule", "R1"): "present"}


def test_kappa_counts_the_cases_in_which_nobody_named_a_finding(tmp_path: Path) -> None:
    journal = open_readings(tmp_path)
    for case in "abcd":
        for reader in ("R1", "R2"):
            if case == "a" or (case == "b" and reader == "R1"):
                say(journal, case, "nodule", "present", reader=reader)
            finish(journal, case, reader=reader)
    import numpy as np

    rows = measure_agreement(list_for_agreement(tmp_path), rng=np.random.default_rng(0), draws=1)
    nodule = next(row for row in rows if row.finding == "nodule")
    # By hand: 3 of 4 agree; R1 says present twice, R2 once: chance 2/4 * 1/4 + 2/4 * 3/4 = 1/2; kappa = 1/4 / 1/2.
    assert (nodule.cases, nodule.observed, nodule.kappa) == (4, 0.75, 0.5)
    assert rows[-1].finding == ALL


def test_a_last_word_stands_above_a_majority_and_counts_in_no_kappa(tmp_path: Path) -> None:
    journal = open_readings(tmp_path)
    for reader, status in (("R1", "present"), ("R2", "present"), ("R3", "absent")):
        say(journal, "a", "nodule", status, reader=reader)
    # A reader may settle, too: the blind word stays beside the last one.
    say(journal, "a", "nodule", "absent", reader="R1", settles=True)
    (settled,) = settle_diagnoses(open_store(tmp_path).diagnoses)
    assert (settled.status, settled.how, settled.readers) == ("absent", "adjudicator", 3)
    undo(journal, reader="R1")
    (settled,) = settle_diagnoses(open_store(tmp_path).diagnoses)
    assert (settled.status, settled.how) == ("present", "majority")


def test_imported_words_and_those_of_the_page_stand_together_and_the_later_counts(tmp_path: Path) -> None:
    journal = open_readings(tmp_path)
    said = say(journal, "a", "nodule", "present", reader="R1")
    table = tmp_path / "readers.csv"
    write_diagnoses(
        [Diagnosis("a", "nodule", "absent", "R1", "2001-01-01"), Diagnosis("a", "mass", "absent", "R1", "2001-01-01")],
        table,
    )
    imported = import_diagnoses(table, tmp_path, case_ids={"a"})
    assert (imported.added, imported.older) == (1, 1)
    assert statuses(tmp_path) == {("a", "nodule", "R1"): "present", ("a", "mass", "R1"): "absent"}
    write_diagnoses(open_store(tmp_path).diagnoses, table)
    assert import_diagnoses(table, tmp_path, case_ids={"a"}).unchanged == 2
    undo(journal, reader="R1")
    assert ("a", "nodule", "R1") not in statuses(tmp_path)
    assert said.report_shown is False


@pytest.mark.parametrize("name", ["out.csv", "out.parquet"])
def test_what_was_shown_and_what_settles_survives_a_table(tmp_path: Path, name: str) -> None:
    words = [
        Diagnosis("a", "mass", "absent", "R1", "2024-05-31", True),
        Diagnosis("a", "mass", "present", "R1", "2024-05-31", False, settles=True),
        Diagnosis("a", "mass", "present", "R2"),
    ]
    write_diagnoses(words, tmp_path / name)
    (tmp_path / "dataset").mkdir()
    import_diagnoses(tmp_path / name, tmp_path / "dataset", case_ids={"a"})
    assert set(open_store(tmp_path / "dataset").diagnoses) == set(words)


def test_a_torn_line_costs_that_line_alone_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    journal = open_readings(tmp_path)
    say(journal, "a", "nodule", "present", reader="R1")
    with (tmp_path / READINGS).open("ab") as file:
        file.write(b'{"case_id": "a", "rea')
    assert len(journal.read()) == 1
    say(journal, "a", "mass", "present", reader="R1")
    assert [one.finding for one in standing(open_readings(tmp_path).read())] == ["nodule", "mass"]
    assert [one.finding for one in standing(journal.read())] == ["nodule", "mass"]
    with (tmp_path / READINGS).open("ab") as file:
        file.write(b"nonsense\n")
    with pytest.raises(ConfigError, match=r"line 3 .* is no reading"):
        journal.read()


@pytest.mark.parametrize(
    ("finding", "status", "reader", "message"),
    [
        ("nodule", "present", " ", "who you are"),
        ("sunburn", "present", "R1", "no keyword"),
        ("nodule", "finished", "R1", "expected present"),
    ],
)
def test_what_cannot_count_is_refused_and_not_stored(
    tmp_path: Path, finding: str, status: str, reader: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        say(open_readings(tmp_path), "a", finding, status, reader=reader)
    assert not (tmp_path / READINGS).exists()
