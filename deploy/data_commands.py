"""These commands move data in and out: export, import, dead-letters and download-model."""

import asyncio
import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import typer
from psycopg import AsyncConnection
from psycopg.rows import DictRow

from deploy.command_line import DataDir, Json, add_deprecated_name, existing_installation, with_database
from schemas.errors import StartError
from schemas.settings import Settings, load

if TYPE_CHECKING:
    from deploy.datasets.import_votes import ImportReport

app = typer.Typer()

TIME_FORMATS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d %H:%M:%S"]


@app.command()
def export(
    layout: Annotated[
        str,
        typer.Option(
            "--format", help="jsonl (everything), or a TRL layout: preference, unpaired, prompt-completion."
        ),
    ] = "jsonl",
    output: Annotated[
        str | None,
        typer.Option(help="A .jsonl or .parquet file, or a URL such as s3://…; default: standard output."),
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option(
            help="Of a TRL layout: all rows as text or messages. Default: as imported, else messages."
        ),
    ] = None,
    since: Annotated[
        datetime | None, typer.Option(help="Only votes since this time (UTC).", formats=TIME_FORMATS)
    ] = None,
    until: Annotated[
        datetime | None, typer.Option(help="Only votes before this time (UTC).", formats=TIME_FORMATS)
    ] = None,
    kind: Annotated[
        Literal["thumb", "ranking", "edit", "signal"] | None,
        typer.Option("--type", help="Only votes of this type."),
    ] = None,
    value: Annotated[
        Literal["up", "down", "none", "regenerated", "copied", "shared", "abandoned"] | None,
        typer.Option(help="Only votes that say this; none: none is good."),
    ] = None,
    policy: Annotated[str | None, typer.Option(help="Only votes on replies of this policy.")] = None,
    user: Annotated[str | None, typer.Option(help="Only votes of this user: a name or a pseudonym.")] = None,
    reason: Annotated[str | None, typer.Option(help="Only votes with this reason.")] = None,
    tag: Annotated[
        list[str] | None,
        typer.Option(help="Only votes in chats with this metadata: key=value; repeatable."),
    ] = None,
    text: Annotated[
        str | None, typer.Option(help="Only votes with these words in the message, the reply or the comment.")
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Write the feedback as JSON Lines or Parquet."""
    from feedback.export import TABLE, Shape, everything, rows
    from feedback.layouts import LAYOUTS
    from feedback.row_writer import write_rows
    from feedback.vote_filter import Filter
    from serving.keys import ensure_signing_secret
    from serving.token_signer import TokenSigner

    known = next((name for name in LAYOUTS if name == layout), None)
    if known is None and layout != "jsonl":
        raise StartError(f"There is no format {layout}. Use jsonl, {', '.join(LAYOUTS)}.")
    shapes: tuple[Shape, ...] = get_args(Shape)
    wanted = next((name for name in shapes if name == shape), None)
    if shape is not None and (wanted is None or known is None):
        raise StartError(f"--shape is {' or '.join(shapes)}, of the formats {', '.join(LAYOUTS)}.")
    for each in tag or ():
        if "=" not in each:
            raise StartError(f"--tag {each}: write it as key=value.")

    async def run(connection: AsyncConnection[DictRow], settings: Settings) -> None:
        raters = None
        if user is not None:
            raters = TokenSigner(await ensure_signing_secret(connection)).pseudonyms(settings.project, user)
        only = Filter(
            since=since and since.replace(tzinfo=UTC),
            until=until and until.replace(tzinfo=UTC),
            type=kind, value=value, reason=reason, policy=policy, tags=tag or [], raters=raters, text=text,
        )  # fmt: skip
        if known is not None:
            await write_rows(rows(connection, settings.project, known, wanted, only), output)
        else:
            await write_rows(everything(connection, settings.project, only), output, TABLE)

    with_database(data_dir, run)


@app.command("import")
def import_votes(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="Files or folders of JSON, CSV, Parquet or Arrow, compressed or not; - is standard input."
        ),
    ],
    rater: Annotated[str | None, typer.Option(help="The rater of the votes; default: the file name.")] = None,
    threshold: Annotated[
        float | None, typer.Option(help="The rating from which on a reply is good, for rows with a rating.")
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            help="TensorZero's metric, Langfuse's score or Argilla's question that says what is good."
        ),
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(
            "--format", help="prompt-completion: the rows are demonstrations to learn from, not votes."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be imported.")] = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Import the rows of data sets as votes or demonstrations, once each; exit code 1 if one is refused."""
    from deploy.datasets.import_votes import FileOfRows, Source, import_from
    from deploy.datasets.langfuse import Langfuse
    from deploy.datasets.row_files import files_in
    from deploy.datasets.tensorzero import TensorZero
    from deploy.local.prepare import create_keys, prepared

    if layout not in (None, "prompt-completion"):
        raise StartError("--format is prompt-completion, or left out: the columns then tell what a file is.")
    demonstrations, complete = layout is not None, True
    with prepared(load(data_dir=data_dir)) as settings:
        create_keys(settings)
        sources: list[tuple[Path | str, Source]] = []
        others = files_in(files)
        for service in () if demonstrations else (TensorZero, Langfuse):
            tables, others = service.of(others, metric, threshold)
            sources += [(service.name, tables)] if tables else []
        sources += [
            (file, FileOfRows(file, metric, threshold, demonstrations=demonstrations)) for file in others
        ]
        for file, source in sources:
            report = asyncio.run(
                import_from(settings, source, rater or f"import:{source.name}", dry_run=dry_run)
            )
            complete = complete and report.complete
            if as_json:
                print(json.dumps({"file": str(file), **asdict(report)}))
            else:
                _print_report(file, report, dry_run)
    raise typer.Exit(0 if complete else 1)


def _print_report(file: Path | str, report: "ImportReport", dry_run: bool) -> None:
    print(f"{file}: {report.layout or 'no row can be read'}")
    would = "would be imported" if dry_run else "imported"
    print(f"{report.imported} rows {would}, {report.left_out} refused.")
    for row, reason in report.refused[:20]:
        print(f"  row {row}: {reason}")
    if report.broken_off is not None:
        print(f"The rest was not read: {report.broken_off}")


@app.command("dead-letters")
def dead_letters(
    retry: Annotated[bool, typer.Option("--retry", help="Return them to the trainer first.")] = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """List the oldest 1,000 events that could not be read or stored, and why; exit code 1 if there is one."""
    from deploy.local.postgres import database
    from schemas.database import open_pool
    from trainer.data import dead_letters as letters

    with database(existing_installation(data_dir)) as url, open_pool(url) as pool:
        retried = letters.retry(pool) if retry else 0
        listed, left = letters.dead_letters(pool), letters.count(pool)
    if as_json:
        print(json.dumps([asdict(letter) for letter in listed], default=str))
    else:
        if retry:
            print(f"{retried} retried, {left} left.")
        for letter in listed:
            place = f"{letter.log}:{letter.partition} before {letter.position}"
            print(f"{letter.created_at:%Y-%m-%d %H:%M:%S}  {place}: {letter.reason}\n  {letter.payload}")
        if left > len(listed):
            print(f"{left - len(listed)} more.")
    raise typer.Exit(1 if left else 0)


@app.command("download-model")
def download_model(
    directory: Annotated[Path, typer.Argument(help="Where engines and replicas read the model.")],
) -> None:
    """Download the base model into a directory, unless it is there already."""
    from deploy.local.base_model import download_model as download

    model = load().model
    download(model, directory)
    print(f"{model} is in {directory}.")


add_deprecated_name(app, "fetch", "download-model", download_model)
