"""Draw phantom patients and studies: who they are, what they have, how they are scanned.

In: a seed, a number of studies, a matrix size. Out: ``StudyPlan`` records, each drawn from streams of its own, so that
study i is the same however many are drawn, by whatever number of workers. Nothing is painted or written here.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from medfinder.records import Finding, Laterality, Sex
from medfinder.sources.phantoms.vocabulary import FINDINGS, LOBES

# Ours: of each eight studies two are later ones of patients who had one before: six patients have eight studies.
_BLOCK, _FOLLOW_UPS = 8, 2

# Streams of one seed, so that drawing more of one thing never moves another.
_PATIENT, _STUDY = 1, 2

_NORMAL_SHARE = 0.06
_TWO_VOLUMES_SHARE = 0.1
_CONTRAST_SHARE = 0.4
_SOFT_SHARE = 0.65
_ORIENTATIONS = ("LPS", "RAS", "LAS", "RPS", "LPI")
_INTERCEPTS = (0, -1024, -8192)
_GROWS_WITH_AGE = ("aortic calcification", "coronary calcification", "emphysema", "vertebral collapse")


@dataclass(frozen=True, slots=True)
class PatientPlan:
    """One phantom patient.

    Attributes:
        seed: of the anatomy.
        half_width_mm: from the midline to the skin at the side; half_depth_mm: ... to the skin of the front.
        fat_mm: thickness of the fat under the skin.
        scale: of the organs, about 1.
    """

    patient_id: str
    seed: int
    sex: Sex
    age_years: int
    half_width_mm: float
    half_depth_mm: float
    fat_mm: float
    scale: float


@dataclass(frozen=True, slots=True)
class VolumePlan:
    """How one volume of a study is scanned and stored.

    Attributes:
        kernel: ``"soft"`` or ``"lung"`` (sharp and noisy).
        spacing_mm, shape: along x, y, z of the RAS+ frame.
        orientation: axis codes that the file is stored in.
        intercept: HU of stored value 0.
        noise_hu: standard deviation of the scanner's noise, about.
    """

    series_id: str
    kernel: str
    spacing_mm: tuple[float, float, float]
    shape: tuple[int, int, int]
    orientation: str
    intercept: int
    noise_hu: float
    seed: int


@dataclass(frozen=True, slots=True)
class StudyPlan:
    """One phantom study: what a report would say and how it was scanned."""

    study_id: str
    patient: PatientPlan
    date_offset_days: int
    findings: tuple[Finding, ...]
    contrast: bool
    seed: int
    volumes: tuple[VolumePlan, ...]


def draw_studies(*, studies: int, seed: int, size: int = 64) -> Iterator[StudyPlan]:
    """Yield the first ``studies`` plans of a seed.

    Args:
        size: voxels along each axis.
    """
    for number in range(studies):
        yield draw_study(number, seed=seed, size=size)


def draw_study(number: int, *, seed: int, size: int = 64) -> StudyPlan:
    """Draw study ``number`` of a seed, whatever came before it."""
    first = _BLOCK - _FOLLOW_UPS
    is_follow_up = number % _BLOCK >= first
    owner = number - _FOLLOW_UPS if is_follow_up else number
    patient = _draw_patient(owner, seed)
    rng = np.random.default_rng([seed, _STUDY, number])
    findings = draw_findings(patient, rng)
    contrast = bool(rng.random() < _CONTRAST_SHARE)
    count = 2 if rng.random() < _TWO_VOLUMES_SHARE else 1
    days = int(rng.integers(20, 900)) if is_follow_up else 0
    volumes = [_draw_volume(patient, place, size, rng) for place in range(count)]
    if count == 2:
        # A second volume is the same chest with the other kernel.
        volumes[1] = replace(volumes[1], kernel="lung" if volumes[0].kernel == "soft" else "soft")
    return StudyPlan(
        study_id=f"phantom-{seed}-s{number:05d}",
        patient=patient,
        date_offset_days=days,
        findings=findings,
        contrast=contrast,
        volumes=tuple(volumes),
        seed=int(rng.integers(2**31)),
    )


def _draw_patient(number: int, seed: int) -> PatientPlan:
    rng = np.random.default_rng([seed, _PATIENT, number])
    sex: Sex = "F" if rng.random() < 0.45 else "M"
    scale = (0.95 if sex == "F" else 1.03) + 0.05 * (rng.random() - 0.5)
    fat = 8 + 28 * rng.random() * rng.random()
    return PatientPlan(
        patient_id=f"phantom-{seed}-p{number:05d}",
        seed=int(rng.integers(2**31)),
        sex=sex,
        age_years=int(25 + 65 * max(rng.random(), rng.random())),
        half_width_mm=round(138 * scale + fat, 3),
        half_depth_mm=round(95 * scale + 0.8 * fat, 3),
        fat_mm=round(fat, 3),
        scale=round(scale, 4),
    )


def _draw_volume(patient: PatientPlan, place: int, size: int, rng: np.random.Generator) -> VolumePlan:
    field_of_view = 2 * max(patient.half_width_mm, patient.half_depth_mm) + 10 + 40 * rng.random()
    height = 310 * patient.scale + 40 * rng.random()
    kernel = "soft" if rng.random() < _SOFT_SHARE else "lung"
    return VolumePlan(
        series_id=f"v{place + 1}",
        kernel=kernel,
        spacing_mm=(round(field_of_view / size, 4), round(field_of_view / size, 4), round(height / size, 4)),
        shape=(size, size, size),
        orientation=_pick(_ORIENTATIONS, rng),
        intercept=_INTERCEPTS[int(rng.integers(len(_INTERCEPTS)))],
        noise_hu=round(8 + 14 * rng.random(), 3),
        seed=int(rng.integers(2**31)),
    )


def draw_findings(patient: PatientPlan, rng: np.random.Generator) -> tuple[Finding, ...]:
    """Draw what a patient has: base rates, moved by age, sex and by what goes together in life."""
    if rng.random() < _NORMAL_SHARE:
        return ()
    have: dict[str, Finding] = {}
    # What makes other things likelier is drawn before them.
    for name in dict.fromkeys(["cardiomegaly", "mass", "aortic calcification", *FINDINGS]):
        if rng.random() < _chance(name, patient, have):
            have[name] = _draw_finding(name, rng)
    _settle_pleura(have, rng)
    return tuple(have.values())


def _chance(name: str, patient: PatientPlan, have: dict[str, Finding]) -> float:
    kind = FINDINGS[name]
    if kind.sex and kind.sex != patient.sex:
        return 0.0
    chance = kind.base_rate
    if name in _GROWS_WITH_AGE:
        chance *= 0.3 + 1.4 * (patient.age_years - 25) / 65
    drivers = {
        "coronary calcification": ("aortic calcification", 0.3),
        "adenopathy": ("mass", 0.3),
        "pleural effusion": ("cardiomegaly", 0.25),
    }
    if name in drivers and drivers[name][0] in have:
        chance += drivers[name][1]
    return chance


def _settle_pleura(have: dict[str, Finding], rng: np.random.Generator) -> None:
    """Let effusions press the lower lobe, and nothing else; keep air and fluid of one side apart."""
    effusion, atelectasis = have.get("pleural effusion"), have.get("atelectasis")
    if effusion is not None and rng.random() < 0.55:
        side = effusion.laterality if effusion.laterality != "bilateral" else _side(("left", "right"), rng)
        have["atelectasis"] = Finding("atelectasis", laterality=side, location="lower lobe", grade="passive")
    elif atelectasis is not None and atelectasis.grade == "passive":
        have["atelectasis"] = Finding(
            "atelectasis", laterality=atelectasis.laterality, location="lower lobe", grade="laminar"
        )
    pneumothorax = have.get("pneumothorax")
    if pneumothorax and effusion and effusion.laterality in (pneumothorax.laterality, "bilateral"):
        del have["pneumothorax"]


def _draw_finding(name: str, rng: np.random.Generator) -> Finding:
    kind = FINDINGS[name]
    side = _side(kind.sides, rng) if kind.sides else None
    location: str | None = None
    if kind.in_lobes and side == "bilateral":
        location = _pick(("peripheral", "diffuse"), rng) if name == "ground-glass opacity" else "lower lobes"
    elif kind.in_lobes:
        location = _pick(LOBES[str(side)], rng)
    elif kind.locations:
        location = _pick(kind.locations, rng)
    if name == "adenopathy" and location != "mediastinal":
        side = _side(("left", "right"), rng)
    return Finding(
        name,
        laterality=side,
        location=location,
        size_mm=_draw_size(kind.size_mm, rng) if kind.size_mm else None,
        count=1 + int(kind.max_count * rng.random() * rng.random()) if kind.max_count > 1 else None,
        grade=_pick(kind.grades, rng) if kind.grades else None,
    )


def _draw_size(size_mm: tuple[float, float], rng: np.random.Generator) -> float:
    """Draw whole millimetres, small ones more often."""
    low, high = size_mm
    return float(int(low + (high - low) * max(rng.random() * rng.random(), 0.6 * rng.random())))


def _pick(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]


def _side(options: Sequence[str], rng: np.random.Generator) -> Laterality:
    sides: dict[str, Laterality] = {"left": "left", "right": "right", "bilateral": "bilateral"}
    return sides[_pick(options, rng)]
