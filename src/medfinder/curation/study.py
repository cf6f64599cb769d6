"""One study through curation: the pure function that a process pool (or a cluster) maps over all of them.

In: a ``Study``, the settings, a dataset folder to write volumes into. Out: its cases and what was set aside of it, each
with its reason. Nothing about other studies is known here, so neither order nor the number of workers can matter.
"""

import hashlib
from dataclasses import asdict, dataclass, field
from pathlib import Path

from medfinder.curation.dataset import VOLUMES, Figures
from medfinder.curation.keywords import extract_findings, resolve_keyword
from medfinder.curation.quality import find_missing_voxels, find_small_dimension, missing_share
from medfinder.curation.report import ReportText, choose_text, count_words, find_report_fault
from medfinder.curation.split import SplitShares
from medfinder.errors import ConfigError, DatasetError, VolumeError
from medfinder.records import Case, Dropped, Finding, Series, Study
from medfinder.volume import Grid, Volume, body_region, read_volume, standardise, write_nifti


@dataclass(frozen=True)
class CurationSettings:
    """What a dataset is made by; stored in its provenance.

    Attributes:
        grid: of every standardised volume.
        max_missing_share: the paper's 30% of missing voxels.
        min_dimension: voxels on each axis before resampling; the paper's 96.
        min_dimension_synthetic: the same for phantoms, which are rendered small (ours).
        require_report: set studies without a report aside, as the paper does. A folder of CTs given without a table
            has none to require: it is curated for search by CT alone.
        min_words: the paper's five.
        max_report_chars: ours; the longest report in the public part of BIMCV-R has 582 words, about 4,000 letters.
        keep_not_chest: keep other parts of the body, with their region recorded, so that search can tell (ours).
        shares: of the patients in each split; the paper's 70/10/20.
        seed: of the split.
    """

    grid: Grid = field(default_factory=Grid)
    max_missing_share: float = 0.30
    min_dimension: int = 96
    min_dimension_synthetic: int = 32
    require_report: bool = True
    min_words: int = 5
    max_report_chars: int = 20_000
    keep_not_chest: bool = True
    shares: SplitShares = field(default_factory=SplitShares)
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.max_missing_share <= 1:
            raise ConfigError(f"max_missing_share {self.max_missing_share}; expected 0 to 1")
        for name in ("min_dimension", "min_dimension_synthetic", "min_words", "max_report_chars"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} {getattr(self, name)}; expected 0 or more")


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


def curate_study(study: Study, out: Path, settings: CurationSettings) -> CuratedStudy:
    """Curate one study: judge its report, read, judge and standardise each series, write the volumes.

    Args:
        out: dataset folder; its ``volumes`` folder exists.

    Raises:
        DatasetError: a volume cannot be written (no space, no permission): no other study could be either.
    """
    text = choose_text(study)
    fault = find_report_fault(
        text.searched,
        is_required=settings.require_report,
        min_words=settings.min_words,
        max_chars=settings.max_report_chars,
    )
    if fault is not None:
        return CuratedStudy(study.study_id, dropped=(_drop(study, "", "report", *fault),))
    try:
        findings, findings_from = find_findings(study, text)
    except Exception as error:  # A text that trips the reader of findings must not stop the other studies either.
        detail = f"{type(error).__name__} while looking for findings in the report"
        return CuratedStudy(study.study_id, dropped=(_drop(study, "", "report", "unreadable", detail),))
    cases: list[CuratedCase] = []
    dropped: list[Dropped] = []
    for series in study.series:
        outcome = _curate_series(study, series, settings)
        if isinstance(outcome, Dropped):
            dropped.append(outcome)
        else:
            cases.append(_keep(study, series, text, findings, findings_from, outcome, out))
    if not study.series:
        dropped.append(_drop(study, "", "read", "no series", "the study has no series, expected at least one"))
    return CuratedStudy(study.study_id, tuple(cases), tuple(dropped))


def find_findings(study: Study, text: ReportText) -> tuple[tuple[Finding, ...], str]:
    """Tell what a study shows, and from where that is known: truth, label, report or none.

    The truth of a phantom and an expert's label stand above what is read from the report.
    """
    if study.is_synthetic:
        return study.findings, "truth"
    if study.findings:
        known = ((resolve_keyword(finding.name) or finding.name, finding) for finding in study.findings)
        return tuple(Finding(**{**asdict(finding), "name": name}) for name, finding in known), "label"
    if text.searched:
        return extract_findings(text.searched, text.language), "report"
    return (), "none"


@dataclass(frozen=True)
class _Judged:
    """A volume that passed, before and after standardisation."""

    raw_shape: tuple[int, int, int]
    raw_spacing_mm: tuple[float, float, float]
    missing_share: float
    region: str
    region_reason: str
    lung_ml: float
    standard: Volume


def _curate_series(study: Study, series: Series, settings: CurationSettings) -> _Judged | Dropped:
    try:
        judged = _judge(study, series, settings)
    except VolumeError as error:
        return _drop(study, series.series_id, "read", error.reason, str(error))
    except MemoryError:
        detail = "reading it needs more memory than this machine has free"
        return _drop(study, series.series_id, "read", "out of memory", detail)
    except Exception as error:  # Damaged files trip parsers in ways nobody can list; one must not stop the others.
        detail = f"{type(error).__name__} while reading; the file is damaged in a way that no reader names"
        return _drop(study, series.series_id, "read", "unreadable", detail)
    if isinstance(judged, _Judged):
        return judged
    return _drop(study, series.series_id, "quality", *judged)


def _judge(study: Study, series: Series, settings: CurationSettings) -> _Judged | tuple[str, str]:
    volume = read_volume(series.path, series_instance_uid=series.series_instance_uid)
    limit = settings.min_dimension_synthetic if study.is_synthetic else settings.min_dimension
    share = missing_share(volume)
    fault = find_small_dimension(volume.shape, limit=limit)
    fault = fault or find_missing_voxels(share, limit=settings.max_missing_share)
    if fault is not None:
        return fault
    region = body_region(volume)
    if region.name != "chest" and not settings.keep_not_chest:
        return "not chest", region.reason
    standard = standardise(volume, settings.grid)
    return _Judged(volume.shape, volume.spacing_mm, share, region.name, region.reason, region.lung_ml, standard)


def _keep(
    study: Study,
    series: Series,
    text: ReportText,
    findings: tuple[Finding, ...],
    findings_from: str,
    judged: _Judged,
    out: Path,
) -> CuratedCase:
    case_id = hashlib.sha256(f"{study.source}\0{study.study_id}\0{series.series_id}".encode()).hexdigest()[:16]
    path = f"{VOLUMES}/{case_id}.nii"
    try:
        write_nifti(judged.standard, out / path)
    except VolumeError as error:
        raise DatasetError(f"{error} ({out}); what is done is kept: mend it and run the command again") from error
    case = Case(
        case_id=case_id,
        study_id=study.study_id,
        patient_id=study.patient_id,
        source=study.source,
        split="train",
        volume=path,
        report=text.searched,
        report_es=text.spanish,
        findings=findings,
        findings_from=findings_from,
        age_years=study.age_years,
        sex=study.sex,
        date_offset_days=study.date_offset_days,
        spacing_mm=judged.raw_spacing_mm,
        shape=judged.raw_shape,
        region=judged.region,
        is_synthetic=study.is_synthetic,
    )
    figures = Figures(
        words=count_words(text.searched),
        missing_share=judged.missing_share,
        lung_ml=judged.lung_ml,
        region_reason=judged.region_reason,
        notes=judged.standard.notes,
        volume_sha256=hashlib.sha256((out / path).read_bytes()).hexdigest(),
    )
    return CuratedCase(case, figures)


def _drop(study: Study, series_id: str, stage: str, reason: str, detail: str) -> Dropped:
    return Dropped(study.study_id, series_id, study.source, stage, reason, detail)
