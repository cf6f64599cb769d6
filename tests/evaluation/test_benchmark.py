"""The benchmark's runner and tables, with training replaced by models whose quality is known beforehand."""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from typer.testing import CliRunner

from medfinder.app.benchmark import plan_tables, read_taken, run_tables, tables_of
from medfinder.app.benchmark_figure import draw_benchmark
from medfinder.cli import app
from medfinder.errors import CheckpointError, ConfigError
from medfinder.evaluation.benchmark import Bench, Outcome, plan_rows, run_rows
from medfinder.evaluation.benchmark_data import make_benchmark_data
from medfinder.evaluation.benchmark_report import benchmark_markdown, summarise
from medfinder.evaluation.rows import ROWS, SIZES, TABLES, Recipe, choose_rows, read_size, recipe_of

from .conftest import GRID, WIDTH, FakeDataset, FakeModel, make_case, one_hot

CASES = 60
# Length of the noise beside a unit vector that tells the case; along any one vector it is a twentieth of that.
NOISE = {"medfinder": 0.0, "paper_resnet50": 12.0, "released": 60.0, "mir3d": 12.0}


class NoisyModel(FakeModel):
    """Knows which volume belongs to which report, but for noise; its slices see the volume with other noise each."""

    def __init__(self, noise: float, seed: int) -> None:
        rng = np.random.default_rng(seed)
        clean = np.eye(CASES, WIDTH)
        self.slices = self._unit(clean[:, None] + noise * rng.normal(size=(CASES, 5, WIDTH)) / np.sqrt(WIDTH))
        images = self._unit(clean + noise * rng.normal(size=(CASES, WIDTH)) / np.sqrt(WIDTH))
        super().__init__(images, lambda text: one_hot(int(text.rsplit("study", 1)[-1]) if "study" in text else 200))
        self.name = f"noise {noise}"

    def encode_slices(self, hu: np.ndarray) -> np.ndarray:
        return np.asarray(self.slices[hu[0, 0, 0]], dtype=np.float32)

    @staticmethod
    def _unit(rows: np.ndarray) -> np.ndarray:
        return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True))


class Trainer:
    """Stands for training: writes down what it was asked; may be told to fail or to be killed."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []
        self.faults: dict[str, BaseException] = {}
        self.masks: dict[str, Path | None] = {}

    def __call__(
        self,
        dataset: Path,  # noqa: ARG002
        out: Path,
        preset: str,
        overrides: Mapping[str, Any],  # noqa: ARG002
        seed: int,
        progress: Any,
        *,
        masks: Path | None,
    ) -> Path:
        row = out.parents[1].name
        self.calls.append((row, seed))
        self.masks[row] = masks
        if row in self.faults:
            raise self.faults[row]
        out.mkdir(parents=True, exist_ok=True)
        (out / "config.json").write_text(json.dumps({"preset": preset, "seed": seed}))
        progress(1, 1)
        return out


def load(checkpoint: Path) -> NoisyModel:
    told = json.loads((checkpoint / "config.json").read_text())
    return NoisyModel(NOISE[told["preset"]], told["seed"])


@contextlib.contextmanager
def silent(_: str) -> Iterator[Any]:
    yield lambda *_: None


@pytest.fixture
def dataset() -> FakeDataset:
    names = ["atelectasis", "consolidation", "adenopathy"]
    cases = tuple(make_case(n, findings=[names[n % 3]]) for n in range(CASES))
    dataset = FakeDataset(cases)
    dataset.path = Path("nowhere")  # type: ignore[attr-defined]
    return dataset


@pytest.fixture
def trainer() -> Trainer:
    return Trainer()


@pytest.fixture
def bench(tmp_path: Path, trainer: Trainer) -> Bench:
    return Bench(
        out=tmp_path / "runs",
        size=read_size("synthetic"),
        size_name="synthetic",
        train=trainer,
        load=load,
        lacking=lambda _: None,
        bar=silent,
        say=lambda _: None,
        seeds=2,
        draws=400,
    )


def run(dataset: FakeDataset, table: str, rows: Sequence[str], bench: Bench) -> tuple[Outcome, dict[str, Any]]:
    outcome = run_rows(dataset, rows, bench)  # type: ignore[arg-type]
    return outcome, summarise(dataset, table, rows, outcome, bench)  # type: ignore[arg-type]


def row_of(text: str, start: str) -> list[str]:
    found = [line for line in text.splitlines() if line.startswith(f"| {start} ")]
    assert found, start
    return [cell.strip() for cell in found[0].strip("|").split("|")]


def test_each_row_is_trained_with_each_seed_and_never_twice(
    dataset: FakeDataset, bench: Bench, trainer: Trainer
) -> None:
    rows = ["medfinder", "released", "oracle", "chance"]
    _, first = run(dataset, "table2", rows, bench)
    assert trainer.calls == [("medfinder", 0), ("medfinder", 1), ("released", 0), ("released", 1)]
    _, again = run(dataset, "table2", rows, bench)
    assert len(trainer.calls) == 4
    assert json.dumps(first) == json.dumps(again)


def test_a_better_model_stands_above_with_a_small_p(dataset: FakeDataset, bench: Bench) -> None:
    _, summary = run(dataset, "table2", ["paper_resnet", "released", "medfinder", "chance"], bench)
    recall = {row["row"]: row["numbers"]["text_to_image"]["R@10"] for row in summary["rows"]}
    assert recall["medfinder"] == 100.0
    assert recall["medfinder"] > recall["paper_resnet"] > recall["released"]
    of_released = next(d for d in summary["differences"] if d["row"] == "released" and d["name"][1] == "R@10")
    assert of_released["difference"] < 0
    assert of_released["p"] <= of_released["p_holm"] < 0.05
    # Two rivals in four numbers; the reference itself is not among them.
    assert len(summary["differences"]) == 8


def test_the_mean_of_seeds_stands_between_the_lowest_and_the_highest(dataset: FakeDataset, bench: Bench) -> None:
    outcome, summary = run(dataset, "table2", ["paper_resnet"], bench)
    (row,) = summary["rows"]
    by_hand = [np.mean(answers.text_to_image_ranks <= 10) * 100 for answers in outcome.answers("paper_resnet")]
    assert row["numbers"]["text_to_image"]["R@10"] == pytest.approx(np.mean(by_hand))
    assert row["spread"]["text_to_image"]["R@10"] == pytest.approx((min(by_hand), max(by_hand)))
    assert by_hand[0] != by_hand[1]


def test_a_run_that_was_killed_goes_on_and_ends_alike(dataset: FakeDataset, bench: Bench, trainer: Trainer) -> None:
    rows = ["paper_resnet", "released", "medfinder"]
    trainer.faults["released"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        run(dataset, "table2", rows, bench)
    trainer.faults.clear()
    trainer.calls.clear()
    # Killed while a result was written: the answers are there, the result is not.
    (bench.out / "rows" / "paper_resnet" / "seed1" / "result.json").unlink()
    _, summary = run(dataset, "table2", rows, bench)
    # That row's training is asked again, which finds it finished; seed 0 is not touched.
    assert trainer.calls == [("paper_resnet", 1), ("released", 0), ("released", 1), ("medfinder", 0), ("medfinder", 1)]
    _, straight = run(dataset, "table2", rows, replace(bench, out=bench.out.with_name("straight")))
    assert json.dumps(straight) == json.dumps(summary)


def test_a_row_that_fails_is_told_and_the_others_go_on(dataset: FakeDataset, bench: Bench, trainer: Trainer) -> None:
    told: list[str] = []
    trainer.faults["mir3d"] = RuntimeError("out of memory")
    bench = replace(bench, say=told.append, seeds=1)
    outcome, summary = run(dataset, "table2", ["mir3d", "mir3d_max", "medfinder"], bench)
    assert outcome.failed == {"mir3d", "mir3d_max"}
    assert set(outcome.evaluations) == {"medfinder"}
    assert told == ["mir3d, seed 0 failed: RuntimeError: out of memory"]
    # The row that shares its checkpoint does not train it a second time.
    assert trainer.calls == [("mir3d", 0), ("medfinder", 0)]
    assert "out of memory" in (bench.out / "rows" / "mir3d" / "seed0" / "failed.txt").read_text()
    assert "3D-MIR, average: failed, 0 seeds done: RuntimeError: out of memory" in benchmark_markdown(summary)
    trainer.faults.clear()
    assert not run(dataset, "table2", ["mir3d", "mir3d_max"], bench)[0].failed
    assert not (bench.out / "rows" / "mir3d" / "seed0" / "failed.txt").exists()


def test_a_row_whose_text_encoder_is_not_at_hand_is_told_as_not_run(
    dataset: FakeDataset, bench: Bench, trainer: Trainer
) -> None:
    def lacking(recipe: Recipe) -> str | None:
        return "CLIP is not at hand" if recipe.settings["model"]["text_encoder"] == "clip" else None

    bench = replace(bench, lacking=lacking, seeds=1)
    outcome, summary = run(dataset, "table4", ["full_clip", "no_mse_minilm"], bench)
    assert not outcome.failed
    assert trainer.calls == [("no_mse_minilm", 0)]
    text = benchmark_markdown(summary)
    assert "sampler, L_mse, CLIP: not run, 0 seeds done: CLIP is not at hand" in text
    assert row_of(text, "paper: sampler, L_mse, CLIP")[3:8] == ["1.8", "6.3", "13.9", "107.9", "129.6"]


def test_voting_rows_share_a_checkpoint_and_score_it_otherwise(
    dataset: FakeDataset, bench: Bench, trainer: Trainer
) -> None:
    bench = replace(bench, seeds=1)
    rows = ["mir3d", "mir3d_frequency", "mir3d_max", "mir3d_sum"]
    _, summary = run(dataset, "table2", rows, bench)
    # Asked four times for one folder; the real training finds it finished.
    assert set(trainer.calls) == {("mir3d", 0)}
    found = [row["numbers"]["text_to_image"]["MnR"] for row in summary["rows"]]
    assert len(set(found)) > 1
    chance = summary["chance"] or {"text_to_image": {"MnR": (CASES + 1) / 2}}
    assert all(value < chance["text_to_image"]["MnR"] for value in found)


def test_slices_cannot_vote_where_a_model_embeds_none(dataset: FakeDataset, bench: Bench) -> None:
    plain = FakeModel(np.eye(CASES, WIDTH), lambda _: one_hot(0))
    outcome = run_rows(dataset, ["mir3d_sum"], replace(bench, load=lambda _: plain, seeds=1))  # type: ignore[arg-type]
    assert "embeds no slices" in outcome.unfinished["mir3d_sum"]


def test_results_of_another_recipe_or_dataset_are_refused(dataset: FakeDataset, bench: Bench) -> None:
    bench = replace(bench, seeds=1)
    run(dataset, "table2", ["medfinder"], bench)
    with pytest.raises(ConfigError, match="made with another settings"):
        plan_rows(dataset, ["medfinder"], replace(bench, epochs=3))  # type: ignore[arg-type]
    dataset.digest = "another"
    with pytest.raises(ConfigError, match="made with another dataset"):
        plan_rows(dataset, ["medfinder"], bench)  # type: ignore[arg-type]


def test_a_finished_checkpoint_can_be_taken(
    dataset: FakeDataset, bench: Bench, trainer: Trainer, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text(json.dumps({"preset": "medfinder", "seed": 7}))
    bench = replace(bench, taken=read_taken([f"paper_resnet={tmp_path / 'mine'}"]))
    _, summary = run(dataset, "table2", ["paper_resnet"], bench)
    assert not trainer.calls
    assert (summary["rows"][0]["seeds"], summary["rows"][0]["numbers"]["text_to_image"]["R@1"]) == (1, 100.0)
    (tmp_path / "mine" / "config.json").write_text(json.dumps({"preset": "paper_resnet50", "seed": 7}))
    with pytest.raises(ConfigError, match="another taken"):
        plan_rows(dataset, ["paper_resnet"], bench)  # type: ignore[arg-type]
    for word in ("paper_resnet", "paper_resnet=not/there", f"oracle={tmp_path}"):
        with pytest.raises(ConfigError, match="expected ROW=FOLDER"):
            read_taken([word])


def test_masks_go_to_the_rows_that_ask_for_them(dataset: FakeDataset, bench: Bench, trainer: Trainer) -> None:
    run_rows(dataset, ["medfinder", "released"], replace(bench, masks=Path("phantoms"), seeds=1))  # type: ignore[arg-type]
    assert trainer.masks == {"medfinder": Path("phantoms"), "released": None}


def test_a_dry_run_says_what_is_done_and_what_is_not(dataset: FakeDataset, bench: Bench, trainer: Trainer) -> None:
    bench = replace(bench, seeds=1)
    run_rows(dataset, ["medfinder"], bench)  # type: ignore[arg-type]
    bench = replace(
        bench, lacking=lambda recipe: "no CLIP" if recipe.settings["model"]["text_encoder"] == "clip" else None
    )
    steps = plan_tables(dataset, ["table2", "table4"], "medfinder,released,full_clip,chance", bench)  # type: ignore[arg-type]
    assert [(s["row"], s["state"], s["reason"]) for s in steps] == [
        ("released", "to do", ""),
        ("medfinder", "done", ""),
        ("full_clip", "not run", "no CLIP"),
    ]
    assert len(trainer.calls) == 1


def test_the_table_has_ours_chance_and_the_papers_own(dataset: FakeDataset, bench: Bench) -> None:
    _, summary = run(dataset, "table2", ["paper_resnet", "medfinder", "oracle", "chance"], bench)
    text = benchmark_markdown(summary)
    assert "SYNTHETIC phantoms" in text
    assert row_of(text, "medfinder (ours)")[1:4] == ["60", "2", "100.0 [100.0, 100.0] 100.0..100.0"]
    assert row_of(text, "medfinder (ours)")[-1] == "reference"
    assert row_of(text, "paper: MedFinder, ResNet-50")[3:8] == ["2.8", "8.7", "20.3", "68.9", "81.3"]
    # One right answer among 60: R@10 10/60, median and mean rank 30.5.
    assert row_of(text, "chance")[5:8] == ["16.7", "30.5", "30.5"]
    # Nothing in these reports can be read: the oracle is no better than its ties.
    assert row_of(text, "oracle (true findings)")[3].startswith("0.0")


def test_keywords_stand_with_base_rate_and_chance(dataset: FakeDataset, bench: Bench) -> None:
    _, summary = run(dataset, "table3", ["paper_resnet", "oracle", "chance"], replace(bench, seeds=1))
    text = benchmark_markdown(summary)
    mean = text.split("mean of findings")[1]
    cells = row_of(mean, "oracle (true findings)")
    assert cells[3] == "0.33"
    assert [cell.split()[0] for cell in cells[4:7]] == ["1.00", "0.40", "0.20"]
    # A third is relevant; 60 CTs fill 60 of 100 places.
    assert row_of(mean, "chance")[3:7] == ["0.33", "0.33", "0.33", "0.20"]
    assert row_of(text, "paper: MedFinder, ResNet-50")[4:] == ["0.75", "0.72", "0.69"]


@pytest.mark.parametrize("table", TABLES)
def test_every_table_has_a_picture_that_names_its_rows(dataset: FakeDataset, bench: Bench, table: str) -> None:
    rows = choose_rows(table, "released,medfinder,no_mse_minilm,oracle,chance")
    _, summary = run(dataset, table, rows, replace(bench, seeds=1))
    picture = draw_benchmark(summary)
    root = ElementTree.fromstring(picture)
    words = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {ROWS[row].title for row in rows if row != "chance"} <= words
    assert any(word and word.startswith("SYNTHETIC") for word in words)


def test_tables_are_written_beside_their_rows(dataset: FakeDataset, bench: Bench) -> None:
    told: list[str] = []
    rows = "medfinder,full_minilm,chance"
    summaries, failed = run_tables(dataset, tables_of("all"), rows, replace(bench, seeds=1), tell=told.append)  # type: ignore[arg-type]
    assert [summary["table"] for summary in summaries] == ["table2", "table3", "table4", "ours"]
    assert not failed
    for table, text in zip(TABLES, told, strict=True):
        assert (bench.out / f"{table}.md").read_text(encoding="utf-8") == text
        assert json.loads((bench.out / f"{table}.json").read_text())["n"] == CASES
    # At this size the whole ablation row is the paper's own model, trained once.
    assert (bench.out / "rows" / "paper_resnet" / "seed0" / "checkpoint").is_dir()


@pytest.mark.parametrize("name", SIZES)
def test_every_row_has_a_recipe_at_every_size(name: str) -> None:
    size = read_size(name)
    for row, plan in ROWS.items():
        if plan.kind == "model":
            assert recipe_of(size, row)[1].preset
    assert recipe_of(size, "medfinder", epochs=2)[1].settings["epochs"] == 2


@pytest.mark.parametrize("name", SIZES)
def test_training_understands_every_recipe(name: str) -> None:
    from medfinder.models.train import build_train_settings

    size = read_size(name)
    for row in size.rows:
        _, recipe = recipe_of(size, row, epochs=1)
        assert build_train_settings(recipe.preset, {**recipe.settings, "seed": 3}).seed == 3


def test_every_row_of_a_table_is_known_and_every_reference_is_in_its_table() -> None:
    for plan in TABLES.values():
        assert set(plan.rows) <= set(ROWS)
        assert plan.reference in plan.rows
    assert {row for plan in TABLES.values() for row in plan.rows} == set(ROWS)


def test_a_size_with_unknown_rows_or_keys_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    for text, message in (
        ("[rows.nonsense]\npreset = 'x'\n", "'nonsense'"),
        ("[rows.medfinder]\npresent = 'x'\n", "present"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            read_size(str(path))
    with pytest.raises(ConfigError, match="unknown size 'huge'; known: synthetic, paper"):
        read_size("huge")


def test_unknown_rows_and_tables_are_refused() -> None:
    with pytest.raises(ConfigError, match="unknown rows nonsense; known: clip4clip_meanp"):
        choose_rows("table2", "medfinder,nonsense")
    with pytest.raises(ConfigError, match="unknown table 'table9'; known: table2"):
        tables_of("table9")


def test_a_model_on_another_grid_fails_its_row_alone(dataset: FakeDataset, bench: Bench) -> None:
    outcome = run_rows(dataset, ["released", "chance"], replace(bench, load=_on_another_grid, seeds=1))  # type: ignore[arg-type]
    assert "curate it on that grid" in outcome.unfinished["released"]


def _on_another_grid(checkpoint: Path) -> NoisyModel:
    model = load(checkpoint)
    model.grid = replace(GRID, shape=(16, 16, 16))
    return model


def test_a_checkpoint_that_cannot_be_read_is_told_in_its_own_words(dataset: FakeDataset, bench: Bench) -> None:
    def broken(checkpoint: Path) -> NoisyModel:
        raise CheckpointError("the weights are cut short")

    outcome = run_rows(dataset, ["released"], replace(bench, load=broken, seeds=1))  # type: ignore[arg-type]
    assert outcome.unfinished == {"released": "the weights are cut short"}


def test_the_command_makes_data_and_runs_what_needs_no_training(tmp_path: Path) -> None:
    size = replace(read_size("synthetic"), data={"grid": {"spacing_mm": [22.0] * 3, "shape": [16, 14, 16]}})
    studies = make_benchmark_data(tmp_path, size, workers=1, bar=silent, studies=12)
    assert sum(studies.values()) == 12
    words = ("table2", "--data", tmp_path / "dataset", "--out", tmp_path / "runs", "--rows", "oracle,chance")
    answer = CliRunner().invoke(app, ["benchmark", *map(str, words)])
    assert answer.exit_code == 0, answer.output
    assert "oracle (true findings)" in answer.output
    assert (tmp_path / "runs" / "table2.svg").is_file()
