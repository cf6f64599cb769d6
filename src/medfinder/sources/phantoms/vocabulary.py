"""What can be wrong with a phantom: each finding with the attributes that it may carry.

In: nothing. Out: ``FINDINGS``, from which the plan draws, the renderer paints and the report writer speaks. Names are
the canonical keywords of medfinder; base rates imitate the public part of the BIMCV-R table where it tells them
(atelectasis 22%, consolidation 13%, adenopathy 22%) and are ours elsewhere, high enough to be learnt from a thousand
cases.
"""

from dataclasses import dataclass

LOBES = {
    "right": ("upper lobe", "middle lobe", "lower lobe"),
    "left": ("upper lobe", "lingula", "lower lobe"),
}
LEVELS = ("T4", "T5", "T6", "T7", "T8", "T9", "T10", "T11", "T12")


@dataclass(frozen=True, slots=True)
class FindingType:
    """The attributes that a finding of this name may carry.

    Attributes:
        base_rate: share of studies that have it.
        sides: drawn from these; empty when it has no side.
        in_lobes: its location is a lobe of its side.
        locations: its location is one of these; empty when it has none (or a lobe).
        size_mm: range of its greatest diameter; None when no size is told.
        max_count: how many there may be.
        grades: from least to most, or kinds; empty when there are none.
        sex: only this sex can have it; empty for both.
    """

    base_rate: float
    sides: tuple[str, ...] = ()
    in_lobes: bool = False
    locations: tuple[str, ...] = ()
    size_mm: tuple[float, float] | None = None
    max_count: int = 1
    grades: tuple[str, ...] = ()
    sex: str = ""


_ONE_SIDE = ("left", "right")
_ANY_SIDE = ("left", "right", "bilateral")
_DEGREES = ("mild", "moderate", "severe")
_AMOUNTS = ("small", "moderate", "large")

FINDINGS: dict[str, FindingType] = {
    "nodule": FindingType(0.22, _ONE_SIDE, True, size_mm=(6, 29), max_count=3),
    "calcified granuloma": FindingType(0.13, _ONE_SIDE, True, size_mm=(4, 12)),
    "mass": FindingType(0.09, _ONE_SIDE, True, size_mm=(31, 80)),
    "ground-glass opacity": FindingType(
        0.22, _ANY_SIDE, True, grades=_DEGREES
    ),  # bilateral: location "peripheral" or "diffuse" instead of a lobe
    "consolidation": FindingType(0.14, _ONE_SIDE, True, grades=_DEGREES),
    "atelectasis": FindingType(0.22, _ONE_SIDE, True, grades=("laminar", "passive", "lobar")),
    "pleural effusion": FindingType(0.20, _ANY_SIDE, grades=_AMOUNTS),
    "pneumothorax": FindingType(0.06, _ONE_SIDE, grades=_AMOUNTS),
    "emphysema": FindingType(
        0.18, ("bilateral",), locations=("upper lobes", "diffuse"), grades=("centrilobular", "paraseptal")
    ),
    "bronchiectasis": FindingType(0.13, _ANY_SIDE, True),
    "pulmonary fibrosis": FindingType(0.10, ("bilateral",), locations=("bases", "upper lobes"), grades=_DEGREES),
    "cavity": FindingType(0.06, _ONE_SIDE, True, size_mm=(15, 60)),
    "tree-in-bud": FindingType(0.08, _ONE_SIDE, True),
    "cardiomegaly": FindingType(0.16, grades=_DEGREES),
    "pericardial effusion": FindingType(0.09, grades=_AMOUNTS),
    "adenopathy": FindingType(
        0.22, locations=("mediastinal", "hilar", "axillary"), size_mm=(11, 35), max_count=4
    ),  # hilar and axillary ones have a side
    "aortic aneurysm": FindingType(0.08, locations=("ascending aorta", "descending aorta"), size_mm=(42, 70)),
    "aortic calcification": FindingType(0.18, grades=_DEGREES),
    "coronary calcification": FindingType(0.15, grades=_DEGREES),
    "pulmonary artery enlargement": FindingType(0.09, size_mm=(31, 42)),
    "hiatal hernia": FindingType(0.12, grades=_AMOUNTS),
    "rib fracture": FindingType(0.09, _ONE_SIDE, max_count=3),
    "vertebral collapse": FindingType(0.10, locations=LEVELS, grades=_DEGREES),
    "goitre": FindingType(0.08, _ANY_SIDE),
    "mastectomy": FindingType(0.12, _ONE_SIDE, sex="F"),
    "pacemaker": FindingType(0.08, _ONE_SIDE),
    "central venous catheter": FindingType(0.08, _ONE_SIDE),
    "pleural thickening": FindingType(0.10, _ONE_SIDE, locations=("apical", "basal")),
    "hepatic cyst": FindingType(0.09, size_mm=(12, 70)),
    "scoliosis": FindingType(0.09, _ONE_SIDE, grades=_DEGREES),
}
