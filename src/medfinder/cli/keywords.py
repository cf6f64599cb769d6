"""What words mean, and what experts say: keywords, diagnoses."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medfinder.cli.face import AsJson, app, examples, existing, plain_console, print_json, read_text, remark
from medfinder.errors import ConfigError

if TYPE_CHECKING:
    from medfinder.curation.diagnoses import Imported


@app.command(
    epilog=examples(
        "medfinder keywords",
        'medfinder keywords "No pleural effusion. 8 mm nodule in the right upper lobe."',
        "medfinder keywords @informe.txt --language es --json",
        'medfinder keywords --labels "ground glass pattern, NSG tube, nipple shadow"',
        "medfinder keywords --labels labels_covid_posi.tsv",
    )
)
def keywords(
    text: Annotated[str | None, typer.Argument(help="A report, or @FILE; without it the library is listed.")] = None,
    language: Annotated[str, typer.Option(help="Of the report: en or es.")] = "en",
    labels: Annotated[
        str | None, typer.Option(help="Label names of PadChest or BIMCV, with commas between, or their table.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what is found in a report, what label names mean, or the keyword library itself."""
    from medfinder.curation.keywords import extract_findings, map_labels
    from medfinder.curation.keywords.library import check_language

    spoken = check_language(language)
    if text is not None and labels is not None:
        raise ConfigError("a report and --labels are two questions; ask one of them")
    if labels is not None and _is_table(labels):
        _show_label_table(Path(labels), as_json)
    elif labels is not None:
        found, unmapped = map_labels(labels.split(","))
        if unmapped:
            remark(f"no keyword for: {', '.join(unmapped)}")
        _show([asdict(finding) for finding in found], _FINDING, as_json=as_json)
    elif text is not None:
        findings = extract_findings(read_text(text) or "", spoken)
        _show([asdict(finding) for finding in findings], _FINDING, as_json=as_json)
    else:
        _show(_library(), ("name", "es", "abbreviations", "parent", "cui"), as_json=as_json)


@app.command(
    epilog=examples(
        "medfinder diagnoses dataset",
        "medfinder diagnoses dataset --import readers.csv --adjudicator senior",
        "medfinder diagnoses dataset --export diagnoses.csv",
    )
)
def diagnoses(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder.")],
    table: Annotated[Path | None, typer.Option("--import", help="Table to take in, CSV or Parquet.")] = None,
    export: Annotated[Path | None, typer.Option(help="Write all diagnoses here, CSV or Parquet.")] = None,
    adjudicator: Annotated[str | None, typer.Option(help="Reader who decides where there is no majority.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the intervals' bootstrap.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Take in and give out what experts diagnosed, and tell how well they agree."""
    import numpy as np

    from medfinder.curation.agreement import measure_agreement
    from medfinder.curation.dataset import Dataset
    from medfinder.curation.diagnoses import (
        count_settlements,
        import_diagnoses,
        list_for_agreement,
        open_store,
        write_diagnoses,
    )

    case_ids = {case.case_id for case, _ in Dataset.open(dataset).all_rows()}
    if table is not None:
        imported = import_diagnoses(existing(table), dataset, case_ids=case_ids)
        _tell_import(imported)
    known = open_store(dataset).diagnoses
    if export is not None:
        write_diagnoses(known, export)
        remark(f"{len(known)} diagnoses written to {export}")
    agreement = measure_agreement(list_for_agreement(dataset), rng=np.random.default_rng(seed), adjudicator=adjudicator)
    settled = count_settlements(known, adjudicator=adjudicator)
    in_sight = sum(bool(diagnosis.report_shown) for diagnosis in known)
    if as_json:
        told = {
            "diagnoses": len(known),
            "report_shown": in_sight,
            "settled": settled,
            "agreement": [asdict(row) for row in agreement],
        }
        print_json({**told, "import": asdict(imported)} if table is not None else told)
        return
    if not known:
        remark(f"no diagnosis yet: take a table in with --import, or diagnose by: medfinder review {dataset}")
        return
    remark(f"{len(known)} diagnoses, {in_sight} of them said with the report in sight")
    remark("settled: " + ", ".join(f"{how} {count}" for how, count in settled.items()))
    _show([asdict(row) for row in agreement], tuple(asdict(agreement[0])), as_json=False)


_FINDING = ("name", "status", "laterality", "location", "size_mm")


def _is_table(labels: str) -> bool:
    return Path(labels).suffix.lower() in (".csv", ".tsv", ".txt") or Path(labels).exists()


def _show_label_table(path: Path, as_json: bool) -> None:
    from medfinder.curation.keywords.label_table import count_labels

    table = count_labels(path)
    rows, unmapped = [asdict(one) for one in table.counts], {one.name: one.rows for one in table.unmapped}
    if as_json:
        print_json({"rows": table.rows, "labels": rows, "unmapped": unmapped})
        return
    _show(rows, ("name", "kind", "rows", "keyword", "status"), as_json=False)
    if unmapped:
        remark("no keyword for: " + ", ".join(f"{name} {count}" for name, count in unmapped.items()))


def _library() -> list[dict[str, Any]]:
    from medfinder.curation.keywords import KEYWORDS

    rows = ({**asdict(keyword), "es": keyword.names_es[0]} for keyword in KEYWORDS.values())
    return [{**row, "abbreviations": ", ".join(row["abbreviations"])} for row in rows]


def _tell_import(imported: "Imported") -> None:
    counts = {name: count for name, count in asdict(imported).items() if name != "refused"}
    remark(", ".join(f"{name} {count}" for name, count in counts.items()) + f", refused {len(imported.refused)}")
    for refusal in imported.refused[:20]:
        remark(f"row {refusal.row}: {refusal.reason}: {refusal.detail}")
    if len(imported.refused) > 20:
        remark(f"... and {len(imported.refused) - 20} more rows; --json lists all of them")


def _show(rows: Sequence[dict[str, Any]], columns: Iterable[str], *, as_json: bool) -> None:
    from rich.table import Table

    if as_json:
        print_json(rows)
        return
    if not rows:
        remark("no finding is named there")
        return
    table = Table(box=None)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row[column]) for column in columns))
    plain_console().print(table)


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)
