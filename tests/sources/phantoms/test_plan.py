"""Plans of phantoms: the same for everyone, with findings as common and as joined as in life."""

from collections import Counter
from itertools import pairwise

import pytest

from medfinder.records import Finding
from medfinder.sources.phantoms.plan import LASTING, StudyPlan, draw_studies, draw_study
from medfinder.sources.phantoms.vocabulary import FINDINGS, LEVELS, LOBES


@pytest.fixture(scope="module")
def plans() -> list[StudyPlan]:
    return list(draw_studies(studies=4000, seed=42))


def names(plan: StudyPlan) -> set[str]:
    return {finding.name for finding in plan.findings}


def share(plans: list[StudyPlan], name: str) -> float:
    return sum(name in names(plan) for plan in plans) / len(plans)


def test_a_study_is_the_same_however_many_are_drawn() -> None:
    assert list(draw_studies(studies=10, seed=3))[7] == list(draw_studies(studies=100, seed=3))[7]
    assert draw_study(7, seed=3) == list(draw_studies(studies=10, seed=3))[7]


def test_another_seed_gives_other_studies() -> None:
    assert (
        draw_study(7, seed=3).findings != draw_study(7, seed=4).findings
        or draw_study(7, seed=3).seed != draw_study(7, seed=4).seed
    )


def test_ids_are_unique_and_say_phantom(plans: list[StudyPlan]) -> None:
    assert len({plan.study_id for plan in plans}) == len(plans)
    assert all(plan.study_id.startswith("phantom-42-") for plan in plans)


def test_some_patients_have_several_studies_and_some_studies_several_volumes(plans: list[StudyPlan]) -> None:
    per_patient = Counter(plan.patient.patient_id for plan in plans)
    visits = Counter(per_patient.values())
    assert visits == {1: 2000, 2: 400, 3: 400}
    assert 0.07 < sum(len(plan.volumes) == 2 for plan in plans) / len(plans) < 0.13
    both = [{volume.kernel for volume in plan.volumes} for plan in plans if len(plan.volumes) == 2]
    assert all(kernels == {"soft", "lung"} for kernels in both)


def test_studies_of_one_patient_share_the_body_but_not_the_findings(plans: list[StudyPlan]) -> None:
    by_patient: dict[str, list[StudyPlan]] = {}
    for plan in plans:
        by_patient.setdefault(plan.patient.patient_id, []).append(plan)
    pairs = [pair for several in by_patient.values() for pair in pairwise(several)]
    assert all(first.patient == second.patient for first, second in pairs)
    assert sum(first.findings != second.findings for first, second in pairs) / len(pairs) > 0.9
    assert all(several[0].date_offset_days == 0 for several in by_patient.values())
    assert all(first.date_offset_days < second.date_offset_days for first, second in pairs)


def test_what_lasts_is_there_again_as_it_was(plans: list[StudyPlan]) -> None:
    last: dict[str, StudyPlan] = {}
    stayed, hidden = 0, []
    for plan in plans:
        before = last.get(plan.patient.patient_id)
        last[plan.patient.patient_id] = plan
        now = {finding.name: finding for finding in plan.findings}
        for finding in before.findings if before else ():
            if finding.name not in LASTING:
                continue
            if finding.name not in now:
                hidden.append(finding.name)
                continue
            stayed += 1
            # A thickened pleura is told at its apex when fluid covers its base.
            assert now[finding.name] == finding or finding.name == "pleural thickening"
    assert len(hidden) < 0.02 * stayed
    assert set(hidden) <= {"calcified granuloma", "bronchiectasis"}


def test_nothing_lies_in_a_lobe_that_something_else_fills(plans: list[StudyPlan]) -> None:
    for plan in plans:
        have = {finding.name: (finding.laterality, finding.location) for finding in plan.findings}
        grades = {finding.name: finding.grade for finding in plan.findings}
        for filling in ("mass", "consolidation", "atelectasis"):
            if filling in have and grades[filling] not in ("laminar", "passive"):
                others = [name for name, place in have.items() if place == have[filling] and name != filling]
                assert others in ([], ["atelectasis"]), (plan.study_id, filling)


def test_every_finding_is_about_as_common_as_the_vocabulary_says(plans: list[StudyPlan]) -> None:
    for name, kind in FINDINGS.items():
        expected = kind.base_rate * (0.45 if kind.sex else 1)
        # Age, company and normal studies move the rate; none may be lost or swamp the rest.
        assert 0.5 * expected < share(plans, name) < 2.2 * expected, name


def test_studies_have_some_findings_and_some_have_none(plans: list[StudyPlan]) -> None:
    counts = [len(plan.findings) for plan in plans]
    assert 3 < sum(counts) / len(counts) < 6
    assert 0.04 < counts.count(0) / len(counts) < 0.15


def test_findings_that_go_together_in_life_go_together_here(plans: list[StudyPlan]) -> None:
    for cause, effect in (("cardiomegaly", "pleural effusion"), ("mass", "adenopathy")):
        having = [plan for plan in plans if cause in names(plan)]
        assert share(having, effect) > 1.4 * share(plans, effect)
    old = [plan for plan in plans if plan.patient.age_years > 75]
    young = [plan for plan in plans if plan.patient.age_years < 50]
    assert share(old, "aortic calcification") > 1.5 * share(young, "aortic calcification")


def test_passive_atelectasis_lies_beside_an_effusion(plans: list[StudyPlan]) -> None:
    seen = 0
    for plan in plans:
        passive = [f for f in plan.findings if f.name == "atelectasis" and f.grade == "passive"]
        for atelectasis in passive:
            [effusion] = [f for f in plan.findings if f.name == "pleural effusion"]
            assert effusion.laterality in (atelectasis.laterality, "bilateral")
            assert atelectasis.location == "lower lobe"
            seen += 1
    assert seen > 100


def test_air_and_fluid_never_share_a_pleura(plans: list[StudyPlan]) -> None:
    for plan in plans:
        sides = {f.name: f.laterality for f in plan.findings}
        if "pneumothorax" in sides and "pleural effusion" in sides:
            assert sides["pleural effusion"] not in (sides["pneumothorax"], "bilateral")


def test_only_women_have_a_mastectomy(plans: list[StudyPlan]) -> None:
    assert all(plan.patient.sex == "F" for plan in plans if "mastectomy" in names(plan))


def test_attributes_are_those_of_the_vocabulary(plans: list[StudyPlan]) -> None:
    for finding in (finding for plan in plans for finding in plan.findings):
        assert_fits(finding)


def assert_fits(finding: Finding) -> None:
    kind = FINDINGS[finding.name]
    assert finding.status == "present"
    if kind.size_mm:
        assert finding.size_mm is not None
        assert kind.size_mm[0] <= finding.size_mm <= kind.size_mm[1]
    if kind.grades:
        assert finding.grade in kind.grades
    if kind.in_lobes and finding.laterality in LOBES:
        assert finding.location in LOBES[finding.laterality]
    if finding.name == "vertebral collapse":
        assert finding.location in LEVELS
    if finding.name == "adenopathy":
        assert (finding.laterality is None) == (finding.location == "mediastinal")
    if finding.count is not None:
        assert 1 <= finding.count <= kind.max_count
