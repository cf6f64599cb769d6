"""Is a volume fit to be searched: faults that set it aside, doubts for a person to look at, a score, and figures.

In: a volume as it was read, and what its headers say of it. Out: ``Quality``. Nothing is refused here: what is unfit
comes back as a fault with its figures, and whatever fails is one volume's affair.
"""

from medfinder.curation.quality.glance import Glance
from medfinder.curation.quality.judge import Quality, QualitySettings, assess, judge_glance
from medfinder.curation.quality.voxels import Fault, find_missing_voxels, find_small_dimension

__all__ = [
    "Fault",
    "Glance",
    "Quality",
    "QualitySettings",
    "assess",
    "find_missing_voxels",
    "find_small_dimension",
    "judge_glance",
]
