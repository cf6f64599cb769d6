"""A whole evaluation on models whose answers are known beforehand."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medfinder.errors import CheckpointError, ConfigError, DatasetError
from medfinder.evaluation.evaluate import evaluate, evaluate_fully
from medfinder.evaluation.store import read_evaluation, write_evaluation
from medfinder.records import Finding
from medfinder.volume import Grid

from .conftest import WIDTH, FakeDataset, FakeModel, make_case, one_hot

BOTH = ("text_to_image", "image_to_text")


def test_the_object_has_the_agreed_shape_and_is_json(perfect: tuple[FakeDataset, FakeModel]) -> None:
    result = evaluate(*perfect, "test", bootstrap=20)
    assert json.loads(json.dumps(result, allow_nan=False))["n"] == 40
    names = {"R@1", "R@5", "R@10", "MdR", "MnR"}
    for direction in BOTH:
        assert set(result[direction]) == set(result["chance"][direction]) == names
        assert set(result["intervals"][direction]) == names
    assert {"P@20", "P@50", "P@100", "base_rate"} <= set(result["keyword"]["atelectasis"])
    assert set(result["intervals"]["keyword"]["atelectasis"]) == {"P@20", "P@50", "P@100"}
    assert result["synthetic"] is True
    assert set(result["finding"]) == {"atelectasis", "consolidation", "mean"}
    names = {f"{measure}@{k}" for measure in ("MAP", "nDCG") for k in (5, 10, 20)}
    assert set(result["similar"]) == set(result["chance"]["similar"]) == set(result["intervals"]["similar"]) == names


def test_a_perfect_model_ranks_first(perfect: tuple[FakeDataset, FakeModel]) -> None:
    result = evaluate(*perfect, "test", bootstrap=20)
    for direction in BOTH:
        assert result[direction] == {"R@1": 100.0, "R@5": 100.0, "R@10": 100.0, "MdR": 1.0, "MnR": 1.0}
        assert result["intervals"][direction]["R@1"] == (100.0, 100.0)
        assert result["chance"][direction]["R@10"] == pytest.approx(25.0)
        assert result["chance"][direction]["MdR"] == 20.5


def test_keywords_are_found_by_image_with_their_base_rates(perfect: tuple[FakeDataset, FakeModel]) -> None:
    result = evaluate(*perfect, "test", bootstrap=20)
    keyword = result["keyword"]
    assert keyword["atelectasis"] == {"P@20": 0.5, "P@50": 0.2, "P@100": 0.1, "base_rate": 0.25, "relevant": 10}
    assert keyword["consolidation"]["P@20"] == 1.0
    assert keyword["adenopathy"] == {"P@20": 0.0, "P@50": 0.0, "P@100": 0.0, "base_rate": 0.0, "relevant": 0}
    assert keyword["mean"]["P@20"] == 0.75
    assert result["findings_from"] == {"truth": 40}


def test_a_constant_model_ranks_last(perfect: tuple[FakeDataset, FakeModel]) -> None:
    dataset, _ = perfect
    vector = np.random.default_rng(0).normal(size=WIDTH)
    vector /= np.linalg.norm(vector)
    model = FakeModel(np.tile(vector, (40, 1)), lambda _: vector)
    result = evaluate(dataset, model, "test", bootstrap=20)
    for direction in BOTH:
        assert result[direction] == {"R@1": 0.0, "R@5": 0.0, "R@10": 0.0, "MdR": 40.0, "MnR": 40.0}
    assert result["keyword"]["atelectasis"]["P@20"] == 0.0
    # A tie is worth half in an AUROC; among CTs the wrong ones come first, and 10 share atelectasis, 30 consolidation.
    assert result["finding"]["atelectasis"]["AUROC"] == 0.5
    assert result["similar"]["MAP@5"] == 0.0
    assert result["similar"]["nDCG@5"] == 0.0


def test_findings_are_classified_by_name_and_against_their_denial(perfect: tuple[FakeDataset, FakeModel]) -> None:
    dataset, model = perfect
    result = evaluate(dataset, model, "test", bootstrap=20)
    assert result["finding"]["atelectasis"]["AUROC"] == 1.0
    assert result["finding"]["atelectasis"]["relevant"] == 10
    # A model that hears "no X" as "X" knows nothing by contrast; by name it does.
    heard = model.embed_text
    model.embed_text = lambda text: heard(text.removeprefix("no "))
    deaf = evaluate(dataset, model, "test", bootstrap=20)["finding"]["atelectasis"]
    assert (deaf["AUROC"], deaf["AUROC by name"]) == (0.5, 1.0)


def test_an_uncertain_finding_is_neither_positive_nor_negative() -> None:
    status = ["present"] * 3 + ["uncertain"] * 2 + ["absent"] * 2
    cases = tuple(replace(make_case(n), findings=(Finding("mass", status=said),)) for n, said in enumerate(status))  # type: ignore[arg-type]
    images = np.zeros((7, WIDTH))
    # The uncertain ones score highest: counted as negative they would halve the AUROC.
    images[:, 0] = [0.8, 0.8, 0.8, 1, 1, 0.6, 0.6]
    images[:, 1] = np.sqrt(1 - images[:, 0] ** 2)
    model = FakeModel(images, lambda text: one_hot(2 if text.startswith("no ") else 0))
    found = evaluate(FakeDataset(cases), model, "test", bootstrap=20)["finding"]["mass"]
    assert (found["AUROC"], found["relevant"], found["base_rate"]) == (1.0, 3, 0.6)


def test_a_ct_finds_cts_of_other_patients_only() -> None:
    # Two volumes of study a look alike; b shares its mass with a, c shares nothing and asks nothing.
    cases = (
        make_case(0, study="a", findings=["mass"]),
        make_case(1, study="a", findings=["mass"]),
        make_case(2, study="b", findings=["mass", "nodule"]),
        make_case(3, study="c", findings=["emphysema"]),
    )
    images = np.eye(4, WIDTH)
    images[1] = images[0]
    images[0:2, 3] = 0.1  # a is a little like c, so that c comes first
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    whole = evaluate_fully(FakeDataset(cases), FakeModel(images, lambda _: one_hot(0)), "test", bootstrap=20)
    assert whole.result["n_similar"] == 3
    assert whole.answers.similar_ids.tolist() == ["case0", "case1", "case2"]
    # a asks b and c: the right one is second. b asks a, a and c, all alike: first the wrong one, then two right ones.
    by_hand = [1 / 2, 1 / 2, (1 / 2 + 2 / 3) / 2]
    assert whole.answers.similar[:, 0] == pytest.approx(by_hand)
    assert whole.result["similar"]["MAP@5"] == pytest.approx(np.mean(by_hand))


def test_what_each_query_got_is_kept_and_gives_the_same_numbers(
    perfect: tuple[FakeDataset, FakeModel], tmp_path: Path
) -> None:
    whole = evaluate_fully(*perfect, "test", bootstrap=20)
    write_evaluation(tmp_path / "kept", whole)
    again = read_evaluation(tmp_path / "kept")
    assert again.answers.numbers() == whole.answers.numbers()
    assert again.result["keyword"] == whole.result["keyword"]
    content = (tmp_path / "kept" / "answers.npz").read_bytes()
    (tmp_path / "kept" / "answers.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(DatasetError, match="evaluate again"):
        read_evaluation(tmp_path / "kept")
    with pytest.raises(DatasetError, match=r"no result\.json"):
        read_evaluation(tmp_path / "nothing")


def test_a_random_model_reaches_chance() -> None:
    rng = np.random.default_rng(0)
    dataset = FakeDataset(tuple(make_case(n) for n in range(300)))
    images = rng.normal(size=(300, WIDTH))
    images /= np.linalg.norm(images, axis=1, keepdims=True)

    def embed(_: str) -> np.ndarray:
        vector = rng.normal(size=WIDTH)
        return vector / np.linalg.norm(vector)

    result = evaluate(dataset, FakeModel(images, embed), "test", bootstrap=200, keywords=["mass"])
    for direction in BOTH:
        low, high = result["intervals"][direction]["MnR"]
        assert low < result["chance"][direction]["MnR"] < high


def test_every_volume_of_the_study_and_every_equal_report_is_right() -> None:
    # Cases 0 and 1 are one study; 2 and 3 say the same; only case 0, 2 and 4 lie near their reports.
    cases = (
        make_case(0, study="a"),
        make_case(1, study="a"),
        make_case(2, study="b", report="normal chest"),
        make_case(3, study="c", report="normal chest"),
        make_case(4, study="d"),
    )
    places = {"report of a": 0, "normal chest": 2, "report of d": 4}
    model = FakeModel(np.eye(5, WIDTH), lambda text: one_hot(places.get(text, 9)))
    result = evaluate(FakeDataset(cases), model, "test", bootstrap=20)
    assert (result["n"], result["n_reports"], result["n_patients"]) == (5, 4, 4)
    assert result["text_to_image"]["MnR"] == 1.0
    # Volumes 1 and 3 tie with every report: the wrong ones come first, 3 of 4 reports and 2 of 4.
    assert result["image_to_text"]["MnR"] == pytest.approx((1 + 4 + 1 + 3 + 1) / 5)
    # Right answers of the reports a, b, c, d among 5 volumes: 2, 2, 2, 1.
    assert result["chance"]["text_to_image"]["R@1"] == pytest.approx(100 * (2 + 2 + 2 + 1) / 5 / 4)


def test_cases_without_a_report_or_without_known_findings_are_left_out() -> None:
    cases = [make_case(n, findings=["mass"]) for n in range(4)]
    cases += [make_case(4, report=" "), make_case(5, report="", findings_from="none")]
    model = FakeModel(np.eye(6, WIDTH), lambda _: one_hot(0))
    result = evaluate(FakeDataset(tuple(cases)), model, "test", bootstrap=20)
    assert (result["n"], result["n_keyword"]) == (4, 5)
    assert result["keyword"]["mass"]["base_rate"] == 0.8


def test_uncertain_and_absent_findings_are_not_relevant() -> None:
    findings = [Finding("mass"), Finding("mass", status="uncertain"), Finding("mass", status="absent")]
    cases = tuple(replace(make_case(n), findings=(found,)) for n, found in enumerate(findings))
    result = evaluate(FakeDataset(cases), FakeModel(np.eye(3, WIDTH), lambda _: one_hot(0)), "test", bootstrap=5)
    assert result["keyword"]["mass"]["relevant"] == 1


def test_keywords_may_be_asked_by_any_of_their_names(perfect: tuple[FakeDataset, FakeModel]) -> None:
    dataset, model = perfect
    result = evaluate(dataset, model, "test", bootstrap=5, keywords=["Atelectasias", "atelectasis"])
    assert set(result["keyword"]) == {"atelectasis", "mean"}
    with pytest.raises(ConfigError, match="unknown keyword 'sunburn'"):
        evaluate(dataset, model, "test", bootstrap=5, keywords=["sunburn"])
    with pytest.raises(ConfigError, match="no keyword given"):
        evaluate(dataset, model, "test", bootstrap=5, keywords=[])


def test_frequent_findings_are_asked_beside_those_of_the_paper() -> None:
    cases = tuple(make_case(n, findings=["mass"] * (n < 4) + ["nodule"] * (n < 3) + ["emphysema"]) for n in range(80))
    result = evaluate(FakeDataset(cases), FakeModel(np.eye(80, WIDTH), lambda _: one_hot(0)), "test", bootstrap=5)
    # 4 of 80 is 5%, 3 of 80 is not.
    assert list(result["keyword"]) == ["atelectasis", "consolidation", "adenopathy", "emphysema", "mass", "mean"]


def test_the_same_seed_gives_the_same_object(perfect: tuple[FakeDataset, FakeModel]) -> None:
    dataset, model = perfect
    model.images = np.roll(model.images, 1, axis=0) * np.float32(0.6) + model.images * np.float32(0.8)
    model.images /= np.linalg.norm(model.images, axis=1, keepdims=True)
    model.images[:9] = model.images[30]
    one, two, other = (evaluate(dataset, model, "test", seed=seed, bootstrap=50) for seed in (3, 3, 4))
    assert one == two
    assert one["intervals"] != other["intervals"]
    assert one["text_to_image"] == other["text_to_image"]


def test_splits_are_kept_apart(perfect: tuple[FakeDataset, FakeModel]) -> None:
    dataset, model = perfect
    dataset.cases = tuple(replace(case, split="val" if n < 15 else "test") for n, case in enumerate(dataset.cases))
    assert [evaluate(dataset, model, split, bootstrap=5)["n"] for split in ("val", "test", "all")] == [15, 25, 40]
    with pytest.raises(ConfigError, match=r"split train .* 0 cases"):
        evaluate(dataset, model, "train")


def test_progress_is_told(perfect: tuple[FakeDataset, FakeModel]) -> None:
    told: list[tuple[int, int]] = []
    evaluate(*perfect, "test", bootstrap=5, progress=lambda done, total: told.append((done, total)))
    assert told == [(16, 80), (32, 80), (40, 80), (56, 80), (72, 80), (80, 80)]


def test_one_case_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"1 cases of 1 patients; .* at least 2 patients"):
        evaluate(FakeDataset((make_case(0),)), FakeModel(np.eye(1, WIDTH), lambda _: one_hot(0)), "test")


def test_another_grid_is_refused(perfect: tuple[FakeDataset, FakeModel]) -> None:
    dataset, model = perfect
    dataset.grid = Grid()
    with pytest.raises(ConfigError, match="curate it on that grid"):
        evaluate(dataset, model, "test")


@pytest.mark.parametrize(("factor", "message"), [(np.nan, "16 of 16"), (2.0, "16 of 16 vectors are not of length 1")])
def test_vectors_that_are_not_unit_vectors_are_refused(
    perfect: tuple[FakeDataset, FakeModel], factor: float, message: str
) -> None:
    dataset, model = perfect
    model.images = model.images * np.float32(factor)
    with pytest.raises(CheckpointError, match=message):
        evaluate(dataset, model, "test")


def test_a_real_dataset_of_phantoms_can_be_evaluated(tmp_path: Path) -> None:
    from medfinder.curation.curate import CurationSettings, curate
    from medfinder.curation.dataset import Dataset
    from medfinder.sources.phantoms.write import write_phantoms

    write_phantoms(tmp_path / "phantoms", studies=6, seed=5, size=48)
    grid = Grid(spacing_mm=(22.0, 22.0, 22.0), shape=(16, 14, 16))
    curate(
        tmp_path / "phantoms",
        tmp_path / "dataset",
        CurationSettings(grid=grid),
    )
    dataset = Dataset.open(tmp_path / "dataset")
    model = FakeModel(np.empty(0), lambda text: one_hot(len(text) % WIDTH))
    model.grid = grid
    model.encode_volumes = lambda hu: np.stack([one_hot(int(-volume.mean()) % WIDTH) for volume in hu])  # type: ignore[method-assign]
    result = evaluate(dataset, model, "all", bootstrap=20)
    assert result["n"] == len(dataset.cases)
    assert result["synthetic"] is True
    assert 1 <= result["text_to_image"]["MdR"] <= result["n"]
