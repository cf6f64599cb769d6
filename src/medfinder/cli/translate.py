"""Spanish reports into English, and whether the English says the same: translate, audit-translation."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medfinder.cli.face import AsJson, app, examples, print_json, progress_bar, remark, show_facts
from medfinder.errors import ConfigError

if TYPE_CHECKING:
    from medfinder.curation.translate.table import TableAudit


@app.command(
    epilog=examples(
        "medfinder translate reports.csv translated.csv --engine apertium",
        "medfinder translate reports.csv translated.csv --engine openai --model gpt-4o --dry-run",
        "medfinder translate reports.csv translated.csv --engine openai --base-url http://localhost:11434/v1 "
        "--model llama3.1 --deidentified",
        "medfinder translate reports.csv translated.csv --engine marian --path opus-mt-es-en",
    )
)
def translate(
    table: Annotated[Path, typer.Argument(help="CSV or TSV file with a column report.")],
    out: Annotated[
        Path, typer.Argument(help="CSV file to write: the same rows with report_en and the audit's doubts.")
    ],
    engine: Annotated[str | None, typer.Option(help="openai, marian, ctranslate2, apertium or recorded.")] = None,
    model: Annotated[str | None, typer.Option(help="What the endpoint calls its model.")] = None,
    base_url: Annotated[
        str | None, typer.Option(help="OpenAI-compatible endpoint; the key stays in OPENAI_API_KEY.")
    ] = None,
    path: Annotated[Path | None, typer.Option(help="Folder of local weights, or the recorded file.")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with translation settings.")] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Translations made so far; a run goes on from it. OUT.cache.jsonl by default.")
    ] = None,
    deidentified: Annotated[
        bool,
        typer.Option("--deidentified", help="My word that no report names a person; needed to send them anywhere."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell texts, tokens and cost; send and write nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Translate the Spanish reports of a table, and audit every translation."""
    from medfinder.config import build_settings, merge, read_toml
    from medfinder.curation.translate import TranslationSettings
    from medfinder.curation.translate.table import estimate_table, translate_table

    options = {"engine": engine, "model": model, "base_url": base_url, "path": path}
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    values = merge(read_toml(config) if config else {}, given)
    settings = build_settings(TranslationSettings, values, where=str(config or "options"))
    if settings.engine == "none":
        raise ConfigError("translate needs --engine: openai, marian, ctranslate2, apertium or recorded")
    kept = cache or out.with_name(f"{out.name}.cache.jsonl")
    if dry_run:
        facts = asdict(estimate_table(table, settings, kept))
        print_json(facts) if as_json else show_facts(facts)
        return
    with progress_bar("translating") as progress:
        made, audit = translate_table(table, out, settings, kept, progress, are_deidentified=deidentified)
    faults: dict[str, int] = {}
    for translation in made.values():
        if translation.fault:
            faults[translation.fault] = faults.get(translation.fault, 0) + 1
    _show(audit, as_json, {"out": str(out), "faults": faults})
    if any(translation.is_rough for translation in made.values()):
        remark("these translations are rough: good to find cases by, not to be read as reports")


@app.command(
    "audit-translation",
    epilog=examples("medfinder audit-translation translated.csv", "medfinder audit-translation release.csv --json"),
)
def audit_translation(
    table: Annotated[Path, typer.Argument(help="CSV or TSV file with the columns report (Spanish) and report_en.")],
    as_json: AsJson = False,
) -> None:
    """Find translations that do not say what their Spanish says: numbers, sides, denials, findings, error texts."""
    from medfinder.curation.translate.table import audit_table

    with progress_bar("auditing") as progress:
        audit = audit_table(table, progress)
    _show(audit, as_json, {})


def _show(audit: "TableAudit", as_json: bool, more: Mapping[str, Any]) -> None:
    if as_json:
        held = [{"row": row, "doubts": [asdict(doubt) for doubt in doubts]} for row, doubts in audit.held.items()]
        facts = {"rows": audit.rows, "untranslated": audit.untranslated, "reasons": dict(audit.reasons)}
        print_json({**more, **facts, "held": held})
        return
    for row, doubts in list(audit.held.items())[:20]:
        remark(f"row {row}: {'; '.join(doubt.reason for doubt in doubts)}")
    show_facts({"translated": audit.rows, "untranslated": audit.untranslated, "held back": len(audit.held)})
    show_facts({**more, **audit.reasons})
