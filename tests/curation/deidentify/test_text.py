"""What is found in report text and what is left alone; judged on PHI that the generator planted and knows."""

import subprocess
import sys

import numpy as np
import pytest

from medfinder.curation.deidentify import deidentify_text, find_phi
from medfinder.curation.deidentify.spans import KINDS
from medfinder.curation.keywords import extract_findings
from medfinder.records import Language
from medfinder.sources.phantoms.phi import PhiReport, write_phi_report
from medfinder.sources.phantoms.plan import draw_study
from medfinder.sources.phantoms.report import write_report

# The names of this pool were never looked at while the recognisers were made; docs/deidentification.md tells it all.
_SEED = 4711


def planted(pool: str, studies: int, *, seed: int = _SEED) -> list[tuple[PhiReport, Language]]:
    reports = []
    for number in range(studies):
        rng = np.random.default_rng([seed, number])
        plan = draw_study(number, seed=seed, size=64)
        report = write_report(
            findings=plan.findings,
            sex=plan.patient.sex,
            age_years=plan.patient.age_years,
            contrast=plan.contrast,
            rng=rng,
        )
        reports.append((write_phi_report(report.spanish, "es", pool, rng), "es"))  # type: ignore[arg-type]
        reports.append((write_phi_report(report.english, "en", pool, rng), "en"))  # type: ignore[arg-type]
    return reports  # type: ignore[return-value]


def covered(report: PhiReport, language: Language) -> np.ndarray:
    mask = np.zeros(len(report.text), bool)
    for span in find_phi(report.text, language):
        mask[span.start : span.end] = True
    return mask


@pytest.fixture(scope="module")
def held_out() -> list[tuple[PhiReport, np.ndarray]]:
    return [(report, covered(report, language)) for report, language in planted("held_out", 60)]


def test_what_names_a_person_is_found_whole(held_out: list[tuple[PhiReport, np.ndarray]]) -> None:
    found = []
    for report, mask in held_out:
        for phi in report.phi:
            letters = [at for at in range(phi.start, phi.end) if report.text[at].isalnum()]
            found.append(bool(mask[letters].all()))
    assert len(found) > 600
    assert np.mean(found) >= 0.99


def test_clinical_words_stay(held_out: list[tuple[PhiReport, np.ndarray]]) -> None:
    kept = []
    for report, mask in held_out:
        truth = np.zeros(len(mask), bool)
        for phi in report.phi:
            truth[phi.start : phi.end] = True
        kept += [not mask[at] for at in np.flatnonzero(~truth) if report.text[at].isalnum()]
    assert np.mean(kept) >= 0.995


def test_what_only_looks_like_a_name_stays(held_out: list[tuple[PhiReport, np.ndarray]]) -> None:
    kept = [not mask[trap.start : trap.end].any() for report, mask in held_out for trap in report.traps]
    assert np.mean(kept) >= 0.995


def test_a_report_without_anybody_stays_as_it_is() -> None:
    for number in range(20):
        rng = np.random.default_rng([_SEED, number])
        plan = draw_study(number, seed=_SEED, size=64)
        report = write_report(
            findings=plan.findings,
            sex=plan.patient.sex,
            age_years=plan.patient.age_years,
            contrast=plan.contrast,
            rng=rng,
        )
        assert deidentify_text(report.spanish, "es").text == report.spanish
        assert deidentify_text(report.english, "en").text == report.english


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("informado por dra. garcia perez .", "es", "informado por dra. [NAME] ."),
        ("Paciente: GARCÍA LÓPEZ, MARÍA NHC: 123456", "es", "Paciente: [NAME] NHC: [ID]"),
        ("tc de 12-3-19 , 12/03/2019 , marzo 2019 , 20190312", "es", "tc de [DATE] , [DATE] , [DATE] , [DATE]"),
        ("Compared with March 3rd, 2019.", "en", "Compared with [DATE]."),
        ("dni 12345678z y nie x1234567l", "es", "dni [ID] y nie [ID]"),
        ("tlf 965 12 34 56 , a.b@c.es , www.c.es", "es", "tlf [PHONE] , [EMAIL] , [URL]"),
        ("vive en calle mayor 12, 3º b, 03550 san juan .", "es", "vive en [ADDRESS] ."),
        ("Lives at 45 Oak Street, Springfield, IL 62704.", "en", "Lives at [ADDRESS]."),
        ("remitido del hospital san juan de alicante por tos .", "es", "remitido del [HOSPITAL] por tos ."),
        ("Seen at St. Mary's Hospital by Dr. Emily Whitfield.", "en", "Seen at [HOSPITAL] by Dr. [NAME]."),
        ("paciente de 93 años , hijo de 60 años", "es", "paciente de [AGE] años , hijo de 60 años"),
        ("valorado por ikrame ouhadi , neumologa .", "es", "valorado por [NAME] , neumologa ."),
        ("ikrame ouhadi bzdyk , medico residente .", "es", "[NAME] , medico residente ."),
        ("dra. el ouhadi / dr. bzdyk", "es", "dra. [NAME] / dr. [NAME]"),
        ("No change. Bzdyk Ouhadi, MD. Clear lungs.", "en", "No change. [NAME], MD. Clear lungs."),
        ("Her husband Bzdyk Ouhadi was present.", "en", "Her husband [NAME] was present."),
        ("visto en el clinica la pureza .", "es", "visto en el [HOSPITAL] ."),
        ("Seen in St. Thomas' Hospital.", "en", "Seen in [HOSPITAL]."),
    ],
)
def test_each_kind_gets_its_placeholder(text: str, language: Language, expected: str) -> None:
    assert deidentify_text(text, language).text == expected


@pytest.mark.parametrize(
    "text",
    [
        "imagen en cruz de san juan . mama izquierda . lengua de leon . ala de angel . aspecto de rosa . halo blanco .",
        "enfermedad de crohn . linfoma de hodgkin . lineas b de kerley . cateter de swan-ganz . port-a-cath .",
        "lobulo medio . d8 . 12 mm . 1.5 x 2 cm . segmento 6 . serie 3 imagen 45 . tc . epoc . covid-19 .",
        "segmentos 8-9-10 . arcos 6-7-8 . ratio 12/20 . contraste 100 ml . c/ contraste . hospital de dia .",
        "estudio solicitado por nombrepropio . name num fecha loc hc nhc .",
        "mejoria clinica la paciente . nodulos calcificados , medico avisado . ocupado por moco espeso .",
        "comentado con neumologia . se entrega el informe a la familia . valorado por el martes pasado .",
    ],
)
def test_clinical_traps_stay(text: str) -> None:
    assert deidentify_text(text, "es").text == text


def test_placeholders_change_no_finding_and_a_second_run_nothing() -> None:
    for report, language in planted("tuning", 8):
        clean = deidentify_text(report.text, language)
        again = deidentify_text(clean.text, language)
        assert again.text == clean.text
        assert not again.counts
    for kind in KINDS:
        for language in ("en", "es"):
            assert extract_findings(f"[{kind}]", language) == ()
    text = "derrame pleural izquierdo . dr. [NAME] . sin neumotorax , [DATE] , [HOSPITAL] ."
    statuses = [(finding.name, finding.status) for finding in extract_findings(text, "es")]
    assert statuses == [("pleural effusion", "present"), ("pneumothorax", "absent")]


def test_presidio_is_loaded_only_when_used_and_brings_no_torch() -> None:
    script = (
        "import sys, medfinder.curation.deidentify as d; print('presidio_analyzer' in sys.modules);"
        "d.deidentify_text('dra. garcia', 'es'); print('torch' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["False", "False"]


def test_without_presidio_the_missing_extra_is_named() -> None:
    script = (
        "import sys; sys.modules['presidio_analyzer'] = None\n"
        "from medfinder.curation.deidentify import deidentify_text\n"
        "from medfinder.errors import MissingExtraError\n"
        "try: deidentify_text('dra. garcia', 'es')\n"
        "except MissingExtraError as error: print(error)"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "medfinder[deid]" in answer.stdout
