"""Which series of a study a radiologist would read: one or two of up to 135.

In: the series of a study with what headers and side files say of them, and a function that looks at the voxels of one.
Out: every series as a ``Candidate``, best first, with its score, the figures behind it, and why it was or was not
chosen. Refused, series by series: localizers, dose reports and other captures, projections, colour maps, reformats,
slabs of a few slices, files whose header cannot be trusted, and what shows no chest.

Headers rank all series without a voxel being read; the voxels of the best one then confirm or correct its place. A look
can only lower a score, so that the search ends as soon as what was seen beats what was merely promised: after one
reading where nothing is wrong. Nothing depends on the order of files.
"""

import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from medfinder.curation.kernels import Kernel, kernel_in_words, kernel_kind, plain_words
from medfinder.errors import ConfigError, VolumeError
from medfinder.records import Dropped, Series, Study
from medfinder.sources.files import is_volume_file, name_without_suffix
from medfinder.volume import BodyRegion, Volume, body_region, read_volume
from medfinder.volume.geometry import PLANES, Geometry, Plane, read_geometry
from medfinder.volume.region import Anatomy, find_anatomy
from medfinder.volume.types import check_affine, spacing_of

# Why a series is out: short stable reason, one sentence with the figures.
Refusal = tuple[str, str]


@dataclass(frozen=True)
class SelectionSettings:
    """What is chosen, and what cannot be; all limits are ours.

    Attributes:
        series_per_study: at most so many; the second one is of another kernel where there is one.
        max_thickness_mm: the thickest slices in BIMCV are 15 mm.
        min_slices: fewer are a test bolus, a biopsy or a remnant; 15 mm slices of a whole chest are more.
        min_height_mm: from the first slice to the last; a newborn's chest is about 100 mm high.
        min_lung_height_mm: of lungs that the field of view cuts; less is the bases above an abdomen or the apices below
            a neck.
        require_chest: False lets a study without a chest keep its best other series.
        max_looks: series of one study whose voxels are read at most; BIMCV has 14 a study on average, three of them
            axial and whole.
    """

    series_per_study: int = 1
    max_thickness_mm: float = 15.0
    min_slices: int = 10
    min_height_mm: float = 80.0
    min_lung_height_mm: float = 100.0
    require_chest: bool = True
    max_looks: int = 8

    def __post_init__(self) -> None:
        for name in ("series_per_study", "min_slices", "max_looks"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} {getattr(self, name)}; expected 1 or more")
        if not self.max_thickness_mm > 0:
            raise ConfigError(f"max_thickness_mm {self.max_thickness_mm:g}; expected more than 0")
        for name in ("min_height_mm", "min_lung_height_mm"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} {getattr(self, name):g}; expected 0 or more")


@dataclass(frozen=True, slots=True)
class Look:
    """What the voxels of one series showed.

    Attributes:
        region: ``"chest"`` or what was found instead.
        reason: one sentence with the figures behind the region.
        lung_ml: aerated lung in view.
        body_ml: body in view, lungs included.
        lung_height_mm: of the slices that show lung.
        cut_above, cut_below: lung in the uppermost and lowest slice, as a share of the widest slice's lung; 0 where the
            lungs end within the field of view.
        doubt: what else whoever looked has against it without being certain, e.g. a doubt of the quality stage.
    """

    region: str
    reason: str
    lung_ml: float
    body_ml: float
    lung_height_mm: float
    cut_above: float
    cut_below: float
    doubt: str = ""


Looking = Callable[[Series], Look | Refusal]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One series of a study and what became of it.

    Attributes:
        score: 0 to 10, higher is better; comparable within a study.
        reason: empty while it is in the running and for what was chosen, else a short stable code.
        detail: one sentence with the figures behind reason or score; no patient data.
        figures: what was measured and what each fault cost, by name.
    """

    series: Series
    score: float
    reason: str = ""
    detail: str = ""
    figures: tuple[tuple[str, float], ...] = ()
    is_chosen: bool = False
    kernel: Kernel = ""
    positions_mm: tuple[float, float] | None = None


FULL_SCORE = 10.0
"""What a thin axial series of the whole chest with a soft-tissue kernel has."""

# What each shortcoming costs. Ours, in halvings: slices of twice the thickness cost 1. A lung kernel costs less than
# that, so that thin comes before soft as a radiologist would reformat it; what the tags do not tell costs about as much
# as the worse of the two answers. A doubt gives way to the other kernel, but not to slices of twice the thickness.
THIN_MM = 1.25
UNKNOWN_THICKNESS_MM = 5.0
KERNEL_COSTS: dict[Kernel, float] = {"soft": 0.0, "lung": 0.75, "": 0.4}
UNTAGGED_COST = 0.4
DERIVED_COST = 2.0
OTHER_PART_COST = 1.5
EXPIRATION_COST, PRONE_COST = 0.5, 0.25
SHORT_COST = 4.0
CUT_COST = 4.0
DOUBT_COST = 0.8
SAME_KERNEL_COST = 1.0

CHEST_HEIGHT_MM = 250.0
"""Ours: a series this high holds an adult's lungs; that another one goes on to the pelvis is no merit."""

MAX_LOST_SHARE = 0.25
"""Ours: a side file that counts more slices than the file holds tells of lost ones, up to this share; beyond it the
count must mean something else, such as the acquisition behind several series."""

LUNG_SLICE_SHARE = 0.1
"""Ours: a slice with less of the widest slice's lung shows a tip of it, the windpipe or bowel gas, and cuts nothing."""

SAME_PLACE_MM = 10.0
"""Ours: two series that end within a thick slice of each other show the same part."""

# Words of ImageType and SeriesDescription (DICOM PS3.3, C.8.2.1.1.1 and the makers' conformance statements), tried in
# this order. "LOW DOSE" and "SCREENING" are innocent.
_NOT_READ: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("localizer", re.compile(r"\b(LOCALI[ZS]ER|LOCALIZADOR|TOPOGRAMA?|TOPO|SCOUT|SURVIEW|SCANO(GRAM\w?|SCOPY))\b")),
    (
        "dose report",
        re.compile(
            r"\b(DOSE (REPORT|INFO\w*|RECORD|SUMMARY)|(INFORME|RESUMEN|REGISTRO) (DE )?DOSIS|PATIENT PROTOCOL"
            r"|SCREEN ?(SAVE|SHOT|CAPTURE)?|CAPTURE|CAPTURA|EVIDENCE)\b"
        ),
    ),
    (
        "projection",
        re.compile(r"\b(T?MIP|MINIP|(MAX|MIN) IP|MAXIMUM|MINIMUM|PROJECTION|MPVR|VRT?|VOLUME RENDER\w*|SSD|RAYSUM)\b"),
    ),
    ("map", re.compile(r"\b(IODINE|YODO|PBV|PERFUSION|CBF|CBV|VNC|SUBTRACTION|SUSTRACCION|OVERLAY|EFFECTIVE Z)\b")),
)
_REFORMAT = re.compile(
    r"\b(C?MPR|REFORMAT(TED)?|RESAMPLED|CORONAL(ES)?|COR|SAGITT?AL(ES)?|SAG|OBLI(QUE|CUO|CUA)|CURVED?)\b"
)
_PLANE_WORDS: tuple[tuple[Plane, str], ...] = (
    ("coronal", r"\bCOR(ONAL(ES)?)?\b"),
    ("sagittal", r"\bSAG(ITT?AL(ES)?)?\b"),
    ("axial", r"\bAXIAL(ES)?\b"),
)
_CHEST = re.compile(r"\b(CHEST|TORAX|THORAX|TORAC\w*|THORAC\w*|LUNGS?|PULM\w*|TAP|MEDIAST\w*|TEP|WHOLEBODY)\b")
_OTHER_PART = re.compile(
    r"\b(HEAD|BRAIN|SKULL|CRANE\w*|CEREBR\w*|SINUS\w*|SENOS|ORBIT\w*|NECK|CUELLO|ABDOMEN\w*|ABDOMINAL|PELVIS|SPINE|LSPINE"
    r"|CSPINE|COLUMNA|HIP|CADERA|KNEE|RODILLA|SHOULDER|HOMBRO|EXTREMITY|ANKLE|TOBILLO|WRIST|FOOT|HEART|CARDIAC\w*)\b"
)
_EXPIRATION = re.compile(r"\b(EXPIR\w*|ESPIR\w*)\b")
_PRONE = re.compile(r"\b(PRONE|PRONO|HFP|FFP)\b")


@dataclass(frozen=True)
class _Facts:
    """What is known of a series before its voxels are read.

    Attributes:
        words: ImageType, SeriesDescription (or else the file's name) and body part, in plain capitals.
        spacing_mm: between neighbouring slices.
        fault: why its header cannot be trusted.
    """

    series: Series
    image_type: str
    words: str
    kernel: Kernel
    plane: Plane | None = None
    slices: int | None = None
    spacing_mm: float | None = None
    positions_mm: tuple[float, float] | None = None
    fault: Refusal | None = None

    @property
    def is_tagged(self) -> bool:
        return bool(self.series.tags.image_type or self.series.tags.series_description)

    @property
    def is_original(self) -> bool:
        return bool(re.search(r"\bORIGINAL\b", self.image_type))

    @property
    def is_derived(self) -> bool:
        """Say whether another series was there first, from which this one was made."""
        made_later = re.search(r"\bSECONDARY\b", self.image_type) or _REFORMAT.search(self.words)
        return bool(made_later) and not self.is_original

    @property
    def thickness_mm(self) -> float | None:
        """The coarser of thickness and spacing: overlapping slices are as thick, gaps between them as coarse."""
        known = [mm for mm in (self.series.tags.slice_thickness_mm, self.spacing_mm) if mm is not None and mm > 0]
        return max(known, default=None)

    @property
    def height_mm(self) -> float | None:
        """From the outer face of the first slice to that of the last."""
        if self.positions_mm is not None:
            return self.positions_mm[1] - self.positions_mm[0] + (self.spacing_mm or 0)
        if self.slices is None or self.thickness_mm is None:
            return None
        return self.slices * self.thickness_mm


def rank_or_choose(
    entries: Iterable[Study | Dropped],
    settings: SelectionSettings | None = None,
    *,
    look: Looking | None,
) -> Iterator[tuple[Study, tuple[Candidate, ...]]]:
    """Rank the series of every study of a source, one study at a time; ``Dropped`` entries are passed over.

    Args:
        look: reads one series; None leaves it at what the headers say, and nothing is chosen.
    """
    for study in entries:
        if isinstance(study, Study):
            ranked = rank_series(study.series, settings)
            yield study, ranked if look is None else choose_series(ranked, look, settings)


def as_row(study: Study, candidate: Candidate) -> dict[str, object]:
    """Lay a candidate out as one table row; hashed ids only, no path and no free text of the headers."""
    return {
        "study_id": study.study_id,
        "series_id": candidate.series.series_id,
        "is_chosen": candidate.is_chosen,
        "score": candidate.score,
        "reason": candidate.reason,
        "detail": candidate.detail,
        "figures": dict(candidate.figures),
    }


# ------------------------------------------------------------------------------------------------------------- ranking


def rank_series(series: Sequence[Series], settings: SelectionSettings | None = None) -> tuple[Candidate, ...]:
    """Rank the series of a study by their headers alone; no voxel is read.

    Args:
        series: in any order; it does not matter.

    Returns:
        Every series, best first; those with a reason are out.
    """
    settings = settings or SelectionSettings()
    known = sorted((_gather(one) for one in series), key=_stable_order)
    alone = [_refuse_alone(facts, settings) for facts in known]
    company = _Company.of(known, alone)
    ranked = []
    for facts, refusal in zip(known, alone, strict=True):
        refusal = refusal or company.refuse(facts)
        ranked.append(_as_candidate(facts, refusal, {} if refusal else company.costs(facts)))
    # Sorting is stable: equals stay in the order of _stable_order.
    return tuple(sorted(ranked, key=lambda one: (bool(one.reason), -one.score)))


def _stable_order(facts: _Facts) -> tuple[float, float, float, list[int], str]:
    """Order equals: thinner, more slices, smaller series number, smaller numbers in the name (``acq-2_run-1``)."""
    number = facts.series.tags.series_number
    name = [int(digits) for digits in re.findall(r"(?:acq|run)-(\d{1,9})", facts.series.path.name)]
    return (
        facts.thickness_mm or math.inf,
        -(facts.slices or 0),
        math.inf if number is None else number,
        name,
        facts.series.series_id,
    )


def _gather(series: Series) -> _Facts:
    tags = series.tags
    image_type = plain_words(" ".join(tags.image_type))
    is_file = is_volume_file(series.path)
    described = tags.series_description or (name_without_suffix(series.path) if is_file else "")
    words = f"{image_type} {plain_words(described)} {plain_words(tags.body_part_examined)} {tags.patient_position}"
    kernel = kernel_kind(tags.convolution_kernel) or kernel_in_words(tags.series_description)
    facts = _Facts(series, image_type, words, kernel)
    if not is_file:
        return _with_tags(facts)
    try:
        return _with_geometry(facts, read_geometry(series.path))
    except VolumeError as error:
        return replace(_with_tags(facts), fault=(error.reason, str(error)))


def _with_tags(facts: _Facts) -> _Facts:
    tags = facts.series.tags
    spacing = tags.slice_thickness_mm
    if tags.slice_positions_mm is not None and tags.slices is not None and tags.slices > 1:
        spacing = (tags.slice_positions_mm[1] - tags.slice_positions_mm[0]) / (tags.slices - 1)
    return replace(
        facts,
        plane=_plane_of(tags.image_orientation_patient) or _plane_in_words(facts),
        slices=tags.slices,
        spacing_mm=spacing,
        positions_mm=tags.slice_positions_mm,
    )


def _with_geometry(facts: _Facts, geometry: Geometry) -> _Facts:
    fault = None
    if not geometry.is_grey:
        fault = "not greyscale", "colours, expected one number a voxel; a capture or a map holds no HU"
    elif geometry.slices > 1:
        try:
            check_affine(geometry.affine)
        except VolumeError as error:
            fault = error.reason, str(error)
    return replace(
        facts,
        plane=geometry.plane,
        slices=geometry.slices,
        spacing_mm=geometry.slice_spacing_mm,
        positions_mm=geometry.positions_mm,
        fault=fault,
    )


def _plane_of(orientation: Sequence[float]) -> Plane | None:
    if len(orientation) != 6:
        return None
    normal = np.abs(np.cross(orientation[:3], orientation[3:]))
    return PLANES[int(np.argmax(normal))]


def _plane_in_words(facts: _Facts) -> Plane | None:
    return next((plane for plane, pattern in _PLANE_WORDS if re.search(pattern, facts.words)), None)


def _refuse_alone(facts: _Facts, settings: SelectionSettings) -> Refusal | None:
    """Refuse what needs no comparison with the study's other series."""
    tags = facts.series.tags
    if tags.modality not in ("", "CT"):
        return "not CT", f"modality {tags.modality}, expected CT"
    for reason, pattern in _NOT_READ:
        if found := pattern.search(facts.words):
            return reason, f"its tags say {found[0].strip()}"
    if facts.fault is not None:
        return facts.fault
    if facts.slices is not None and facts.slices < settings.min_slices:
        return "too few slices", f"{facts.slices} slices, expected at least {settings.min_slices}"
    if facts.plane != "axial" and (facts.is_derived or _REFORMAT.search(facts.words)):
        return "reformat", f"slices in the {facts.plane or 'unknown'} plane, derived from another series"
    return _refuse_size(facts, settings) or _refuse_lost_slices(facts)


def _refuse_size(facts: _Facts, settings: SelectionSettings) -> Refusal | None:
    height, thickness = facts.height_mm, facts.thickness_mm
    if facts.plane in (None, "axial") and height is not None and height < settings.min_height_mm:
        return "slab", f"{height:.0f} mm high, expected at least {settings.min_height_mm:g} mm"
    if thickness is not None and thickness > settings.max_thickness_mm:
        return "too thick", f"slices of {thickness:.1f} mm, expected at most {settings.max_thickness_mm:g} mm"
    return None


def _refuse_lost_slices(facts: _Facts) -> Refusal | None:
    promised, held = facts.series.tags.slices, facts.slices
    if promised is None or held is None or not 1 <= promised - held <= MAX_LOST_SHARE * promised:
        return None
    return "lost slices", f"{held} slices in the file, {promised} by its side file; send the series again"


@dataclass(frozen=True)
class _Company:
    """What the series of a study tell about each other.

    Attributes:
        has_axial: a series is there from which reformats could be made, fit to be read or not.
        has_original: ... and it comes straight from the scanner.
        height_mm: of the highest series in the running, no more than a chest.
        has_tags: a series in the running says what it is.
    """

    has_axial: bool
    has_original: bool
    height_mm: float
    has_tags: bool

    @classmethod
    def of(cls, known: Sequence[_Facts], refused: Sequence[Refusal | None]) -> "_Company":
        too_small = ("localizer", "dose report", "too few slices", "slab")
        whole = [one for one, refusal in zip(known, refused, strict=True) if not refusal or refusal[0] not in too_small]
        running = [one for one, refusal in zip(known, refused, strict=True) if not refusal and one.plane == "axial"]
        axial = [one for one in whole if one.plane == "axial" or _plane_in_words(one) == "axial"]
        return cls(
            has_axial=bool(axial),
            has_original=any(one.is_original for one in axial),
            height_mm=min(CHEST_HEIGHT_MM, max((one.height_mm or 0.0 for one in running), default=0.0)),
            has_tags=any(one.is_tagged for one in running),
        )

    def refuse(self, facts: _Facts) -> Refusal | None:
        """Refuse what was made of another series that is at hand."""
        if facts.plane not in (None, "axial") and self.has_axial:
            return "reformat", f"slices in the {facts.plane} plane, and an axial series is at hand"
        if facts.is_derived and self.has_original:
            return "reformat", "derived, and an original axial series is at hand"
        return None

    def costs(self, facts: _Facts) -> dict[str, float]:
        """Tell what each shortcoming of a series costs."""
        thickness = max(THIN_MM, facts.thickness_mm or UNKNOWN_THICKNESS_MM)
        height = self.height_mm if facts.height_mm is None else facts.height_mm
        short = 1 - height / self.height_mm if height < self.height_mm else 0.0
        elsewhere = _OTHER_PART.search(facts.words) and not _CHEST.search(facts.words)
        costs = {
            "thickness": math.log2(thickness / THIN_MM),
            "kernel": KERNEL_COSTS[facts.kernel],
            "short": SHORT_COST * short,
            "no tags": UNTAGGED_COST * (self.has_tags and not facts.is_tagged),
            "derived": DERIVED_COST * facts.is_derived,
            "other body part": OTHER_PART_COST * bool(elsewhere),
            "expiration": EXPIRATION_COST * bool(_EXPIRATION.search(facts.words)),
            "prone": PRONE_COST * bool(_PRONE.search(facts.words)),
        }
        return {name: round(cost, 3) for name, cost in costs.items() if cost > 0}


def _as_candidate(facts: _Facts, refusal: Refusal | None, costs: dict[str, float]) -> Candidate:
    measured = {"slices": facts.slices, "thickness_mm": facts.thickness_mm, "height_mm": facts.height_mm}
    figures = [(name, round(float(value), 2)) for name, value in measured.items() if value is not None]
    figures += [(f"cost of {name}", cost) for name, cost in costs.items()]
    reason, detail = refusal or ("", "")
    score = 0.0 if refusal else max(0.0, FULL_SCORE - sum(costs.values()))
    return Candidate(
        facts.series, round(score, 3), reason, detail, tuple(figures), False, facts.kernel, facts.positions_mm
    )


# ------------------------------------------------------------------------------------------------------------- looking


def read_look(series: Series) -> Look | Refusal:
    """Read a series and say what it shows, or why it cannot be read; a damaged file never raises."""
    try:
        volume = read_volume(series.path, series_instance_uid=series.series_instance_uid, rescale=series.rescale)
    except VolumeError as error:
        return error.reason, str(error)
    except MemoryError:
        return "out of memory", "reading it needs more memory than this machine has free"
    except Exception as error:  # Damaged files trip parsers in ways nobody can list; one must not stop the others.
        return "unreadable", f"{type(error).__name__} while reading; the file is damaged in a way that no reader names"
    return look_at(volume)


def look_at(volume: Volume) -> Look:
    """Say what the voxels of a volume show."""
    region, anatomy = body_region(volume), find_anatomy(volume)
    return look_of(region, anatomy)


def look_of(region: BodyRegion, anatomy: Anatomy) -> Look:
    """Say what a volume shows whose anatomy was found already."""
    areas = anatomy.lungs.sum(axis=(0, 1))
    shares = areas / max(1, areas.max())
    height = float((shares >= LUNG_SLICE_SHARE).sum()) * spacing_of(anatomy.affine)[2]
    above, below = (float(shares[end]) if shares[end] >= LUNG_SLICE_SHARE else 0.0 for end in (-1, 0))
    return Look(region.name, region.reason, region.lung_ml, region.body_ml, height, above, below)


# ------------------------------------------------------------------------------------------------------------ choosing


def choose_series(
    candidates: Sequence[Candidate], look: Looking, settings: SelectionSettings | None = None
) -> tuple[Candidate, ...]:
    """Look at the best candidates until the choice is certain.

    A candidate that cannot be read, or shows no chest, gives way to the next; one whose lungs are cut gives way to one
    that shows more of them.

    Args:
        candidates: as ``rank_series`` gives them.
        look: reads one series; what it refuses is out, with that reason.

    Returns:
        Every candidate: the chosen ones, then the others, best first, each with its reason.
    """
    settings = settings or SelectionSettings()
    search = _Search(list(candidates), look, settings)
    chosen: list[Candidate] = []
    while len(chosen) < settings.series_per_study and (best := search.find_best(chosen)) is not None:
        chosen.append(best)
    ids = {one.series.series_id for one in chosen}
    others = [_explain(one, chosen) for one in search.candidates if one.series.series_id not in ids]
    others.sort(key=lambda one: (one.score == 0, -one.score))
    return (*(replace(one, is_chosen=True, detail=_praise(one)) for one in chosen), *others)


class _Search:
    """The candidates of one study while some of them are looked at."""

    def __init__(self, candidates: list[Candidate], look: Looking, settings: SelectionSettings) -> None:
        self.candidates = candidates
        self._look = look
        self._settings = settings
        self._seen: set[str] = set()

    def find_best(self, chosen: Collection[Candidate]) -> Candidate | None:
        """Find the best candidate beside those chosen already, looking at no more of them than it takes."""
        while True:
            taken = {one.series.series_id for one in chosen}
            running = [one for one in self.candidates if not one.reason and one.series.series_id not in taken]
            if len(self._seen) >= self._settings.max_looks:
                running = [one for one in running if one.series.series_id in self._seen]
            if not running:
                return None
            # What was seen comes before what promises as much.
            best = max(running, key=lambda one: (_score_beside(one, chosen), one.series.series_id in self._seen))
            if best.series.series_id in self._seen:
                return best
            self._look_at(best)

    def _look_at(self, candidate: Candidate) -> None:
        self._seen.add(candidate.series.series_id)
        place, seen = self.candidates.index(candidate), self._look(candidate.series)
        if not isinstance(seen, Look):
            self.candidates[place] = _refuse(candidate, seen)
            return
        measured = replace(candidate, figures=candidate.figures + _figures_of(seen))
        if (refusal := _refuse_look(seen, self._settings)) is not None:
            self.candidates[place] = _refuse(measured, refusal)
            return
        cut = round(CUT_COST * (seen.cut_above + seen.cut_below), 3)
        charged = _charge(measured, "cut lungs", max(0.0, cut - _charged(measured, "cut lungs")))
        self.candidates[place] = _charge(charged, "doubt", DOUBT_COST * bool(seen.doubt))
        if cut:
            self._charge_what_shows_no_more(candidate, cut)

    def _charge_what_shows_no_more(self, seen: Candidate, cut: float) -> None:
        """Charge a cut to what lies within the same field of view: to look at it again would show the same."""
        for place, one in enumerate(self.candidates):
            if one.series.series_id not in self._seen and not one.reason and _lies_within(one, seen):
                self.candidates[place] = _charge(one, "cut lungs", max(0.0, cut - _charged(one, "cut lungs")))


def _score_beside(candidate: Candidate, chosen: Collection[Candidate]) -> float:
    is_repeated = any(candidate.kernel == one.kernel for one in chosen)
    return candidate.score - SAME_KERNEL_COST * is_repeated


def _refuse_look(look: Look, settings: SelectionSettings) -> Refusal | None:
    if not settings.require_chest:
        return None
    if look.region != "chest":
        return "not chest", look.reason
    is_cut = max(look.cut_above, look.cut_below) > 0
    if is_cut and look.lung_height_mm < settings.min_lung_height_mm:
        wanted = f"expected {settings.min_lung_height_mm:g} mm or whole lungs"
        return "partial chest", f"{look.lung_height_mm:.0f} mm of lungs in view, cut at an end; {wanted}"
    return None


def _figures_of(look: Look) -> tuple[tuple[str, float], ...]:
    return (
        ("lung_ml", round(look.lung_ml)),
        ("body_ml", round(look.body_ml)),
        ("lung_height_mm", round(look.lung_height_mm)),
        ("cut_above", round(look.cut_above, 2)),
        ("cut_below", round(look.cut_below, 2)),
    )


def _refuse(candidate: Candidate, refusal: Refusal) -> Candidate:
    reason, detail = refusal
    return replace(candidate, score=0.0, reason=reason, detail=detail)


def _charge(candidate: Candidate, what: str, cost: float) -> Candidate:
    """Lower a candidate's score by what a shortcoming costs."""
    if not cost:
        return candidate
    name, figures = f"cost of {what}", dict(candidate.figures)
    figures[name] = round(figures.get(name, 0.0) + cost, 3)
    return replace(candidate, score=round(max(0.0, candidate.score - cost), 3), figures=tuple(figures.items()))


def _charged(candidate: Candidate, what: str) -> float:
    return dict(candidate.figures).get(f"cost of {what}", 0.0)


def _lies_within(inner: Candidate, outer: Candidate) -> bool:
    if inner.positions_mm is None or outer.positions_mm is None:
        return False
    (low, high), (lowest, highest) = inner.positions_mm, outer.positions_mm
    return low >= lowest - SAME_PLACE_MM and high <= highest + SAME_PLACE_MM


def _explain(candidate: Candidate, chosen: Sequence[Candidate]) -> Candidate:
    """Say why a candidate that nothing speaks against was not chosen."""
    if candidate.reason:
        return candidate
    if not chosen:
        return replace(candidate, reason="not looked at", detail="too many better ones could not be used")
    detail = f"score {candidate.score:.2f}, {chosen[-1].score:.2f} was chosen"
    return replace(candidate, reason="worse than another", detail=detail)


def _praise(candidate: Candidate) -> str:
    told = [_TOLD[name].format(value) for name, value in candidate.figures if name in _TOLD]
    return f"score {candidate.score:.2f}: {', '.join(told)}"


_TOLD = {
    "slices": "{:.0f} slices",
    "thickness_mm": "{:.3g} mm thick",
    "height_mm": "{:.0f} mm high",
    "lung_ml": "{:.0f} ml of lung",
}
