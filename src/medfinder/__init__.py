"""medfinder: find 3-D CT examinations by what a radiologist would say about them.

Public names are looked up on first use, so that ``import medfinder`` loads neither NumPy nor torch.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "MedFinderError": "medfinder.errors",
    "Finding": "medfinder.records",
    "Study": "medfinder.records",
    "Case": "medfinder.records",
    "Dropped": "medfinder.records",
    "Query": "medfinder.records",
    "Hit": "medfinder.records",
    "Volume": "medfinder.volume",
    "Grid": "medfinder.volume",
    "read_volume": "medfinder.volume",
    "standardise": "medfinder.volume",
    "standardise_file": "medfinder.volume",
    "curate": "medfinder.curation.curate",
    "load_model": "medfinder.models.checkpoint",
    "SearchIndex": "medfinder.retrieval.index",
    "Searcher": "medfinder.retrieval.search",
    "Client": "medfinder.client",
}

__all__ = sorted([*_PUBLIC, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'medfinder' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return __all__
