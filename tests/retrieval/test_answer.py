"""Answers: expressions, feedback, pages, groups, counts, sentences, and what is said when nothing matches."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medfinder.errors import ConfigError
from medfinder.records import Box, Case, Finding, Query
from medfinder.retrieval import search
from medfinder.retrieval.asked import parse_box
from medfinder.retrieval.fusion import load_calibration
from medfinder.retrieval.index import SearchIndex
from medfinder.retrieval.search import Searcher
from medfinder.volume import Grid, Volume, write_nifti

Add = Callable[..., None]
Make = Callable[..., Case]


@pytest.fixture
def searcher(index: SearchIndex, model: object) -> Searcher:
    return Searcher(index, model)  # type: ignore[arg-type]  # the stand-in has what a DualEncoder has


def _ids(searcher: Searcher, **asked: object) -> list[str]:
    return [hit.case_id for hit in searcher.search(Query(**asked))]  # type: ignore[arg-type]  # plain keywords


@pytest.fixture
def four(add: Add, make_case: Make) -> None:
    add(
        make_case("e", "Large left pleural effusion. No mass.", findings=["pleural effusion"], sex="M", age_years=30),
        make_case("em", "Pleural effusion. Mass with spiculated margin.", findings=["pleural effusion", "mass"]),
        make_case("m", "Mass with smooth border. No spiculated margin.", findings=["mass"]),
        make_case("silent", "Unremarkable heart."),
    )


# ---- expressions -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("four")
@pytest.mark.parametrize(
    ("keyword", "first", "last"),
    [
        ("effusion and mass", ["em"], {"m", "silent"}),  # e denies the mass; of the others not all is known
        ("effusion not mass", ["e"], {"silent"}),
        ("effusion or mass", {"e", "em", "m"}, {"silent"}),
        ("not effusion", {"m", "silent"}, set()),
    ],
)
def test_known_answers_come_first_and_denied_ones_never(
    keyword: str, first: list[str], last: set[str], searcher: Searcher
) -> None:
    ids = _ids(searcher, keyword=keyword, k=9)
    assert set(ids[: len(first)]) == set(first)
    assert set(ids[len(first) :]) == last


@pytest.mark.usefixtures("four")
def test_quoted_words_must_stand_in_the_report_and_not_only_be_denied(searcher: Searcher) -> None:
    assert _ids(searcher, text='"spiculated margin"', k=9) == ["em"]
    assert _ids(searcher, text='mass NOT "spiculated margin"', k=9)[0] == "m"
    assert searcher.answer(Query(text='"spiculated margin"')).total == 1


@pytest.mark.usefixtures("four")
def test_slips_in_free_text_are_mended_and_told(searcher: Searcher) -> None:
    assert {hit.case_id for hit in searcher.search(Query(text="plurel efusion", k=2))} == {"e", "em"}
    assert "'pnuemothorx' was read as pneumothorax" in searcher.answer(Query(text="pnuemothorx")).notes


# ---- cases and feedback ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("four")
def test_more_like_a_case_is_what_its_vectors_are_near(searcher: Searcher, model: object) -> None:
    hits = searcher.search(Query(case_id="em", k=3))
    assert "em" not in [hit.case_id for hit in hits]
    own = searcher.index.vectors(["em", hits[0].case_id])
    expected = float(own["em"]["image"] @ own[hits[0].case_id]["image"])
    assert dict(hits[0].parts)["image"] == pytest.approx(expected, abs=1e-5)
    assert next(hit for hit in hits if hit.case_id == "m").matched == ("mass",)


def test_feedback_is_rocchio_worked_by_hand(searcher: Searcher, add: Add, make_case: Make) -> None:
    add(*(make_case(name, f"{name} word") for name in ("alpha", "beta", "gamma", "delta")))
    hits = searcher.search(Query(text="alpha", liked=("beta",), disliked=("gamma",), k=4))
    vectors = searcher.index.vectors(["alpha", "beta", "gamma"])
    text = searcher._model.encode_texts(["alpha"])[0]
    query = text + 0.75 * vectors["beta"]["report"] - 0.15 * vectors["gamma"]["report"]
    expected = float(vectors["alpha"]["report"] @ query / np.linalg.norm(query))
    assert {hit.case_id for hit in hits} == {"alpha", "delta"}  # what was judged is not shown again
    assert dict(hits[0].parts)["report"] == pytest.approx(expected, abs=1e-5)


def test_a_liked_case_pulls_its_like_up(searcher: Searcher, add: Add, make_case: Make) -> None:
    add(
        make_case("liked", "omega psi"),
        make_case("near", "omega psi chi"),
        make_case("far", "alpha tau rho"),
    )
    assert _ids(searcher, liked=("liked",), k=2) == ["near", "far"]


@pytest.mark.usefixtures("four")
@pytest.mark.parametrize(
    ("query", "message"),
    [
        (Query(case_id="nobody"), "no case 'nobody'"),
        (Query(text="mass", liked=("x" * 500,)), "no case 'x{60}'"),
        (Query(disliked=("e",)), "only disliked"),
        (Query(liked=("e",), disliked=("e",)), "liked and disliked"),
        (Query(text="mass", liked=tuple("abc" * 100)), "at most 200"),
        (Query(case_id="e", ct=Path("x")), "ct and case_id"),
        (Query(text="mass", offset=-1), "offset = -1"),
        (Query(text="mass", offset=10**9), "offset = 1000000000"),
        (Query(text="mass", group="name"), "group = 'name'"),
        (Query(text="mass", box=Box((0, 0, 0), (1, 1, 1))), "box without its CT"),
        (Query(case_id="e", box=Box((0, 0, 0), (1, 0, 1))), "each lower"),
        (Query(case_id="e", box=Box((0, 0, 0), (1, float("nan"), 1))), "finite"),
        (Query(case_id="e", box=Box((0, 0, 0), (1, 1, 1))), "has gone"),
    ],
)
def test_what_makes_no_sense_is_refused(query: Query, message: str, searcher: Searcher) -> None:
    with pytest.raises(ConfigError, match=message):
        searcher.search(query)


# ---- pages, groups, counts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", [{"text": "mass alpha"}, {"keyword": "mass"}, {"liked": ("c00",)}])
def test_pages_put_together_are_the_long_answer(
    asked: dict[str, object], searcher: Searcher, add: Add, make_case: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Small depths, so that the second pages need candidates of a deeper look.
    monkeypatch.setattr(search, "_SHALLOW", 6)
    rng = np.random.default_rng(0)
    words = ["mass", "alpha", "beta", "gamma", "delta"]
    add(*(make_case(f"c{n:02}", " ".join(rng.choice(words, 3)), patient_id=f"p{n // 3}") for n in range(30)))
    for group in ("", "patient"):
        whole = _ids(searcher, **asked, k=30, group=group)
        pages = [_ids(searcher, **asked, k=4, offset=at, group=group) for at in range(0, 32, 4)]
        assert [case_id for page in pages for case_id in page] == whole
        assert len(whole) == len(set(whole)) >= (10 if group else 29)
    hits = searcher.search(Query(**asked, k=4, offset=8))  # type: ignore[arg-type]  # plain keywords
    assert [hit.rank for hit in hits] == [9, 10, 11, 12]


def test_scores_never_rise_over_pages(
    searcher: Searcher, add: Add, make_case: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "_SHALLOW", 3)
    add(*(make_case(f"c{n:02}", f"mass {'alpha ' * n}") for n in range(12)))
    scores = [hit.score for hit in searcher.search(Query(text="mass", k=12))]
    assert scores == sorted(scores, reverse=True)


def test_a_group_shows_its_best_case_only(searcher: Searcher, add: Add, make_case: Make) -> None:
    add(
        make_case("a1", "Mass.", patient_id="a", study_id="s1"),
        make_case("a2", "Mass, effusion.", patient_id="a", study_id="s2"),
        make_case("b1", "Unremarkable heart.", patient_id="b", study_id="s3"),
    )
    assert _ids(searcher, text="mass", group="patient") == ["a1", "b1"]
    assert len(_ids(searcher, text="mass", group="study")) == 3
    assert all("patient" not in repr(hit) for hit in searcher.search(Query(text="mass")))


@pytest.mark.usefixtures("four")
def test_counts_are_those_under_the_filter(searcher: Searcher) -> None:
    answer = searcher.answer(Query(text="effusion", where="sex = F"))
    assert answer.total == 3
    assert answer.facets["sex"] == {"F": 3}
    assert answer.facets["findings"] == {"mass": 2, "pleural effusion": 1}
    assert answer.facets["age_years"] == {"age >= 60 and age < 80": 3}
    assert searcher.answer(Query(text="effusion without mass")).total == 2
    assert searcher.answer(Query(text="effusion", liked=("e",))).total == 3


# ---- why -------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("four")
def test_a_hit_says_what_it_has_denies_and_does_not_tell(searcher: Searcher) -> None:
    hits = {hit.case_id: hit for hit in searcher.search(Query(text="mass and pleural effusion", k=4))}
    assert (hits["em"].matched, hits["em"].negated, hits["em"].missing) == (("mass", "pleural effusion"), (), ())
    assert (hits["e"].matched, hits["e"].negated, hits["e"].missing) == (("pleural effusion",), ("mass",), ())
    assert hits["silent"].missing == ("mass", "pleural effusion")


@pytest.mark.usefixtures("four")
def test_shares_add_up_to_the_score(searcher: Searcher) -> None:
    for hit in searcher.search(Query(text="spiculated margin", k=4)):
        assert sum(share for _, share in hit.shares) == pytest.approx(hit.score, abs=1e-5)


@pytest.mark.usefixtures("four")
def test_the_sentence_that_says_it_stands_first(searcher: Searcher) -> None:
    answer = searcher.answer(Query(text="left pleural effusion", k=4))
    sentences = {hit.case_id: hit.sentences for hit in answer.hits}
    assert sentences["e"] == (("Large left pleural effusion", 1.0),)
    assert sentences["em"][0][0] == "Pleural effusion"
    assert sentences["silent"] == ()


def test_sentences_of_a_spanish_report_are_read_as_spanish(searcher: Searcher, add: Add, make_case: Make) -> None:
    add(
        make_case(
            "es", report_es="Sin atelectasias. Derrame pleural izquierdo.", findings=[Finding("pleural effusion")]
        )
    )
    [hit] = searcher.answer(Query(text="pleural effusion")).hits
    assert [sentence for sentence, _ in hit.sentences] == ["Derrame pleural izquierdo"]


# ---- no good match ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("four")
@pytest.mark.parametrize(
    ("asked", "note"),
    [
        ({"text": "bicycle zebra"}, "no report holds bicycle, zebra"),
        ({"text": "pneumothorax"}, "no case is known to have pneumothorax"),
        ({"keyword": "scoliosis"}, "no case is known to have scoliosis"),
    ],
)
def test_an_answer_without_a_good_match_says_so(asked: dict[str, str], note: str, searcher: Searcher) -> None:
    answer = searcher.answer(Query(**asked))  # type: ignore[arg-type]  # plain keywords
    assert not answer.has_good_match
    assert note in " ".join(answer.notes)


@pytest.mark.usefixtures("four")
def test_an_answer_with_a_good_match_says_nothing(searcher: Searcher) -> None:
    answer = searcher.answer(Query(text="pleural effusion"))
    assert (answer.has_good_match, answer.notes) == (True, ())


@pytest.mark.usefixtures("four")
def test_thresholds_count_for_their_own_model_only(index: SearchIndex, model: object) -> None:
    strict = replace(load_calibration(), model_digest=model.digest, least_text=0.999)  # type: ignore[attr-defined]  # stand-in
    foreign = replace(strict, model_digest="f" * 64)
    query = Query(text="unremarkable border")
    answers = [Searcher(index, model, one).answer(query) for one in (strict, foreign)]  # type: ignore[arg-type]  # stand-in
    assert [answer.has_good_match for answer in answers] == [False, True]


# ---- regions ---------------------------------------------------------------------------------------------------------


class RegionModel:
    """Gives each of 4 x 4 x 4 cells the vector of its mean HU: soft tissue, or lung; maps masses by it."""

    def __init__(self, model: object) -> None:
        self._model = model
        self.grid = Grid(spacing_mm=(10.0, 10.0, 10.0), shape=(16, 16, 16))
        self.region_width = 2
        self.tokens = self.cells = (4, 4, 4)
        self.finding_names = ("mass",)

    def __getattr__(self, name: str) -> object:
        return getattr(self._model, name)

    def _dense(self, hu: np.ndarray) -> np.ndarray:
        return np.asarray(hu, float).reshape(4, 4, 4, 4, 4, 4).mean(axis=(1, 3, 5)) > -200

    def encode_regions(self, hu: list[np.ndarray]) -> np.ndarray:
        flat = [self._dense(one).ravel() for one in hu]
        return np.stack([np.stack([~one, one], axis=-1) for one in flat]).astype(np.float32)

    def encode_asked(self, texts: list[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        return [(np.array([[0.0, 1.0]], np.float32), np.ones(1, np.float32)) for _ in texts]

    def map_findings(self, hu: list[np.ndarray]) -> np.ndarray:
        return np.stack([self._dense(one) for one in hu])[..., None].astype(np.float32) * 8 - 4


@pytest.fixture
def regional(index: SearchIndex, model: object, make_case: Make, tmp_path: Path) -> Searcher:
    """An index with a lump in ``lump`` and ``other``, and none in ``plain``."""
    looking = RegionModel(model)
    affine = np.diag([10.0, 10.0, 10.0, 1.0])
    affine[:3, 3] = (-100, -50, 30)
    cases = []
    (tmp_path / "volumes").mkdir()
    for name, corner in (("lump", (8, 4, 12)), ("other", (0, 8, 0)), ("plain", None)):
        hu = np.full((16, 16, 16), -800, np.int16)
        if corner is not None:
            hu[tuple(slice(at, at + 4) for at in corner)] = 40
        write_nifti(Volume(hu, affine), tmp_path / "volumes" / f"{name}.nii")
        cases.append(make_case(name, "Mass." if corner else "Clear lungs.", findings=["mass"] if corner else []))
    vectors = model.encode_texts([case.report for case in cases])  # type: ignore[attr-defined]  # stand-in
    index.add(cases, vectors, vectors, tmp_path, model_digest=looking.digest)  # type: ignore[arg-type]  # stand-in
    return Searcher(index, looking)  # type: ignore[arg-type]  # stand-in


def test_evidence_is_the_box_where_the_finding_lies(regional: Searcher) -> None:
    query = Query(text="mass", k=1)
    [hit] = regional.explain(query, [hit for hit in regional.search(Query(text="mass")) if hit.case_id == "lump"])
    assert hit.evidence is not None
    assert hit.evidence.asked == "mass"
    # Voxels 8-11, 4-7, 12-15 of 10 mm, from half a voxel before the first centre on.
    assert hit.evidence.box == Box((-25.0, -15.0, 145.0), (15.0, 25.0, 185.0))
    assert hit.evidence.slices == (10, 6, 14)


def test_a_heat_map_covers_the_volume(regional: Searcher) -> None:
    query = Query(text="mass")
    hit = next(hit for hit in regional.search(query) if hit.case_id == "other")
    heat = regional.heat_map(query, hit)
    assert heat is not None
    assert np.argwhere(heat.values > 0).tolist() == [[0, 2, 0]]
    assert (heat.affine @ [0, 2, 0, 1])[:3].tolist() == [-85.0, 45.0, 45.0]


def test_a_box_finds_what_is_like_it(regional: Searcher) -> None:
    box = Box((-20.0, -10.0, 150.0), (10.0, 20.0, 180.0))
    hits = regional.search(Query(case_id="lump", box=box))
    assert [(hit.case_id, dict(hit.parts)["region"]) for hit in hits] == [("other", 1.0), ("plain", 0.0)]
    [told, _] = regional.explain(Query(case_id="lump", box=box), hits)
    assert told.evidence is not None
    assert told.evidence.asked == "region"
    assert told.evidence.slices == (2, 10, 2)


@pytest.mark.parametrize("words", ["", "1,2,3", "1,2,3 4,5", "a,b,c d,e,f", "1,2,3 4,5,6 7,8,9"])
def test_a_box_in_words_that_is_none_is_told(words: str) -> None:
    with pytest.raises(ConfigError, match="expected two corners"):
        parse_box(words)


def test_a_box_beside_the_ct_is_refused(regional: Searcher) -> None:
    with pytest.raises(ConfigError, match="outside of the CT"):
        regional.search(Query(case_id="lump", box=Box((900, 900, 900), (950, 950, 950))))


def test_a_volume_that_has_gone_has_no_evidence(regional: Searcher, tmp_path: Path) -> None:
    query = Query(text="mass")
    hits = regional.search(query)
    for path in (tmp_path / "volumes").iterdir():
        path.unlink()
    assert [hit.evidence for hit in regional.explain(query, hits)] == [None] * 3
    assert [hit.case_id for hit in regional.search(query)] == [hit.case_id for hit in hits]


def test_without_region_vectors_a_box_is_told_to_be_ignored(
    searcher: Searcher, make_case: Make, tmp_path: Path
) -> None:
    path = tmp_path / "volumes" / "a.nii"
    path.parent.mkdir()
    write_nifti(Volume(np.zeros((16, 16, 16), np.int16), np.diag([22.0, 20.0, 22.0, 1.0])), path)
    vectors = searcher._model.encode_texts(["Mass.", "Mass."])
    searcher.index.add([make_case("a"), make_case("b")], vectors, vectors, tmp_path, model_digest="d" * 64)
    answer = searcher.answer(Query(case_id="a", box=Box((0, 0, 0), (50, 50, 50))))
    assert [hit.case_id for hit in answer.hits] == ["b"]
    assert "no vectors of regions" in answer.notes[0]
    assert searcher.explain(Query(case_id="a"), answer.hits)[0].evidence is None


def test_who_asks_for_a_finding_asks_for_its_kinds(searcher: Searcher, add: Add, make_case: Make) -> None:
    add(make_case("wide", "Pulmonary fibrosis.", findings=["pulmonary fibrosis"]))
    add(make_case("kind", "Subpleural honeycombing.", findings=["honeycombing"]))
    add(make_case("none", "Hiatal hernia.", findings=["hiatal hernia"]))
    found = searcher.answer(Query(keyword="pulmonary fibrosis"))
    assert {hit.case_id for hit in found.hits[:2]} == {"wide", "kind"}
    by_kind = next(hit for hit in found.hits if hit.case_id == "kind")
    assert by_kind.matched == ("pulmonary fibrosis",)
    assert by_kind.sentences[0][0].startswith("Subpleural honeycombing")
    assert _ids(searcher, text="hiatal hernia without pulmonary fibrosis") == ["none"]
    assert searcher.answer(Query(keyword="honeycombing")).hits[0].case_id == "kind"
    assert dict(searcher.answer(Query(keyword="honeycombing")).hits[0].parts)["findings"] == 1.0
    narrow = next(hit for hit in searcher.search(Query(text="honeycombing")) if hit.case_id == "wide")
    assert narrow.missing == ("honeycombing",)


def test_findings_that_no_case_has_together_are_told(searcher: Searcher, add: Add, make_case: Make) -> None:
    add(make_case("a", "Pacemaker.", findings=["pacemaker"]))
    add(make_case("b", "Cardiomegaly.", findings=["cardiomegaly"]))
    found = searcher.answer(Query(text="pacemaker and cardiomegaly"))
    assert found.has_good_match
    assert found.notes == (
        "no case is known to have cardiomegaly and pacemaker together; cases with some of it are shown",
    )
    add(make_case("c", "Cardiomegaly, pacemaker.", findings=["cardiomegaly", "pacemaker"]))
    assert searcher.answer(Query(text="pacemaker and cardiomegaly")).notes == ()


def test_words_about_the_patient_become_a_filter_to_use(searcher: Searcher, add: Add, make_case: Make) -> None:
    add(make_case("old", "Pulmonary nodule.", findings=["nodule"], sex="M", age_years=71))
    add(make_case("young", "Pulmonary nodule.", findings=["nodule"], sex="F", age_years=35))
    found = searcher.answer(Query(text="man over 60 with a pulmonary nodule"))
    plain = searcher.answer(Query(text="pulmonary nodule"))
    assert [(hit.case_id, hit.score) for hit in found.hits] == [(hit.case_id, hit.score) for hit in plain.hits]
    (note,) = found.notes
    assert note.endswith("filter by: sex = M and age >= 60")
    kept = searcher.answer(Query(text="man over 60 with a pulmonary nodule", where="sex = M and age >= 60"))
    assert ([hit.case_id for hit in kept.hits], kept.notes) == (["old"], ())
