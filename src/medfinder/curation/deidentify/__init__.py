"""De-identification: report text, ids and dates under a key, DICOM, and the audit of a finished dataset.

In: what tells who somebody is. Out: the same without it. Presidio and pydicom are loaded where they are used.
"""

from medfinder.curation.deidentify.keys import Key, pseudonym, rekey, rekey_dropped, shift_days
from medfinder.curation.deidentify.spans import Span
from medfinder.curation.deidentify.text import CleanText, deidentify_text, find_phi

__all__ = [
    "CleanText",
    "Key",
    "Span",
    "deidentify_text",
    "find_phi",
    "pseudonym",
    "rekey",
    "rekey_dropped",
    "shift_days",
]
