"""The tables of a raw BIMCV tree, tab-separated: participants, sessions, tests, labels.

In: the planned sessions. Out: the tables as BIMCV spells them: lists as Python text with leading spaces and empty
entries, CUIs without quotes, dates as floats, a participant called ``derivatives``. Nothing is refused.
"""

import csv
import datetime
import io
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from medfinder.records import Finding
from medfinder.sources.phantoms.bimcv_plan import LabelRow, SessionPlan
from medfinder.sources.phantoms.phrases import wordings

# Finding -> BIMCV's label and its UMLS concept, "" where we know none for certain. Label names are those of the public
# PadChest vocabulary, whose makers labelled BIMCV too, where it has the finding; else plain words.
LABELS: dict[str, tuple[str, str]] = {
    "nodule": ("nodule", "C0034079"),
    "calcified granuloma": ("calcified granuloma", ""),
    "mass": ("pulmonary mass", "C0149726"),
    "ground-glass opacity": ("ground glass pattern", "C3544344"),
    "consolidation": ("consolidation", "C0521530"),
    "atelectasis": ("atelectasis", "C0004144"),
    "pleural effusion": ("pleural effusion", "C0032227"),
    "pneumothorax": ("pneumothorax", "C0032326"),
    "emphysema": ("emphysema", "C0034067"),
    "bronchiectasis": ("bronchiectasis", "C0006267"),
    "pulmonary fibrosis": ("pulmonary fibrosis", "C0034069"),
    "cavity": ("cavitation", "C1510420"),
    "tree-in-bud": ("tree in bud pattern", ""),
    "cardiomegaly": ("cardiomegaly", "C0018800"),
    "pericardial effusion": ("pericardial effusion", "C0031039"),
    "adenopathy": ("adenopathy", "C0497156"),
    "aortic aneurysm": ("aortic aneurysm", "C0003486"),
    "aortic calcification": ("aortic atheromatosis", ""),
    "coronary calcification": ("coronary calcification", ""),
    "pulmonary artery enlargement": ("pulmonary artery enlargement", ""),
    "hiatal hernia": ("hiatal hernia", "C3489393"),
    "rib fracture": ("rib fracture", "C0035522"),
    "vertebral collapse": ("vertebral compression", "C0262431"),
    "goitre": ("goiter", "C0018021"),
    "mastectomy": ("mastectomy", "C0024881"),
    "pacemaker": ("pacemaker", "C0030163"),
    "central venous catheter": ("central venous catheter", "C1145640"),
    "pleural thickening": ("pleural thickening", "C0264545"),
    "hepatic cyst": ("hepatic cyst", "C0267834"),
    "scoliosis": ("scoliosis", "C0036439"),
}
_ATELECTASIS = {"laminar": ("laminar atelectasis", ""), "lobar": ("lobar atelectasis", "")}
LABEL_COLUMNS = (
    "PatientID",
    "ReportID",
    "Report",
    "Labels",
    "Localizations",
    "LabelsLocalizationsBySentence",
    "labelCUIS",
    "LocalizationsCUIS",
)
_PLACE_CUIS = {"left": "C0443246", "right": "C0444532", "bilateral": "C0238767"}
_TESTS = ("PCR", "ACTP", "IGG", "IGM")
_RESULTS = ("POSITIVO", "POSITIVO", "POSITIVO", "NEGATIVO", "INDETERMINADO")


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a tab-separated table; it appears whole or not at all."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text.getvalue())


def write_text(path: Path, text: str) -> None:
    """Write a text file that appears whole or not at all."""
    beside = path.with_name(f".writing-{path.name}")
    beside.write_text(text, encoding="utf-8", newline="\n")
    beside.replace(path)


def write_tables(root: Path, sessions: Sequence[SessionPlan], seed: int) -> None:
    """Write every table of the tree but the sessions' own scans tables.

    Args:
        root: the folder that holds the subjects.
    """
    subjects: dict[str, list[SessionPlan]] = {}
    for plan in sessions:
        subjects.setdefault(plan.subject, []).append(plan)
    _write_participants(root, subjects)
    for subject, plans in subjects.items():
        table = root / subject / f"{subject}_sessions.tsv"
        write_table(table, ("session_id", "study_date", "medical_evaluation"), [_session_cells(p) for p in plans])
    _write_tests(root, subjects, seed)
    _write_labels(root, sessions, seed)


def _session_cells(plan: SessionPlan) -> tuple[str, str, str]:
    evaluation = [row.text for row in plan.rows[:1] if row.text]
    return plan.session, f"{plan.date:%Y%m%d}.0", str(evaluation)


def _write_participants(root: Path, subjects: dict[str, list[SessionPlan]]) -> None:
    rows: list[Sequence[object]] = []
    for subject, plans in subjects.items():
        stems = [stem for plan in plans for stem in (*(series.stem for series in plan.series), *plan.xrays)]
        modalities = sorted({stem.rsplit("_", 1)[1].upper() for stem in stems})
        ages = sorted({plan.study.patient.age_years for plan in plans})
        parts = [["chest"]] * len(modalities)
        rows.append((subject, str(modalities), str(parts), str(ages), plans[0].study.patient.sex))
    # The real table counts the folder beside the subjects as one of them.
    rows.append(("derivatives", "[]", "[]", "[]", "None"))
    write_table(root / "participants.tsv", ("participant", "modality_dicom", "body_parts", "age", "gender"), rows)


def _write_tests(root: Path, subjects: dict[str, list[SessionPlan]], seed: int) -> None:
    rng = np.random.default_rng([seed, 0x7E57])
    rows = []
    for subject, plans in subjects.items():
        for _ in range(1 + int(rng.integers(3))):
            day = plans[0].date + datetime.timedelta(days=int(rng.integers(-10, 20)))
            test, result = _TESTS[int(rng.integers(4))], _RESULTS[int(rng.integers(5))]
            rows.append((subject, f"{day:%d.%m.%Y}", test, result))
    path = root / "derivatives" / "EHR" / "sil_reg_covid_posi.tsv"
    write_table(path, ("participant", "date", "test", "result"), rows)


def _write_labels(root: Path, sessions: Sequence[SessionPlan], seed: int) -> None:
    rows = []
    for number, plan in enumerate(sessions):
        rng = np.random.default_rng([seed, 0x1ABE1, number])
        cells = [label_cells(row, rng) for row in plan.rows]
        # Rows that are there twice word for word have the same labels too.
        rows += [cells[0] if row == plan.rows[0] else cell for row, cell in zip(plan.rows, cells, strict=True)]
    write_table(root / "derivatives" / "labels" / "labels_covid_posi.tsv", LABEL_COLUMNS, rows)


def label_cells(row: LabelRow, rng: np.random.Generator) -> tuple[str, ...]:
    """Write one row of the label table: sentence by sentence what it names, where, and the concepts."""
    sentences = [part.strip() for part in row.text.split(" . ") if part.strip(" .")]
    told = [_label_sentence(sentence, row.findings) for sentence in sentences]
    labels = list(dict.fromkeys(entry for part in told for entry in part if not entry.startswith("loc ")))
    places = list(dict.fromkeys(entry for part in told for entry in part if entry.startswith("loc ")))
    concepts = dict([*LABELS.values(), *_ATELECTASIS.values()])
    label_cuis = [concepts[label] for label in labels if concepts.get(label)]
    place_cuis = [_PLACE_CUIS[word] for word in (place.removeprefix("loc ") for place in places) if word in _PLACE_CUIS]
    # Flat lists are the rule, nested ones occur.
    flat = [entry for part in told for entry in part]
    by_sentence = str(told) if rng.random() < 0.15 else _spell_list(flat, rng)
    return (
        row.patient,
        row.report_id,
        row.text,
        _spell_list(labels, rng),
        _spell_list(places, rng),
        by_sentence,
        f"[{','.join(label_cuis)}]",
        f"[{','.join(place_cuis)}]",
    )


def _spell_list(entries: Sequence[str], rng: np.random.Generator) -> str:
    """Spell a list as BIMCV's text has it: entries behind a space, empty ones."""
    spelt: list[str] = []
    for place, entry in enumerate(entries):
        spelt.append(f" {entry}" if place and rng.random() < 0.5 else entry)
        if rng.random() < 0.06:
            spelt.append("")
    return str(spelt)


def _label_sentence(sentence: str, findings: Sequence[Finding]) -> list[str]:
    """Label one sentence: findings it names and their places, else what kind of sentence it is."""
    entries: list[str] = []
    if not sentence.startswith(("no ", "sin ", "tampoco ", "ausencia ")):
        for finding in findings:
            if any(noun in sentence for noun in _nouns(finding.name)):
                entries += [_label(finding)[0], *_places(finding)]
    if entries:
        return list(dict.fromkeys(entries))
    if "sin cambios" in sentence or "estable" in sentence:
        return ["unchanged"]
    return ["normal"] if "sin alteraciones" in sentence or "normal" in sentence else ["exclude"]


def _label(finding: Finding) -> tuple[str, str]:
    if finding.name == "atelectasis" and finding.grade in _ATELECTASIS:
        return _ATELECTASIS[finding.grade]
    return LABELS[finding.name]


def _places(finding: Finding) -> list[str]:
    words = [finding.laterality, finding.location]
    return [f"loc {word}" for word in words if word]


def _nouns(name: str) -> list[str]:
    """List the Spanish nouns of a finding as reports spell them, without gender marks and accents."""
    nouns = []
    for entry in wordings()["finding"][name]["es"]:
        words = unicodedata.normalize("NFD", entry.split(" ", 1)[1])
        plain = "".join(sign for sign in words if not unicodedata.combining(sign))
        nouns += plain.split("|")
    return nouns
