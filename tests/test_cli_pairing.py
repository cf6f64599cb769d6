"""``medfinder pairing`` as a user types it: what is seen, and the exit code that a script relies on."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEADER = "PatientID,ReportID,Report,path\n"


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "medfinder.cli", "pairing", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def mispaired(tmp_path: Path) -> Path:
    table = tmp_path / "reports.csv"
    rows = ["S1,E1,tc torax normal .,sub-S1_ses-E1_ct.nii.gz", "S3,E3,tc torax . tep .,sub-S2_ses-E2_ct.nii.gz"]
    table.write_text(HEADER + "\n".join(rows) + "\n")
    return table


def test_mispaired_rows_end_in_exit_code_1_and_a_verdict_at_the_end(mispaired: Path, tmp_path: Path) -> None:
    answer = run(mispaired, "--out", tmp_path / "summary.md")
    assert answer.returncode == 1, answer.stderr
    assert "MISPAIRED: 1 of 2 rows (50.0%)" in " ".join(answer.stdout.strip().splitlines()[-4:])
    assert (tmp_path / "summary.md").read_text().startswith("**MISPAIRED: 1 of 2 rows (50.0%)")
    assert "Traceback" not in answer.stderr


def test_json_names_the_rows_and_nothing_of_them(mispaired: Path) -> None:
    answer = run(mispaired, "--json")
    assert answer.returncode == 1
    found = json.loads(answer.stdout)
    assert found["mispaired"] == ["row 3"]
    assert "S3" not in answer.stdout


def test_a_clean_table_ends_in_exit_code_0(tmp_path: Path) -> None:
    table = tmp_path / "reports.csv"
    table.write_text(HEADER + "S1,E1,tc torax normal .,sub-S1_ses-E1_ct.nii.gz\n")
    answer = run(table, "--names-only")
    assert answer.returncode == 0, answer.stderr
    assert "CLEAN" in answer.stdout


def test_what_cannot_be_audited_ends_in_exit_code_2_and_one_line(tmp_path: Path) -> None:
    answer = run(tmp_path / "missing.csv")
    assert answer.returncode == 2
    assert [line for line in answer.stderr.splitlines() if "error" in line] == [answer.stderr.strip().splitlines()[-1]]
