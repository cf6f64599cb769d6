"""Which studies of a source are the same examination under two names, by their voxels.

In: all cases with the checksums of their volumes. Out: a doubt that holds each case whose volume another study brought
before it, and which patients are one for the split, so that no examination both trains and tests. Nothing is refused.
Volumes are compared after standardisation and to the last bit: a copy that was resampled or cut before is not seen.
"""

from collections.abc import Sequence

from medfinder.curation.dataset import Figures
from medfinder.records import Case, Doubt


def doubt_same_voxels(rows: Sequence[tuple[Case, Figures]]) -> dict[str, Doubt]:
    """Doubt every case whose volume is that of a study before it.

    Args:
        rows: in the order of the source; the study that comes first stands.

    Returns:
        Doubts by case id.
    """
    first: dict[str, str] = {}
    doubts = {}
    for case, figures in rows:
        owner = first.setdefault(figures.volume_sha256, case.study_id)
        if owner != case.study_id:
            detail = f"the same volume as that of study {owner}, voxel for voxel; one examination may have come twice"
            doubts[case.case_id] = Doubt("pairing", "same voxels as another study", detail, holds=True)
    return doubts


def join_patients(rows: Sequence[tuple[Case, Figures]]) -> dict[str, str]:
    """Name the group of each patient: those who share a volume are one, under the first of their names."""
    groups = {case.patient_id: {case.patient_id} for case, _ in rows}
    owners: dict[str, str] = {}
    for case, figures in rows:
        mine, others = groups[case.patient_id], groups[owners.setdefault(figures.volume_sha256, case.patient_id)]
        if mine is not others:
            mine |= others
            groups.update(dict.fromkeys(others, mine))
    return {patient: min(group) for patient, group in groups.items()}
