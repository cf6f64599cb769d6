"""The command line as a user types it: words, exit codes, one clear line for a mistake, documentation."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from medfinder.cli import app

COMMANDS = (
    "phantoms",
    "curate",
    "train",
    "index",
    "series",
    "quality",
    "pairing",
    "keywords",
    "diagnoses",
    "review",
    "deidentify",
    "audit-phi",
    "translate",
    "audit-translation",
    "stats",
    "release",
    "search",
    "evaluate",
    "embed",
    "info",
    "demo",
    "ingest",
    "receive",
    "serve",
    "benchmark",
    "upgrade-state",
    "backup",
    "restore",
)
# Groups of commands, and what each of them holds.
GROUPS = {"keys": ("add", "list", "revoke"), "audit-log": ("verify", "head")}
DOCS = Path(__file__).resolve().parents[1] / "docs" / "cli.md"


def run(*words: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "medfinder.cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=300, check=False)


def refused(*words: str | Path) -> str:
    """Run a command that must be refused: exit code 2, one line, no traceback; return the line."""
    answer = run(*words)
    assert answer.returncode == 2, answer.stderr
    assert "Traceback" not in answer.stderr
    lines = [line for line in answer.stderr.splitlines() if line.startswith("medfinder: error: ")]
    assert len(lines) == 1, answer.stderr
    return lines[0]


def test_the_commands_are_these_in_this_order() -> None:
    names = tuple(command.name or command.callback.__name__ for command in app.registered_commands if command.callback)
    assert names == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_option_is_documented(command: str) -> None:
    import typer

    text = DOCS.read_text(encoding="utf-8")
    assert f"## medfinder {command}" in text
    section = text.split(f"## medfinder {command}\n", 1)[1].split("\n## ", 1)[0]
    group = typer.main.get_command(app)
    for parameter in group.commands[command].params:  # type: ignore[attr-defined]
        for option in parameter.opts:
            if option.startswith("--") and option != "--help":
                assert f"`{option}" in section, f"{command} {option} is not in docs/cli.md"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_shows_an_example(command: str) -> None:
    answer = run(command, "--help")
    assert answer.returncode == 0
    assert f"$ medfinder {command}" in answer.stdout


def test_the_groups_hold_these_commands_documented_and_with_examples() -> None:
    import typer

    text = DOCS.read_text(encoding="utf-8")
    root = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert {name: tuple(root[name].commands) for name in root if hasattr(root[name], "commands")} == GROUPS
    for group, names in GROUPS.items():
        section = text.split(f"## medfinder {group}\n", 1)[1].split("\n## ", 1)[0]
        for name in names:
            command = root[group].commands[name]
            assert f"`medfinder {group} {name}" in section
            assert f"$ medfinder {group} {name}" in command.epilog
            for option in (option for parameter in command.params for option in parameter.opts):
                assert not option.startswith("--") or f"`{option}" in section, f"{group} {name} {option}"


def test_a_long_list_is_shown_by_its_beginning_and_not_as_json(tmp_path: Path) -> None:
    for number in range(25):
        (tmp_path / f"ct{number:02d}.nii.gz").touch()
    answer = run("info", str(tmp_path))
    assert "[" not in answer.stdout
    assert [line.split()[-1] for line in answer.stdout.splitlines()[1:3]] == ["ct00.nii.gz", "ct01.nii.gz"]
    assert answer.stdout.splitlines()[-1].strip() == "... and 5 more; --json lists all"


def test_what_is_not_known_is_said_in_words(tmp_path: Path) -> None:
    (tmp_path / "reports.csv").write_text('report\n"sin nodulos pulmonares ."\n', encoding="utf-8")
    answer = run(
        "translate", str(tmp_path / "reports.csv"), "out.csv", "--engine", "openai", "--model", "m", "--dry-run"
    )
    facts = dict(line.split(maxsplit=1) for line in answer.stdout.splitlines())
    assert (facts["usd"].strip(), facts["minutes"].strip()) == ("not known", "0.01667")


def test_version_is_printed() -> None:
    answer = run("--version")
    assert answer.returncode == 0
    assert answer.stdout.startswith("medfinder 0.")


def test_a_path_that_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    missing = tmp_path / "is not there"
    for words in (
        ("info", missing),
        ("embed", missing),
        ("curate", missing, tmp_path / "out"),
        ("index", missing, tmp_path / "out"),
        ("search", missing, "--text", "nodule"),
        ("evaluate", missing),
        ("train", missing, tmp_path / "out"),
    ):
        assert "is not there" in refused(*words)
    assert not (tmp_path / "out").exists()


def test_an_empty_folder_is_refused_by_every_stage(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for words in (
        ("info", empty),
        ("curate", empty, tmp_path / "out"),
        ("search", empty, "--text", "nodule"),
        ("evaluate", empty),
        ("train", empty, tmp_path / "out"),
    ):
        refused(*words)
    assert not (tmp_path / "out").exists()


def test_curate_without_a_source_says_how_to_call_it() -> None:
    assert "curate needs SOURCE and OUT" in refused("curate")


def test_a_template_of_the_report_table_is_written_and_never_overwrites(tmp_path: Path) -> None:
    table = tmp_path / "reports.csv"
    assert run("curate", "--template", table).returncode == 0
    before = table.read_bytes()
    assert b"report" in before
    refused("curate", "--template", table)
    assert table.read_bytes() == before


def test_a_ct_is_embedded_as_a_unit_vector(samples: Path) -> None:
    answer = run("embed", samples / "LIDC-IDRI-0314.nii.gz", "--json")
    assert answer.returncode == 0, answer.stderr
    found = json.loads(answer.stdout)
    assert len(found["embedding"]) == found["width"]
    assert sum(value**2 for value in found["embedding"]) == pytest.approx(1, abs=1e-4)
    assert found["region"] == "chest"


def test_info_tells_a_head_from_a_chest(samples: Path) -> None:
    head = json.loads(run("info", samples / "dcm_qa_ct_GE_head.nii.gz", "--json").stdout)
    chest = json.loads(run("info", samples / "LIDC-IDRI-0314.nii.gz", "--json").stdout)
    assert (head["kind"], head["region"]) == ("volume", "not chest")
    assert chest["region"] == "chest"
    assert chest["shape"] == [133, 133, 92]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small demo, run once for the tests below."""
    out = tmp_path_factory.mktemp("a path with spaces y acentós") / "demo"
    answer = run("demo", "--out", out, "--cases", 24, "--workers", 1)
    assert answer.returncode == 0, answer.stderr
    assert "SYNTHETIC" in answer.stdout
    return out


def test_the_demo_ends_in_a_page_that_says_what_it_is(demo: Path) -> None:
    page = (demo / "demo.html").read_text(encoding="utf-8")
    assert "not for diagnosis" in page.lower()
    assert "synthetic" in page.lower()
    assert page.count("<img") >= 15


def test_the_demo_again_changes_nothing(demo: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in demo.rglob("*") if path.suffix in (".parquet", ".gz", ".nii")}
    assert run("demo", "--out", demo, "--cases", 24, "--workers", 1).returncode == 0
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_search_prints_the_promised_list(demo: Path, samples: Path) -> None:
    for words in (
        ("--text", "left pleural effusion"),
        ("--keyword", "GGO"),
        ("--report", "There is a large right pneumothorax. No pleural effusion."),
        ("--ct", samples / "LIDC-IDRI-0314.nii.gz"),
    ):
        answer = run("search", demo / "index", *words, "-k", 3, "--json")
        assert answer.returncode == 0, answer.stderr
        hits = json.loads(answer.stdout)
        assert [hit["rank"] for hit in hits] == [1, 2, 3]
        assert {"rank", "case_id", "score", "findings", "report", "source"} <= set(hits[0])


def test_a_ct_that_is_indexed_finds_itself(demo: Path, samples: Path) -> None:
    answer = run("search", demo / "index", "--ct", samples / "CMB-CRC-MSB-01068.nii.gz", "-k", 1, "--json")
    [hit] = json.loads(answer.stdout)
    assert not hit["is_synthetic"]
    assert "synthetic" in hit["caution"]


def test_a_head_is_not_ranked_among_chests(demo: Path) -> None:
    answer = run("search", demo / "index", "--text", "head", "-k", 100, "--json")
    assert {hit["region"] for hit in json.loads(answer.stdout)} == {"chest"}
    asked = run("search", demo / "index", "--text", "head", "--where", 'region = "not chest"', "--json")
    assert [hit["region"] for hit in json.loads(asked.stdout)] == ["not chest"]


def test_wrong_questions_are_told_in_one_line(demo: Path) -> None:
    index = demo / "index"
    assert "gives nothing" in refused("search", index)
    assert "give one of text" in refused("search", index, "--text", "nodule", "--keyword", "nodule")
    assert "unknown keyword" in refused("search", index, "--keyword", "flibbertigibbet")
    assert "colour" in refused("search", index, "--text", "nodule", "--where", "colour = red")
    refused("search", index, "--text", "   ")
    refused("search", index, "--text", "nodule", "-k", 0)
    refused("search", index, "--text", "nodule", "-k", 10**9)


def test_evaluate_prints_the_promised_object(demo: Path) -> None:
    answer = run("evaluate", demo / "dataset", "--split", "all", "--json")
    assert answer.returncode == 0, answer.stderr
    found = json.loads(answer.stdout)
    assert {"n", "chance", "text_to_image", "image_to_text", "keyword", "intervals"} <= set(found)
    assert set(found["text_to_image"]) == {"R@1", "R@5", "R@10", "MdR", "MnR"}
    assert 0 <= found["text_to_image"]["R@10"] <= 100
    assert {"P@20", "P@50", "P@100", "base_rate"} <= set(found["keyword"]["atelectasis"])


def test_a_folder_of_cts_is_indexed_as_it_comes(tmp_path: Path, samples: Path) -> None:
    folder = tmp_path / "cts"
    folder.mkdir()
    for name in ("CMB-CRC-MSB-01068.nii.gz", "dcm_qa_ct_GE_head.nii.gz"):
        (folder / name).write_bytes((samples / name).read_bytes())
    (folder / "broken.nii.gz").write_bytes((samples / "LIDC-IDRI-0314.nii.gz").read_bytes()[:100_000])
    answer = run("index", folder, tmp_path / "index", "--json")
    assert answer.returncode == 0, answer.stderr
    summary = json.loads(answer.stdout)
    assert summary["cases"] == 2
    assert [row["stage"] for row in summary["dropped"]] == ["read"]


def test_curate_ends_in_a_table_whose_counts_add_up(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "dataset"
    run("phantoms", raw, "--raw-bimcv", "--cases", "6", "--size", "64", "--seed", "5")
    told = json.loads(run("curate", raw, out, "--min-dimension", "40", "--json").stdout)
    flow = told["flow"]
    assert flow["found"] == flow["kept"] + flow["waiting"] + sum(step["studies"] for step in flow["steps"])
    again = run("curate", raw, out, "--min-dimension", "40").stderr
    assert "it was complete already" in again
    assert "0/?" not in again
    assert f"found {flow['found']}" in " ".join(again.split())


def test_names_are_told_whole_and_as_they_are(tmp_path: Path) -> None:
    folder = tmp_path / ("long " * 20 + "[draft]") / "odd["
    folder.mkdir(parents=True)
    table = folder / "b] :cat:.csv"  # the path holds "[/b]", which closes a tag that was never opened
    answer = run("curate", "--template", table)
    assert answer.returncode == 0, answer.stderr
    assert str(table) in answer.stderr


def test_what_an_index_holds_is_told_whole_and_as_it_is(tmp_path: Path) -> None:
    from medfinder.retrieval.index import SearchIndex

    name = "[/b]" + 30 * "name" + ":cat:"
    SearchIndex.create(tmp_path / "index", model_digest="0" * 64, width=4, model_name=name).close()
    answer = run("info", tmp_path / "index")
    assert answer.returncode == 0, answer.stderr
    assert name in "".join(answer.stdout.split())


def test_a_refusal_is_the_only_line_where_nobody_watches_a_bar(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    answer = run("curate", tmp_path / "empty", tmp_path / "out")
    assert answer.returncode == 2
    assert answer.stderr.count("\n") == 1


def test_whatever_the_system_refuses_is_one_line(tmp_path: Path) -> None:
    too_long = "x" * 300
    assert "File name too long" in refused("info", too_long)
    assert "File name too long" in refused("phantoms", tmp_path / too_long, "--cases", 1)


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_says_how_to_go_on(tmp_path: Path, workers: int) -> None:
    words = ("phantoms", str(tmp_path / "out"), "--cases", "1000", "--workers", str(workers))
    command = [sys.executable, "-m", "medfinder.cli", *words]
    pipe = subprocess.PIPE
    # A suite that runs in the background inherits an ignored SIGINT, and its children would never hear of it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        # A terminal sends Ctrl-C to every process of its foreground group: the child gets a group of its own.
        started = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
    finally:
        signal.signal(signal.SIGINT, before)
    with started as process:
        # Worst while workers start, before any of their code could look after itself; one child is Python's own.
        while process.poll() is None and not (tmp_path / "out").exists():
            time.sleep(0.05)
        while process.poll() is None and workers > 1 and len(psutil.Process(process.pid).children()) <= workers:
            time.sleep(0.02)
        time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        out, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert told == "medfinder: stopped; run the same command again to go on\n"


def test_a_disk_without_room_leaves_no_half_written_file(tmp_path: Path, samples: Path) -> None:
    script = (  # the system allows files of a hundred bytes
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)); from medfinder.cli import main;"
        "sys.argv[0] = 'medfinder'; main()"
    )
    for words in (
        ("curate", "--template", str(tmp_path / "reports.csv")),
        ("embed", str(samples / "LIDC-IDRI-0314.nii.gz"), "--out", str(tmp_path / "vector.npy")),
    ):
        answer = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=False)
        assert answer.returncode == 2, answer.stderr
        assert "File too large" in answer.stderr
        assert not list(tmp_path.iterdir())


def test_wrong_options_are_told_in_one_line(tmp_path: Path) -> None:
    assert "--cases" in refused("phantoms", tmp_path / "out", "--cases", 0)
    assert "--size" in refused("phantoms", tmp_path / "out", "--size", "large")
    assert "--colour" in refused("phantoms", tmp_path / "out", "--colour", "red")
    assert "medfinder index --help" in refused("index", tmp_path)
    assert "flibber" in refused("flibber")
    answer = run("phantoms", tmp_path / "out", "--cases", 0)
    assert answer.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_no_words_at_all_show_the_help() -> None:
    answer = run()
    assert answer.returncode == 0
    assert "Usage: medfinder [OPTIONS] COMMAND" in answer.stdout


def test_an_index_on_a_cluster_that_is_not_there_is_refused(tmp_path: Path) -> None:
    nowhere = ("--index-url", "http://127.0.0.1:9")
    assert "no answer; see that the cluster runs" in refused("info", tmp_path / "chest", *nowhere)
    assert "expected http://HOST:PORT" in refused("info", tmp_path / "chest", "--index-url", "qdrant")
    made = refused("index", tmp_path, tmp_path / "chest", "--search", "quickly")
    assert "search 'quickly'; expected one of exact, compressed, graph" in made
