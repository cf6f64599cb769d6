"""Phantom reports: the two languages agree with each other and with what is there."""

import re
import statistics

import numpy as np
import pytest

from medfinder.errors import ConfigError
from medfinder.records import Finding
from medfinder.sources.phantoms.phrases import Told, describe, wordings
from medfinder.sources.phantoms.report import Report, write_report
from medfinder.sources.phantoms.vocabulary import FINDINGS, LOBES


def draw_findings(rng: np.random.Generator) -> list[Finding]:
    """Draw findings with the attributes that the vocabulary allows."""
    findings = []
    for name, kind in FINDINGS.items():
        if rng.random() >= kind.base_rate:
            continue
        side = kind.sides[int(rng.integers(len(kind.sides)))] if kind.sides else None
        location = kind.locations[int(rng.integers(len(kind.locations)))] if kind.locations else None
        if kind.in_lobes:
            lobes = LOBES.get(side, ("peripheral", "diffuse"))
            location = lobes[int(rng.integers(len(lobes)))]
        if location in ("hilar", "axillary"):
            side = "left" if rng.random() < 0.5 else "right"
        size_mm = float(rng.uniform(*kind.size_mm)) if kind.size_mm else None
        count = int(rng.integers(1, kind.max_count + 1)) if kind.max_count > 1 else None
        grade = kind.grades[int(rng.integers(len(kind.grades)))] if kind.grades else None
        findings.append(Finding(name, "present", side, location, size_mm, count, grade))
    return findings


def draw_reports(count: int, seed: int) -> list[tuple[list[Finding], Report]]:
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(count):
        findings = draw_findings(rng)
        pairs.append((findings, write_report(findings=findings, sex="F", age_years=67, contrast=False, rng=rng)))
    return pairs


def one(seed: int, *findings: Finding, contrast: bool = False) -> Report:
    return write_report(findings=findings, sex="M", age_years=50, contrast=contrast, rng=np.random.default_rng(seed))


SIDES = {
    "left": r"\bleft\b|lingul|\bLUL\b|\bLLL\b|\bizquierd[oa]s?\b|\blsi\b|\blii\b",
    "right": r"\bright\b|middle lobe|\bRML\b|\bRUL\b|\bRLL\b|\bderech[oa]s?\b|lobulo medio|\blm\b|\blsd\b|\blid\b",
    "both": r"\bbilateral|\bboth\b|bibasal|throughout both|\bamb[oa]s\b|los dos pulmones",
}


def sides_in(text: str) -> set[str]:
    return {side for side, pattern in SIDES.items() if re.search(pattern, text, re.IGNORECASE)}


def sizes_in(text: str) -> list[str]:
    return sorted(re.findall(r"\d+(?:\.\d+)? (?:mm|cm)", text))


def test_every_finding_has_words_in_both_languages():
    for name in FINDINGS:
        entry = wordings()["finding"][name]
        for language in ("en", "es"):
            assert len(set(entry[language])) >= 5, (name, language)


def test_the_same_seed_writes_the_same_report():
    finding = Finding("mass", "present", "left", "upper lobe", 44.0)
    assert one(3, finding) == one(3, finding)
    assert one(3, finding) != one(4, finding)


def test_sizes_are_the_same_in_both_languages():
    for _, report in draw_reports(300, 1):
        assert sizes_in(report.english) == sizes_in(report.spanish)


def test_sizes_are_those_of_the_findings():
    for findings, report in draw_reports(200, 2):
        true = {finding.size_mm for finding in findings if finding.size_mm}
        for told in sizes_in(report.english):
            figure, unit = told.split()
            size_mm = float(figure) * (10 if unit == "cm" else 1)
            assert min(abs(size_mm - size) for size in true) <= 0.51, told


def test_sides_are_the_same_in_both_languages():
    for _, report in draw_reports(300, 3):
        assert sides_in(report.english) == sides_in(report.spanish), report


def test_vertebral_levels_are_the_same_in_both_languages():
    for seed in range(30):
        report = one(seed, Finding("vertebral collapse", "present", None, "T8"))
        assert ("T8" in report.english) == ("d8" in report.spanish)


def test_a_lone_side_is_never_turned_round():
    for seed in range(60):
        report = one(seed, Finding("pleural effusion", "present", "left", None, None, None, "small"))
        assert sides_in(report.english) <= {"left"}
        assert sides_in(report.spanish) <= {"left"}


@pytest.mark.parametrize("name", sorted(FINDINGS))
def test_a_present_finding_is_always_named_and_never_denied(name: str):
    entry = wordings()["finding"][name]
    kind = FINDINGS[name]
    finding = Finding(name, "present", kind.sides[0] if kind.sides else None)  # type: ignore[arg-type]  # plain str
    stems = {word for language in ("en", "es") for word in entry[language]}
    assert stems
    for seed in range(25):
        report = one(seed, finding)
        for denial in entry.get("no_en", ()):
            pattern = rf"(?i)\b(no|without|absence of|no signs of)\b[^.]*\b{re.escape(denial)}\b[^.]*\."
            for sentence in re.findall(pattern, report.english):
                pytest.fail(f"{name} denied with {sentence!r}")


def test_an_absent_finding_is_denied_and_an_uncertain_one_is_told_as_possible():
    for seed in range(20):
        report = one(seed, Finding("pneumothorax", "absent"), Finding("mass", "uncertain", "left", "upper lobe"))
        assert "pneumothorax" in report.english
        assert "neumotorax" in report.spanish
        assert re.search(r"(?i)possible|probable|suggest|suspected|likely", report.english)
        assert re.search(r"posible|probable|suge[rs]|sugier|sospecha", report.spanish)


def test_contrast_is_never_told_wrongly_and_mostly_told():
    without, given = r"(?:sin|simple sin) (?:contraste|civ|admin)", r"con (?:contraste|civ)|tras la admin"
    for contrast, right, wrong in ((True, given, without), (False, without, given)):
        reports = [one(seed, contrast=contrast).spanish for seed in range(120)]
        assert not any(re.search(wrong, text) for text in reports)
        assert sum(bool(re.search(right, text)) for text in reports) > 60


def test_spanish_is_lower_case_ascii_without_commas_and_closed():
    for _, report in draw_reports(150, 4):
        assert report.spanish.isascii()
        assert report.spanish == report.spanish.lower()
        assert report.spanish.endswith(" .")
        assert "," not in report.spanish


def test_no_slot_is_left_unfilled():
    for _, report in draw_reports(400, 5):
        assert not re.search(r"[{}_+<|]|  |\b(?:a|an) (?:a|an)\b", report.english + report.spanish), report
        assert " de a " not in report.spanish


def test_length_is_that_of_bimcv():
    lengths = [len(report.english.split()) for _, report in draw_reports(500, 6)]
    assert 88 <= statistics.median(lengths) <= 115
    assert min(lengths) >= 20
    assert max(lengths) <= 280


def test_words_vary_from_report_to_report():
    texts = {
        describe(Told("nodule", "right", "upper lobe", "12 mm"), "es", np.random.default_rng(n)).text
        for n in range(200)
    }
    assert len(texts) > 60


def test_passive_atelectasis_is_told_with_its_effusion():
    findings = (
        Finding("pleural effusion", "present", "left", None, None, None, "moderate"),
        Finding("atelectasis", "present", "left", "lower lobe", None, None, "passive"),
    )
    together = 0
    for seed in range(40):
        together += any(
            re.search("effusion|fluid|hydrothorax", sentence) and re.search("atelecta|collapse", sentence)
            for sentence in one(seed, *findings).english.split(". ")
        )
    assert together > 25


def test_an_unknown_finding_is_refused():
    with pytest.raises(ConfigError, match="no words for finding 'sunburn'"):
        one(0, Finding("sunburn"))
