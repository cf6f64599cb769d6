"""One study through curation: the pure function that a process pool (or a cluster) maps over all of them.

In: a ``Study`` and, where its Spanish was translated, the translation; the settings; a dataset folder to write volumes
into. Out: its cases with the doubts about them, the candidates among its series, and what was set aside, each with its
reason. Nothing about other studies is known here, so neither order nor the number of workers can matter.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from medfinder.curation.dataset import VIEWS, VOLUMES, Figures, SeriesRow
from medfinder.curation.denoise import DenoiseSettings, denoise
from medfinder.curation.keywords import extract_findings, map_labels
from medfinder.curation.pairing import PairingSettings, audit_study
from medfinder.curation.quality import Fault, Glance, Quality, QualitySettings, assess, judge_glance
from medfinder.curation.report import (
    ReportText,
    choose_text,
    count_words,
    find_report_fault,
    guess_language,
    plain_text,
)
from medfinder.curation.series import Candidate, Look, SelectionSettings, choose_series, look_of, rank_series
from medfinder.curation.split import SplitShares
from medfinder.curation.translate import Translation, TranslationSettings, check_engine
from medfinder.curation.translation_audit import audit_translation
from medfinder.errors import ConfigError, DatasetError, MissingExtraError, VolumeError
from medfinder.records import Case, Doubt, Dropped, Finding, Series, Study
from medfinder.sources.pacs import PacsSettings, fetch_series
from medfinder.volume import (
    Grid,
    Volume,
    open_slabs,
    read_ahead,
    read_volume,
    standardise,
    standardise_and_coarsen,
    view_of,
    view_on_the_way,
    write_nifti,
)

# Sources whose studies hold whatever the scanner and its desk made; in the others somebody has chosen already.
_RAW_SOURCES = ("dicom", "bimcv", "pacs")

# Its findings are what was drawn, its English was written and not translated.
_TRUE_SOURCE = "phantoms"

# Its volumes were judged before they were standardised: they are small by now, with air where nothing was scanned.
_JUDGED_SOURCE = "release"

# A series that lies so gives way to any other of its study; alone, it waits for a person.
_TURNED = ("upside down", "front and back swapped")


@dataclass(frozen=True)
class CurationSettings:
    """What a dataset is made by; stored in its provenance.

    Attributes:
        grid: of every standardised volume.
        selection: which of a study's series are taken, where the source is raw.
        quality: what a volume must be, and when a person is asked.
        pairing: how images and report are compared.
        translation: of Spanish reports that bring no English; by default they are searched in Spanish.
        denoise: before standardising; off by default.
        view_mm: voxels of a finer copy of each volume, for people to look at, are this long, or as long as they were if
            that is longer; 0 for none. Where the grid is as fine there is none either.
        adjudicator: the reader whose diagnoses decide where readers differ.
        deidentify: replace names, dates and the like in texts, phantoms' excepted.
        require_report: set studies without a report aside, as the paper does. A folder of CTs given without a table
            has none to require: it is curated for search by CT alone.
        min_words: the paper's five.
        max_report_chars: ours; the longest report in the public part of BIMCV-R has 582 words, about 4,000 letters.
        keep_not_chest: keep other parts of the body, with their region recorded, so that search can tell (ours).
        shares: of the patients in each split; the paper's 70/10/20.
        seed: of the split.
    """

    grid: Grid = field(default_factory=Grid)
    selection: SelectionSettings = field(default_factory=SelectionSettings)
    quality: QualitySettings = field(default_factory=QualitySettings)
    pairing: PairingSettings = field(default_factory=PairingSettings)
    translation: TranslationSettings = field(default_factory=TranslationSettings)
    denoise: DenoiseSettings = field(default_factory=DenoiseSettings)
    view_mm: float = 0.0
    adjudicator: str = ""
    deidentify: bool = True
    require_report: bool = True
    min_words: int = 5
    max_report_chars: int = 20_000
    keep_not_chest: bool = True
    shares: SplitShares = field(default_factory=SplitShares)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("min_words", "max_report_chars"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} {getattr(self, name)}; expected 0 or more")
        if self.view_mm < 0:
            raise ConfigError(f"view_mm {self.view_mm}; expected a length in mm, or 0 for no finer copies")
        check_engine(self.translation)


@dataclass(frozen=True, slots=True)
class Job:
    """One study to be curated.

    Attributes:
        translation: the English that an engine made of its report.
        server: where its series are fetched from when they are looked at; None where they lie on disk.
    """

    study: Study
    translation: Translation | None = None
    server: PacsSettings | None = None


@dataclass(frozen=True)
class CuratedCase:
    """A case and what was measured on it; its split is settled only when all patients are known."""

    case: Case
    figures: Figures


@dataclass(frozen=True)
class CuratedStudy:
    """What became of one study."""

    study_id: str
    cases: tuple[CuratedCase, ...] = ()
    dropped: tuple[Dropped, ...] = ()
    series: tuple[SeriesRow, ...] = ()


def curate_study(job: Job, out: Path, settings: CurationSettings) -> CuratedStudy:
    """Curate one study: judge its report, choose among its series, judge and standardise them, write the volumes.

    Of a server's series those alone are fetched that are looked at.

    Args:
        out: dataset folder; its ``volumes`` folder exists.

    Raises:
        DatasetError: a volume cannot be written (no space, no permission), or the server is gone: no other study could
            be curated either.
    """
    study = job.study
    try:
        told = read_texts(job, settings)
    except Exception as error:  # A text that trips its reader must not stop the other studies either.
        if isinstance(error, ConfigError | MissingExtraError):
            raise
        detail = f"{type(error).__name__} while reading the report"
        return CuratedStudy(study.study_id, dropped=(_drop(study, "", "report", "unreadable", detail),))
    if told.fault is not None:
        return CuratedStudy(study.study_id, dropped=(_drop(study, "", *told.fault),))
    if not study.series:
        detail = "the study has no series, expected at least one"
        return CuratedStudy(study.study_id, dropped=(_drop(study, "", "read", "no series", detail),))
    reading = _Reading(job, settings)
    candidates = _choose(study, settings, reading)
    cases = [_keep(study, one.series, told, reading.judged[one.series.series_id], out) for one in _chosen(candidates)]
    rows = tuple(
        SeriesRow(study.study_id, one.series.series_id, one.score, one.is_chosen, one.reason, one.detail)
        for one in candidates
    )
    return CuratedStudy(study.study_id, tuple(cases), tuple(_set_aside(study, candidates, reading)), rows)


# ------------------------------------------------------------------------------------------------------------- the text


@dataclass(frozen=True)
class Texts:
    """What is known of a study from words.

    Attributes:
        fault: stage, reason and detail that set the study aside; None when it passes.
        findings_from: truth, label, report or none.
    """

    text: ReportText
    findings: tuple[Finding, ...] = ()
    findings_from: str = "none"
    doubts: tuple[Doubt, ...] = ()
    translated_by: str = ""
    phi_removed: int = 0
    fault: tuple[str, str, str] | None = None


def read_texts(job: Job, settings: CurationSettings) -> Texts:
    """De-identify, choose and judge the texts of a study, and read its findings from them."""
    study, removed = clean_study(job.study, settings)
    translation = job.translation
    if translation is not None:
        study = replace(study, report_en=translation.english or None)
    text = choose_text(study)
    fault = find_report_fault(
        text.searched,
        is_required=settings.require_report,
        min_words=settings.min_words,
        max_chars=settings.max_report_chars,
    )
    if fault is not None:
        return Texts(text, fault=("report", *fault))
    original = text.spanish or text.searched
    verdict = audit_study(study, original, settings.pairing)
    if verdict.fault is not None:
        return Texts(text, fault=("pairing", *verdict.fault))
    findings, source = find_findings(study, text)
    doubts = (*verdict.doubts, *_doubt_translation(study, text, translation), *_doubt_labels(study))
    engine = translation.engine if translation is not None and not translation.fault else ""
    return Texts(text, findings, source, doubts, engine, removed)


def clean_study(study: Study, settings: CurationSettings) -> tuple[Study, int]:
    """Take markup out of a study's texts, replace what names a person, and count that; phantoms name nobody."""
    study = replace(
        study, report=plain_text(study.report or "") or None, report_en=plain_text(study.report_en or "") or None
    )
    if not settings.deidentify or study.is_synthetic or not (study.report or study.report_en):
        return study, 0
    from medfinder.curation.deidentify import deidentify_text

    report = study.report or ""
    language = study.report_language or guess_language(report)
    original, english = deidentify_text(report, language), deidentify_text(study.report_en or "", "en")
    removed = sum(original.counts.values()) + sum(english.counts.values())
    return replace(study, report=original.text or None, report_en=english.text or None), removed


def _doubt_translation(study: Study, text: ReportText, translation: Translation | None) -> Iterator[Doubt]:
    if translation is not None and translation.fault:
        yield Doubt("translation", "no translation", f"the engine gave none: {translation.fault}", holds=True)
    elif translation is not None and translation.is_rough:
        yield Doubt("translation", "rough", "translated by rules: for finding cases, not for reading", holds=False)
    # The English of a phantom was written, not translated.
    if text.spanish and text.language == "en" and study.source != _TRUE_SOURCE:
        yield from audit_translation(text.spanish, text.searched)


def _doubt_labels(study: Study) -> Iterator[Doubt]:
    """Tell which of a source's labels no keyword stands for."""
    unmapped = () if study.source == _TRUE_SOURCE else map_labels(study.findings)[1]
    if unmapped:
        yield Doubt("diagnosis", "unmapped label", f"no keyword stands for: {', '.join(unmapped)}", holds=False)


def find_findings(study: Study, text: ReportText) -> tuple[tuple[Finding, ...], str]:
    """Tell what a study shows, and from where that is known: truth, label, report or none.

    The truth of a phantom and an expert's label stand above what is read from the report; the report as written stands
    above its translation.
    """
    if study.source == _TRUE_SOURCE:
        return study.findings, "truth"
    if study.findings:
        return map_labels(study.findings)[0], "label"
    if text.spanish:
        return extract_findings(text.spanish, "es"), "report"
    if text.searched:
        return extract_findings(text.searched, text.language), "report"
    return (), "none"


# ------------------------------------------------------------------------------------------------------------- the CTs


@dataclass(frozen=True)
class _Judged:
    """A volume that passed, before and after standardisation, and as people look at it."""

    raw_shape: tuple[int, int, int]
    raw_spacing_mm: tuple[float, float, float]
    quality: Quality
    shown: Look
    standard: Volume
    view: Volume | None


@dataclass(frozen=True)
class _Read:
    """A raw volume that was read and judged, and what gives it standardised, and as people look at it."""

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    quality: Quality
    put_on_grid: Callable[[], Volume]
    view: Callable[[], Volume] | None


class _Reading:
    """Reads the series of one study as selection asks for them, and keeps what it may take.

    Attributes:
        judged: what passed, by series id.
        refused: stage, reason and detail of what did not.
    """

    def __init__(self, job: Job, settings: CurationSettings) -> None:
        self.study, self.server, self.settings = job.study, job.server, settings
        self.limits = settings.quality
        if self._is_judged:
            self.limits = replace(self.limits, min_dimension=0, min_dimension_synthetic=0, max_missing_share=1.0)
        self.judged: dict[str, _Judged] = {}
        self.refused: dict[str, tuple[str, str, str]] = {}

    @property
    def _is_judged(self) -> bool:
        return self.study.source == _JUDGED_SOURCE

    def look(self, series: Series) -> Look | tuple[str, str]:
        """Read and judge a series; say what it shows, or why it is out."""
        outcome = self._judge(series)
        if isinstance(outcome, _Judged):
            self.judged[series.series_id] = outcome
            return outcome.shown
        self.refused[series.series_id] = outcome
        return outcome[1:]

    def _judge(self, series: Series) -> _Judged | tuple[str, str, str]:
        if self.server is not None and (lost := fetch_series(series, self.server)) is not None:
            return "fetch", *lost
        try:
            read = self._read(series)
            quality = replace(read.quality, doubts=()) if self._is_judged else read.quality
            fault = quality.fault or self._refuse_region(quality)
            if fault is not None or quality.anatomy is None:
                return ("quality", *(fault or ("not judged", "no anatomy was looked for")))
            turned = next((doubt for doubt in quality.doubts if doubt.reason in _TURNED), None)
            if turned is not None and len(self.study.series) > 1:
                return "quality", turned.reason, turned.detail
            shown = self._weigh(look_of(quality.region, quality.anatomy), quality.doubts)
            standard = read.put_on_grid()
        except VolumeError as error:
            return "read", error.reason, str(error)
        except MemoryError:
            return "read", "out of memory", "reading it needs more memory than this machine has free"
        except Exception as error:  # Damaged files trip parsers in ways nobody can list; one must not stop the others.
            detail = f"{type(error).__name__} while reading; the file is damaged in a way that no reader names"
            return "read", "unreadable", detail
        # What is kept of a raw volume are figures: several may have to be looked at.
        slim = replace(quality, volume=None, anatomy=None)
        view = read.view() if read.view is not None else None
        return _Judged(read.shape, read.spacing_mm, slim, shown, standard, view)

    def _read(self, series: Series) -> _Read:
        """Judge a series while it is unpacked and put on the grid; hold it whole only where voxels must change."""
        uid, rescale, is_synthetic = series.series_instance_uid, series.rescale, self.study.is_synthetic
        grid, cleaning = self.settings.grid, self.settings.denoise
        if cleaning.method == "none" and not grid.recipe:
            source = open_slabs(series.path, series_instance_uid=uid, rescale=rescale)
            glance = Glance(source)
            watched = replace(source, slabs=glance.watch(read_ahead(source).slabs))
            view = None
            if self._shows_more(glance.spacing_mm):
                watched, view = view_on_the_way(watched, self.settings.view_mm)
            put_on_grid, find = standardise_and_coarsen(watched, grid)
            found = judge_glance(glance, find, self.limits, is_synthetic=is_synthetic, tags=series.tags)
            if isinstance(found, Quality):
                return _Read(glance.shape, glance.spacing_mm, found, put_on_grid, view)
        volume = read_volume(series.path, series_instance_uid=uid, rescale=rescale)
        quality = assess(volume, self.limits, is_synthetic=is_synthetic, tags=series.tags)
        best = quality.volume or volume
        # People look at what was measured.
        view = partial(view_of, best, self.settings.view_mm) if self._shows_more(volume.spacing_mm) else None
        return _Read(volume.shape, volume.spacing_mm, quality, lambda: standardise(denoise(best, cleaning), grid), view)

    def _shows_more(self, spacing_mm: tuple[float, float, float]) -> bool:
        finest = self.settings.view_mm
        both = zip(spacing_mm, self.settings.grid.spacing_mm, strict=True)
        return finest > 0 and any(max(finest, own) < of_grid for own, of_grid in both)

    def _weigh(self, shown: Look, doubts: tuple[Doubt, ...]) -> Look:
        """Let a doubtful series give way to its neighbour, where there is one."""
        holding = [doubt for doubt in doubts if doubt.holds]
        return replace(shown, doubt=holding[0].reason) if holding else shown

    def _refuse_region(self, quality: Quality) -> Fault:
        if quality.region.name != "chest" and not self.settings.keep_not_chest:
            return "not chest", quality.region.reason
        return None


def _choose(study: Study, settings: CurationSettings, reading: _Reading) -> tuple[Candidate, ...]:
    if study.source in _RAW_SOURCES:
        selection = replace(settings.selection, require_chest=not settings.keep_not_chest)
        return choose_series(rank_series(study.series, selection), reading.look, selection)
    candidates = []
    for series in study.series:
        shown = reading.look(series)
        is_fit = isinstance(shown, Look)
        reason, detail = ("", "") if isinstance(shown, Look) else shown
        candidates.append(Candidate(series, float(is_fit), reason, detail, is_chosen=is_fit))
    return tuple(candidates)


def _chosen(candidates: tuple[Candidate, ...]) -> list[Candidate]:
    return [one for one in candidates if one.is_chosen]


def _set_aside(study: Study, candidates: tuple[Candidate, ...], reading: _Reading) -> Iterator[Dropped]:
    for one in candidates:
        if not one.is_chosen:
            why = reading.refused.get(one.series.series_id, ("series", one.reason, one.detail))
            yield _drop(study, one.series.series_id, *why)


def _keep(
    study: Study,
    series: Series,
    told: Texts,
    judged: _Judged,
    out: Path,
) -> CuratedCase:
    case_id = hashlib.sha256(f"{study.source}\0{study.study_id}\0{series.series_id}".encode()).hexdigest()[:16]
    path = f"{VOLUMES}/{case_id}.nii"
    try:
        write_nifti(judged.standard, out / path)
        if judged.view is not None:
            (out / VIEWS).mkdir(exist_ok=True)
            write_nifti(judged.view, out / VIEWS / f"{case_id}.nii")
    except VolumeError as error:
        raise DatasetError(f"{error} ({out}); what is done is kept: mend it and run the command again") from error
    case = Case(
        case_id=case_id,
        study_id=study.study_id,
        patient_id=study.patient_id,
        source=study.source,
        split="train",
        volume=path,
        report=told.text.searched,
        report_es=told.text.spanish,
        findings=told.findings,
        findings_from=told.findings_from,
        age_years=study.age_years,
        sex=study.sex,
        date_offset_days=study.date_offset_days,
        spacing_mm=judged.raw_spacing_mm,
        shape=judged.raw_shape,
        region=judged.quality.region.name,
        is_synthetic=study.is_synthetic,
    )
    figures = Figures(
        words=count_words(told.text.searched),
        missing_share=judged.quality.figures["missing_share"],
        lung_ml=judged.quality.region.lung_ml,
        region_reason=judged.quality.region.reason,
        notes=judged.standard.notes,
        volume_sha256=hashlib.sha256((out / path).read_bytes()).hexdigest(),
        quality_score=judged.quality.score,
        doubts=(*told.doubts, *judged.quality.doubts),
        translated_by=told.translated_by,
        phi_removed=told.phi_removed,
    )
    return CuratedCase(case, figures)


def _drop(study: Study, series_id: str, stage: str, reason: str, detail: str) -> Dropped:
    return Dropped(study.study_id, series_id, study.source, stage, reason, detail)
