"""Searching: each kind of query, its refusals, cautions, and the order of hits."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medfinder.errors import ConfigError, MedFinderError, SearchIndexError
from medfinder.records import Case, Finding, Hit, Query
from medfinder.retrieval.index import SearchIndex
from medfinder.retrieval.search import MAX_CHARACTERS, Searcher
from medfinder.volume import Volume, standardise_file, write_nifti

Add = Callable[..., None]
Make = Callable[..., Case]


@pytest.fixture
def searcher(index: SearchIndex, model: object) -> Searcher:
    return Searcher(index, model)  # type: ignore[arg-type]  # the stand-in has what a DualEncoder has


def _ids(hits: list[Hit]) -> list[str]:
    return [hit.case_id for hit in hits]


REPORTS = {
    "effusion": ("Large left pleural effusion. No pneumothorax.", [Finding("pleural effusion", laterality="left")]),
    "clear": ("No pleural effusion. Emphysema.", [Finding("emphysema")]),
    "both": ("Pleural effusion and cardiomegaly.", [Finding("pleural effusion"), Finding("cardiomegaly")]),
    "mass": ("Spiculated mass in the right upper lobe.", [Finding("mass", laterality="right")]),
}


@pytest.fixture
def reported(add: Add, make_case: Make) -> None:
    add(*(make_case(name, report, findings=findings) for name, (report, findings) in REPORTS.items()))


# ---- text ------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("reported")
def test_words_find_the_cases_that_affirm_them(searcher: Searcher) -> None:
    assert set(_ids(searcher.search(Query(text="pleural effusion", k=2)))) == {"effusion", "both"}
    assert _ids(searcher.search(Query(text="right upper lobe mass", k=1))) == ["mass"]


@pytest.mark.usefixtures("reported")
def test_a_denied_finding_excludes_the_cases_that_have_it(searcher: Searcher) -> None:
    hits = searcher.search(Query(text="pleural effusion without cardiomegaly", k=4))
    assert hits[0].case_id == "effusion"
    assert "both" not in _ids(hits)


@pytest.mark.usefixtures("reported")
def test_a_report_finds_itself(searcher: Searcher) -> None:
    for name, (report, _) in REPORTS.items():
        assert _ids(searcher.search(Query(report=report, k=1))) == [name]


@pytest.mark.usefixtures("reported")
def test_a_hit_carries_its_case_and_what_its_score_is_made_of(searcher: Searcher) -> None:
    hit = searcher.search(Query(text=REPORTS["mass"][0], k=1))[0]
    assert (hit.rank, hit.case_id, hit.study_id, hit.findings) == (1, "mass", "study-mass", ("mass",))
    assert (hit.report, hit.source, hit.split, hit.sex, hit.age_years) == (
        REPORTS["mass"][0],
        "phantoms",
        "test",
        "F",
        60,
    )
    assert hit.score == 1.0  # first in every part
    parts = dict(hit.parts)
    assert parts["image"] == pytest.approx(1.0, abs=1e-5)
    assert parts["report"] == pytest.approx(1.0, abs=1e-5)
    assert parts["affirmed"] > 0


@pytest.mark.usefixtures("reported")
def test_scores_fall_and_ranks_count_up(searcher: Searcher) -> None:
    hits = searcher.search(Query(text="effusion", k=10))
    assert [hit.rank for hit in hits] == [1, 2, 3, 4]
    scores = [hit.score for hit in hits]
    assert scores == sorted(scores, reverse=True)


def test_fusion_is_worked_by_hand(searcher: Searcher, add: Add, make_case: Make) -> None:
    # b's report is the query, a's image shows it, c has neither; by weights image 0.5, report 1, affirmed 1.
    shows = {"a": "alpha", "b": "beta gamma", "c": "delta"}
    add(make_case("a", "beta"), make_case("b", "alpha"), make_case("c", "delta"), shows=shows)
    scores, parts = {}, {}
    for hit in searcher.search(Query(text="alpha", k=3)):
        scores[hit.case_id], parts[hit.case_id] = hit.score, dict(hit.parts)
    assert parts["a"]["image"] == parts["b"]["report"] == pytest.approx(1.0, abs=1e-5)
    assert "affirmed" not in parts["a"]

    def scaled(name: str, space: str) -> float:
        # Worst 0, middle 0.2, best 1; with three cases each is one of them.
        return (0.0, 0.2, 1.0)[sorted(parts[one][space] for one in "abc").index(parts[name][space])]

    assert scores["a"] == pytest.approx((0.5 * 1 + 1 * scaled("a", "report") + 1 * 0) / 2.5, abs=1e-5)
    assert scores["b"] == pytest.approx((0.5 * scaled("b", "image") + 1 * 1 + 1 * 1) / 2.5, abs=1e-5)
    assert scores["c"] == pytest.approx((0.5 * scaled("c", "image") + 1 * scaled("c", "report")) / 2.5, abs=1e-5)


def test_ties_are_ordered_by_case_id(searcher: Searcher, add: Add, make_case: Make) -> None:
    for name in ("c", "a", "d", "b"):
        add(make_case(name, "Mass."))
    assert _ids(searcher.search(Query(text="mass", k=3))) == ["a", "b", "c"]


def test_spanish_words_find_english_reports_through_the_finding(searcher: Searcher, add: Add, make_case: Make) -> None:
    add(
        make_case("e", "Pleural fluid collection.", findings=["pleural effusion"]),
        make_case("m", "Mass.", findings=["mass"]),
    )
    hits = searcher.search(Query(text="derrame pleural", k=2))
    assert dict(hits[0].parts)["affirmed"] > 0
    assert hits[0].case_id == "e"


@pytest.mark.parametrize(
    "query",
    [
        Query(text="normal chest CT"),
        Query(text="TC de tórax sin hallazgos."),
        Query(text="no significant abnormality"),
        Query(keyword="normal"),
        Query(text="normal AND NOT mass"),
    ],
    ids=lambda query: query.text or "keyword",
)
@pytest.mark.usefixtures("reported")
def test_normal_asks_for_cases_in_which_nothing_was_found(
    query: Query, searcher: Searcher, add: Add, make_case: Make
) -> None:
    add(make_case("sound", "No pleural effusion. No pneumothorax. Normal heart."), make_case("silent", ""))
    # What nothing is known of may be normal, too; what shows something is not.
    assert _ids(searcher.search(query)) == ["sound", "silent"]


@pytest.mark.usefixtures("reported")
def test_a_normal_organ_is_only_words(searcher: Searcher) -> None:
    assert len(searcher.search(Query(text="normal heart"))) == len(REPORTS)
    assert "mass" not in _ids(searcher.search(Query(keyword="NOT mass")))


def test_a_report_that_denies_what_is_asked_comes_last(searcher: Searcher, add: Add, make_case: Make) -> None:
    # To the report vectors alone the denying report is the nearest: it repeats the query word by word.
    add(
        make_case("denies", "No pleural effusion."),
        make_case("affirms", "Fluid at both bases, basal atelectasis, thickened septa.", findings=["pleural effusion"]),
        make_case("silent"),
    )
    nearest = searcher.index.nearest("report", searcher._model.encode_texts(["pleural effusion"])[0], limit=2)
    assert nearest[0][0] == "denies"
    hits = searcher.search(Query(text="pleural effusion"))
    assert hits[0].case_id == "affirms"
    denying = next(hit for hit in hits if hit.case_id == "denies")
    assert (denying.score, dict(denying.parts)["agreement"]) == (0.0, 0.0)


# ---- keyword ---------------------------------------------------------------------------------------------------------


def test_a_keyword_ranks_known_cases_first_and_leaves_denying_ones_out(
    searcher: Searcher, add: Add, make_case: Make
) -> None:
    add(
        make_case("known", "Unspecific.", findings=["pleural effusion"]),
        make_case("denied", "No pleural effusion."),
        make_case("unknown"),
        shows={"unknown": "pleural effusion", "known": "something else", "denied": "pleural effusion"},
    )
    hits = searcher.search(Query(keyword="derrame pleural", k=5))
    assert _ids(hits) == ["known", "unknown"]
    assert hits[0].score > hits[1].score
    assert dict(hits[0].parts)["findings"] == 1.0


@pytest.mark.parametrize(
    ("keyword", "message"),
    [
        ("plural thing", "near: pleural thickening"),
        ("xqzzw", "known: "),
    ],
)
def test_an_unknown_keyword_is_told_with_its_neighbours(keyword: str, message: str, searcher: Searcher) -> None:
    with pytest.raises(ConfigError, match=f"unknown keyword.*{message}"):
        searcher.search(Query(keyword=keyword))


# ---- CT --------------------------------------------------------------------------------------------------------------


def _write_ct(path: Path, first: int) -> Path:
    rng = np.random.default_rng(first)
    hu = rng.integers(-1000, 200, (24, 24, 24)).astype(np.int16)
    write_nifti(Volume(hu, np.diag([13.0, 13.0, 13.0, 1.0])), path)
    return path


def _add_ct(searcher: Searcher, case: Case, path: Path) -> None:
    model = searcher._model
    image = model.encode_volumes([standardise_file(path, model.grid).hu])
    report = model.encode_texts([case.report])
    searcher.index.add([case], image, report, path.parent, model_digest=model.digest)


def test_a_ct_finds_itself_with_or_without_a_report(searcher: Searcher, make_case: Make, tmp_path: Path) -> None:
    paths = {name: _write_ct(tmp_path / f"{name}.nii.gz", seed) for seed, name in enumerate("abcd")}
    for name, path in paths.items():
        _add_ct(searcher, make_case(name, "" if name in "ab" else f"Report {name}."), path)
    for name, path in paths.items():
        hits = searcher.search(Query(ct=path, k=4))
        assert hits[0].case_id == name
        assert dict(hits[0].parts)["image"] == pytest.approx(1.0, abs=1e-5)
        assert len(hits) == 4


def test_cts_are_ordered_by_likeness_down_to_the_last(searcher: Searcher, make_case: Make, tmp_path: Path) -> None:
    paths = [_write_ct(tmp_path / f"{seed}.nii.gz", seed) for seed in range(7)]
    for path in paths:
        _add_ct(searcher, make_case(path.name), path)
    hits = searcher.search(Query(ct=paths[3], k=7))
    cosines = [dict(hit.parts)["image"] for hit in hits]
    assert len(set(cosines)) == 7
    assert cosines == sorted(cosines, reverse=True)


def test_a_ct_that_is_no_chest_is_told_on_every_hit(searcher: Searcher, make_case: Make, tmp_path: Path) -> None:
    path = _write_ct(tmp_path / "noise.nii.gz", 1)
    _add_ct(searcher, make_case("a"), path)
    hits = searcher.search(Query(ct=path))
    assert "does not look like a chest" in hits[0].caution


def test_the_shipped_cts_are_compared(searcher: Searcher, make_case: Make, samples: Path) -> None:
    paths = sorted(samples.glob("*.nii.gz"))[:3]
    for path in paths:
        _add_ct(searcher, make_case(path.name, source="nifti", is_synthetic=False), path)
    for path in paths:
        hits = searcher.search(Query(ct=path, k=3))
        assert hits[0].case_id == path.name
        assert "synthetic CTs only" in hits[0].caution


def test_a_missing_or_broken_ct_is_told(searcher: Searcher, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no CT at"):
        searcher.search(Query(ct=tmp_path / "none.nii.gz"))
    (tmp_path / "bad.nii.gz").write_bytes(b"not a volume")
    with pytest.raises(MedFinderError):
        searcher.search(Query(ct=tmp_path / "bad.nii.gz"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(MedFinderError):
        searcher.search(Query(ct=tmp_path / "empty"))


# ---- regions and cautions --------------------------------------------------------------------------------------------


def test_heads_are_not_ranked_among_chests_unless_asked_for(searcher: Searcher, add: Add, make_case: Make) -> None:
    add(make_case("chest", "Mass."), make_case("head", "Mass.", region="not chest"))
    assert _ids(searcher.search(Query(text="mass"))) == ["chest"]
    assert _ids(searcher.search(Query(text="mass", where="sex = F"))) == ["chest"]
    hits = searcher.search(Query(text="mass", where="region = 'not chest'"))
    assert _ids(hits) == ["head"]
    assert "not a chest" in hits[0].caution


def test_real_cts_of_a_synthetic_model_carry_a_caution(
    index: SearchIndex, add: Add, make_case: Make, model: object
) -> None:
    add(make_case("phantom", "Mass."), make_case("real", "Mass.", is_synthetic=False))
    cautions = {hit.case_id: hit.caution for hit in Searcher(index, model).search(Query(text="mass"))}  # type: ignore[arg-type]  # stand-in
    assert cautions["phantom"] == ""
    assert "synthetic CTs only" in cautions["real"]
    model.is_synthetic = False  # type: ignore[attr-defined]  # stand-in
    cautions = {hit.case_id: hit.caution for hit in Searcher(index, model).search(Query(text="mass"))}  # type: ignore[arg-type]  # stand-in
    assert cautions["real"] == ""


@pytest.mark.usefixtures("reported")
def test_filters_hold_for_every_kind_of_query(searcher: Searcher, tmp_path: Path) -> None:
    where = "findings = mass"
    ct = _write_ct(tmp_path / "ct.nii.gz", 3)
    for query in (
        Query(text="effusion", where=where),
        Query(report="effusion", where=where),
        Query(keyword="pleural effusion", where=where),
        Query(ct=ct, where=where),
    ):
        assert _ids(searcher.search(query)) == ["mass"]


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (Query(), "gives nothing; give text"),
        (Query(text="a", keyword="b"), "text and keyword; give one of"),
        (Query(text=""), "text holds no words"),
        (Query(report=" \n "), "report holds no words"),
        (Query(keyword="🫁"), "keyword holds no words"),
        (Query(text="a " * MAX_CHARACTERS), "at most"),
        (Query(text="a", k=0), "k = 0; ask for 1 to 1000"),
        (Query(text="a", k=-1), "k = -1"),
        (Query(text="a", k=10**9), "k = 1000000000"),
        (Query(text="a", where="colour = red"), "unknown field"),
        (Query(text="a", where=""), "expected a field"),
    ],
)
def test_a_query_that_cannot_be_honoured_is_refused(query: Query, message: str, searcher: Searcher) -> None:
    with pytest.raises(ConfigError, match=message):
        searcher.search(query)


@pytest.mark.parametrize("text", ["'; DROP TABLE cases; --", "<script>alert(1)</script>", "ñandú 🫁", "no", "a" * 5000])
@pytest.mark.usefixtures("reported")
def test_odd_words_are_only_words(text: str, searcher: Searcher) -> None:
    assert len(searcher.search(Query(text=text, k=2))) == 2


def test_an_empty_index_has_no_hits(searcher: Searcher) -> None:
    assert searcher.search(Query(text="mass")) == []
    assert searcher.search(Query(keyword="mass")) == []


def test_another_model_is_refused(index: SearchIndex, model: object) -> None:
    model.digest = "e" * 64  # type: ignore[attr-defined]  # stand-in
    with pytest.raises(SearchIndexError, match=r"d{64}.*e{64}"):
        Searcher(index, model)  # type: ignore[arg-type]  # stand-in
