"""The frozen records that cross from room to room: Study -> Case | Dropped, Query -> Answer.

In: nothing but plain values. Out: immutable records, equal when their fields are. They hold no arrays and no open
files, so each of them can be pickled, printed as JSON and stored as one table row. ``plural`` counts them in words.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Status = Literal["present", "absent", "uncertain"]
Laterality = Literal["left", "right", "bilateral"]
Sex = Literal["F", "M"]
Language = Literal["en", "es"]
Split = Literal["train", "val", "test"]

VIEW_MM = 1.5
"""Voxels of what people look at, where CTs are taken in to be searched. Ours: 256 of them span a chest, which every
browser draws; a case takes 20 to 40 MB of disk. A scanner's own voxels are 0.7 mm: give that where there is room."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a report says, or that is truly there, about an examination.

    Attributes:
        name: canonical keyword in English, lower case, e.g. ``"pleural effusion"``.
        location: lobe, level or vessel in English, e.g. ``"upper lobe"``, ``"T8"``; None when it has none.
        size_mm: greatest diameter.
        grade: degree or kind, e.g. ``"small"``, ``"laminar"``, ``"centrilobular"``.
    """

    name: str
    status: Status = "present"
    laterality: Laterality | None = None
    location: str | None = None
    size_mm: float | None = None
    count: int | None = None
    grade: str | None = None


@dataclass(frozen=True, slots=True)
class SeriesTags:
    """What headers or side files say of a series before a voxel is read; empty or None where they do not say.

    Named after the DICOM keywords that they hold. Free text among them may name a patient: it is judged, never stored.

    Attributes:
        slices: images of the series, or voxels along its slowest axis.
        has_contrast: ContrastBolusAgent is given.
        image_orientation_patient: six direction cosines of the first image.
        slice_positions_mm: lowest and highest ImagePositionPatient along the body axis that the slices cross, RAS+.
    """

    modality: str = ""
    image_type: tuple[str, ...] = ()
    series_description: str = ""
    series_number: int | None = None
    convolution_kernel: str = ""
    slice_thickness_mm: float | None = None
    body_part_examined: str = ""
    patient_position: str = ""
    slices: int | None = None
    has_contrast: bool | None = None
    image_orientation_patient: tuple[float, ...] = ()
    slice_positions_mm: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Series:
    """One CT series of a study: where its voxels lie, before they are read.

    Attributes:
        series_id: unique within its study.
        path: a volume file, or the folder that holds the DICOM files.
        series_instance_uid: picks one series where a folder holds several.
        rescale: RescaleSlope and RescaleIntercept that a side file tells, for files that hold stored values and do not
            say how to get HU; None when the file is to be taken at its word.
    """

    series_id: str
    path: Path
    series_instance_uid: str | None = None
    tags: SeriesTags = SeriesTags()
    rescale: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """What the images and what the report say of one and the same thing; the pairing audit compares them.

    Attributes:
        what: ``"patient"``, ``"session"``, ``"accession number"``, ``"date"``, ``"body part"``, ``"modality"``,
            ``"sex"`` or ``"age"``.
        image: what the images' path or tags say: a hash for whatever may identify a patient; empty when nothing.
        report: what the report's row says, in the same form.
    """

    what: str
    image: str
    report: str


@dataclass(frozen=True, slots=True)
class Doubt:
    """Why a person should look at a case before it is trusted: one item of the review queue.

    Attributes:
        stage: ``"quality"``, ``"pairing"``, ``"deidentification"``, ``"translation"`` or ``"diagnosis"``.
        reason: short stable code, e.g. ``"laterality differs"``.
        detail: one sentence with the figures behind it; no report text, no patient data.
        holds: the case is kept out of the dataset until a person has decided.
    """

    stage: str
    reason: str
    detail: str
    holds: bool


@dataclass(frozen=True, slots=True)
class Study:
    """One raw examination as a source gives it: series and report, nothing judged yet.

    Attributes:
        study_id: hashed or synthetic; safe to print.
        patient_id: hashed or synthetic; the unit that is never split.
        source: what it came from, e.g. ``"phantoms"``, ``"dicom"``; a key of ``SOURCES``.
        report: the text as written, in ``report_language``; None when there is none.
        report_en: an English version, where the source brings one.
        findings: what is known to be there (truth of a phantom, expert labels); empty when unknown.
        date_offset_days: days since the patient's first study.
        claims: what images and report say of the same things.
        is_synthetic: no real patient stands behind it.
    """

    study_id: str
    patient_id: str
    source: str
    series: tuple[Series, ...]
    report: str | None = None
    report_language: Language | None = None
    report_en: str | None = None
    findings: tuple[Finding, ...] = ()
    age_years: int | None = None
    sex: Sex | None = None
    date_offset_days: int | None = None
    claims: tuple[Claim, ...] = ()
    is_synthetic: bool = False


@dataclass(frozen=True, slots=True)
class Case:
    """A curated study with its report: one row of ``cases.parquet``, one point of an index.

    Attributes:
        case_id: stable hash of source, study and series.
        volume: path of the standardised volume, relative to the dataset folder.
        report: the text that is searched, in English; empty when the case has no report.
        report_es: the Spanish original; empty when there is none.
        findings: from the source's truth or labels, else extracted from the report.
        findings_from: ``"truth"``, ``"label"``, ``"report"`` or ``"none"``.
        spacing_mm: of the raw volume, RAS+ axis order.
        shape: voxels of the raw volume, RAS+ axis order.
        region: ``"chest"`` or what was found instead, e.g. ``"not chest"``.
    """

    case_id: str
    study_id: str
    patient_id: str
    source: str
    split: Split
    volume: str
    report: str
    report_es: str
    findings: tuple[Finding, ...]
    findings_from: str
    age_years: int | None
    sex: Sex | None
    date_offset_days: int | None
    spacing_mm: tuple[float, float, float]
    shape: tuple[int, int, int]
    region: str
    is_synthetic: bool


@dataclass(frozen=True, slots=True)
class Dropped:
    """A study or series that curation refused, with its reason: one row of ``dropped.parquet``.

    Attributes:
        stage: the stage that refused it, e.g. ``"read"``, ``"quality"``, ``"report"``.
        reason: short stable code, e.g. ``"too small"``.
        detail: one sentence with the figures behind it; no patient data.
    """

    study_id: str
    series_id: str
    source: str
    stage: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Box:
    """A box in the space of a scan, RAS+: from its lowest to its highest corner, in mm."""

    lo_mm: tuple[float, float, float]
    hi_mm: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Query:
    """What is looked for: words, a CT, cases, or several of these together.

    Attributes:
        text: a few words, or an expression with AND, OR, NOT, brackets and quotes; one of text, report and keyword.
        report: a whole report.
        keyword: a finding by any of its names, or an expression of findings.
        ct: a volume file, or a DICOM folder of one series; one of ct and case_id.
        case_id: a case of the index: "more like this".
        liked: cases of the index that are what is wanted.
        disliked: cases of the index that are not.
        box: the part of ``ct`` or of ``case_id`` that hits should have the like of.
        where: a filter expression, e.g. ``"sex = F and age >= 60 and findings = mass"``.
        k: how many hits.
        offset: how many hits to pass over, for the next page.
        group: ``"study"`` or ``"patient"`` for the best hit of each only; empty for all.
    """

    text: str | None = None
    report: str | None = None
    keyword: str | None = None
    ct: Path | None = None
    where: str | None = None
    k: int = 5
    case_id: str | None = None
    liked: tuple[str, ...] = ()
    disliked: tuple[str, ...] = ()
    box: Box | None = None
    offset: int = 0
    group: str = ""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Where in a volume the model sees what was asked for.

    Attributes:
        asked: the finding, or ``"text"`` or ``"region"`` where no finding was asked for.
        box: around it.
        slices: its middle, as numbers of slices of the standardised volume: sagittal (x), coronal (y), axial (z).
        score: how sure the model is; comparable within one answer and one ``asked`` only.
    """

    asked: str
    box: Box
    slices: tuple[int, int, int]
    score: float


@dataclass(frozen=True, slots=True)
class Hit:
    """One ranked answer.

    Attributes:
        rank: from 1; the first hit of a second page does not have rank 1.
        score: higher is better; comparable within one answer only.
        findings: canonical names of what is present.
        volume: path of the standardised volume, absolute, or None when it has gone.
        caution: a sentence the reader must see, e.g. that the case is not a chest; empty when there is none.
        parts: what the score was made of, by name, e.g. the cosine of the image vectors; parts that say nothing of this
            case are left out.
        shares: what each part gave to the score, before ``agreement`` and ``findings`` moved it.
        matched: findings asked for that the case is known to have.
        negated: findings asked for that its report denies.
        missing: findings asked for of which nothing is known.
        sentences: those of the report that match best, with scores from 0 to 1.
        evidence: where in the volume, when it was asked for and the model can tell.
    """

    rank: int
    case_id: str
    study_id: str
    score: float
    findings: tuple[str, ...]
    report: str
    source: str
    split: str
    age_years: int | None
    sex: str | None
    region: str
    is_synthetic: bool
    volume: Path | None
    caution: str = ""
    parts: tuple[tuple[str, float], ...] = ()
    shares: tuple[tuple[str, float], ...] = ()
    matched: tuple[str, ...] = ()
    negated: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    sentences: tuple[tuple[str, float], ...] = ()
    evidence: Evidence | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A page of hits and what surrounds it.

    Attributes:
        total: cases that pass the query's conditions and filter, however well they match.
        notes: what the reader should know of the whole answer: words read as others, no good match, cautions.
        has_good_match: False when nothing in the index seems to be what was asked for.
        facets: field to value to number of cases, under the same conditions as ``total``.
    """

    hits: tuple[Hit, ...]
    total: int
    notes: tuple[str, ...]
    has_good_match: bool
    facets: Mapping[str, Mapping[str, int]]


def plural(count: int, noun: str) -> str:
    """Count a noun in words; ``study`` and ``series`` are known.

    Example:
        >>> plural(1, "slice"), plural(2, "study"), plural(2, "single series")
        ('1 slice', '2 studies', '2 single series')
    """
    if count == 1 or noun.endswith("series"):
        return f"{count} {noun}"
    return f"{count} {noun[:-1]}ies" if noun.endswith("y") else f"{count} {noun}s"
