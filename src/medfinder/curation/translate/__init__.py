"""Spanish reports into English: by an OpenAI-compatible endpoint, local weights, Apertium with a glossary, or a file.

``translate_all`` is the way in; what comes out is judged by ``medfinder.curation.translation_audit``.
"""

from medfinder.curation.translate.run import TRANSLATORS, Estimate, check_engine, estimate, translate_all
from medfinder.curation.translate.settings import Translation, TranslationSettings, digest_text

__all__ = [
    "TRANSLATORS",
    "Estimate",
    "Translation",
    "TranslationSettings",
    "check_engine",
    "digest_text",
    "estimate",
    "translate_all",
]
