"""This script writes the reference pages of docs/ from the code: settings, commands and metrics.

    python -m docs.generate           # writes the pages
    python -m docs.generate --check   # exit code 1 if a page is not what the code says

`make docs` runs the first, a test in `make check` the second.
"""

import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, get_args

import typer
from annotated_types import Ge, Gt, Le, Lt
from prometheus_client.metrics_core import Metric
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from deploy.cli import app
from feedback.backlog import backlog
from schemas.database_metrics import DatabaseMetrics
from schemas.projects import MOST_PROJECTS
from schemas.settings import KafkaSettings, Settings
from serving.loop_metrics import loop_metrics
from serving.metrics import Metrics
from trainer.records.approval_metrics import approval_metrics
from trainer.records.metrics import training_metrics

DOCS = Path(__file__).parent
NOTICE = "<!-- Written by docs/generate.py from the code: change it there. -->\n"


_Section = tuple[tuple[str, ...], type[BaseModel]]

SETTINGS = """\
# Settings

Settings come from `hearken.toml` in the working directory, then from environment variables, then from flags;
the later wins. `hearken doctor` prints the effective values and where each came from. In `hearken.toml`, a
setting of section `trainer.rl` stands under `[trainer.rl]`. A list in a variable is JSON, or has commas
between its items: `HEARKEN_KAFKA__SERVERS=one:9092,two:9092`."""
COMMANDS = """\
# Commands

Exit codes: 0 done, 1 refused or failed (the reason is on standard error), 2 wrong usage. `--help` of a
command shows the same text; `hearken --version` shows the version."""
METRICS = """\
# Metrics

Prometheus' text format. Serving shows `/metrics` on its own port; trainer and relay show it with
`--metrics-port`. Under `hearken up` serving shows the trainer's, too (`--trainer-metrics`). A counter's
name ends in `_total`; a histogram has `_bucket`, `_sum` and `_count`."""


def pages() -> dict[Path, str]:
    """The text of each generated page."""
    parts = {"settings": settings(), "commands": commands(), "metrics": metrics()}
    return {DOCS / f"{name}.md": NOTICE + "\n".join(lines) + "\n" for name, lines in parts.items()}


def settings() -> Iterator[str]:
    yield SETTINGS
    renamed: list[tuple[str, str]] = []
    for path, model in _sections(Settings, ()):
        yield f"\n## {'.'.join(path) or 'General'}\n\n{_line(model.__doc__)}\n"
        yield "| setting | default | meaning | variable |\n|---|---|---|---|"
        for name, field in model.model_fields.items():
            if not _is_section(field):
                meaning = _cell(f"{field.description}{_limits(field)}")
                yield f"| `{name}` | {_default(field)} | {meaning} | `{_variable(path, name)}` |"
        for old, new in getattr(model, "renamed", {}).items():
            renamed.append((".".join((*path, old)), f"`{'.'.join((*path, new))}`"))
        for old, reason in getattr(model, "removed", {}).items():
            renamed.append((".".join((*path, old)), f"removed: {reason}"))
    if renamed:
        yield "\n## Old names\n\nThis release still reads these names, and warns. The next one does not.\n"
        yield "| old | new |\n|---|---|"
        yield from (f"| `{old}` | {new} |" for old, new in renamed)


def _sections(
    model: type[BaseModel], path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], type[BaseModel]]]:
    yield path, model
    for name, field in model.model_fields.items():
        if _is_section(field):
            yield from _sections(field.annotation, (*path, name))  # type: ignore[arg-type]


def _is_section(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def _variable(path: tuple[str, ...], name: str) -> str:
    return "HEARKEN_" + "__".join((*path, name)).upper()


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    return "none" if value is None else f"`{_cell(str(value))}`"


def _limits(field: FieldInfo) -> str:
    """The choices or bounds of a value, as they follow a description."""
    choices = ", ".join(f"`{choice}`" for choice in _choices(field.annotation))
    words = [f"one of {choices}"] if choices else []
    for limit in field.metadata:
        match limit:
            case Ge(ge=value):
                words.append(f"at least {value}")
            case Gt(gt=value):
                words.append(f"above {value}")
            case Le(le=value):
                words.append(f"at most {value}")
            case Lt(lt=value):
                words.append(f"below {value}")
    return f" ({', '.join(words)})" if words else ""


def _choices(annotation: Any) -> Iterator[str]:
    """The values of a Literal, also of one that may be None."""
    for each in get_args(annotation):
        if isinstance(each, str):
            yield each
        else:
            yield from _choices(each)


def commands() -> Iterator[str]:
    yield COMMANDS
    for name, command in _commands(typer.main.get_command(app)):
        if command.hidden:
            continue
        arguments = [each for each in command.params if each.param_type_name == "argument"]
        options = [each for each in command.params if each.param_type_name == "option" and not each.hidden]
        usage = " ".join(["hearken", name, *map(_usage, arguments)])
        yield f"\n## {name}\n\n    {usage}\n\n{_line(command.help)}\n"
        rows = [(each.name.upper(), each) for each in arguments if each.help]
        rows += [(_names(each), each) for each in options if each.name != "help"]
        if rows:
            yield "| option | meaning | default |\n|---|---|---|"
        for shown, parameter in rows:
            yield f"| `{shown}` | {_cell(parameter.help or '')}{_allowed(parameter)} | {_shown(parameter)} |"


def _commands(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each command with its whole name, those of a group behind it."""
    for name, command in group.commands.items():
        inside = getattr(command, "commands", None)
        if inside is None or command.invoke_without_command:
            yield prefix + name, command
        if inside is not None:
            yield from _commands(command, f"{prefix}{name} ")


def _usage(argument: Any) -> str:
    name: str = argument.name.upper()
    return name if argument.required else f"[{name}]"


def _names(option: Any) -> str:
    """The name of an option, and that of its opposite where it is not made by `no`."""
    opposites = [each for each in option.secondary_opts if not each.startswith("--no-")]
    return "/".join([option.opts[0], *opposites])


def _allowed(parameter: Any) -> str:
    """The choices of an option, as they follow its help."""
    choices = ", ".join(f"`{choice}`" for choice in _choices(parameter.type_descriptor.annotation))
    return f" One of {choices}." if choices else ""


def _shown(parameter: Any) -> str:
    if parameter.required:
        return "required"
    return "" if parameter.default in (None, "") or parameter.is_flag else f"`{parameter.default}`"


def metrics() -> Iterator[str]:
    yield METRICS
    url = "postgresql://"
    everything = Settings(database_url=url, kafka=KafkaSettings(servers=["broker:9092"]))
    yield from _metrics("Serving", "Counted by each serving process.", _serving())
    shown = (
        "Read from Postgres by serving, twice a minute at most: what waits for the trainer, the relay or a"
        f" promotion. Up to {MOST_PROJECTS:,} projects are read, and have samples while something waits in"
        " them; the installation's own always has."
    )
    yield from _metrics("The loop", shown, _families(loop_metrics(everything)))
    asked = (
        f"Read from Postgres by the trainer, twice a minute at most, of up to {MOST_PROJECTS:,} projects, the"
        " installation's own among them."
    )
    trained = _families(training_metrics(url, "default")), _families(approval_metrics(url, "default"))
    yield from _metrics("Trainer", asked, chain(*trained))
    topic = everything.kafka.topic
    yield from _metrics("Relay", "Asked of Postgres by the relay.", _families(backlog(url, topic)))


def _serving() -> Iterator[tuple[Metric, Iterable[str]]]:
    """The metrics that serving counts, with the names of their labels."""
    registry = Metrics().registry
    for family in registry.collect():
        yield family, getattr(registry._names_to_collectors[family.name], "_labelnames", ())


def _families(collector: DatabaseMetrics) -> Iterator[tuple[Metric, Iterable[str]]]:
    """The metrics of a collector and the names of their labels, without its database: every figure is 0."""
    for family in collector.metrics(defaultdict(int)):
        yield family, getattr(family, "_labelnames", ())


def _metrics(title: str, about: str, families: Iterable[tuple[Metric, Iterable[str]]]) -> Iterator[str]:
    yield f"\n## {title}\n\n{about}\n\n| metric | type | labels | meaning |\n|---|---|---|---|"
    for family, names in sorted(families, key=lambda each: each[0].documentation.startswith("Deprecated")):
        suffix = "_total" if family.type == "counter" else ""
        labels = ", ".join(f"`{name}`" for name in names)
        yield f"| `{family.name}{suffix}` | {family.type} | {labels} | {_cell(family.documentation)} |"


def _line(text: str | None) -> str:
    return " ".join((text or "").split())


def _cell(text: str) -> str:
    return _line(text).replace("|", "\\|")


def main() -> None:
    check = "--check" in sys.argv[1:]
    stale = [path for path, text in pages().items() if not path.exists() or path.read_text("utf-8") != text]
    for path in stale:
        if not check:
            path.write_text(pages()[path], "utf-8")
        print(f"{path.relative_to(DOCS.parent)} {'is not current: run `make docs`' if check else 'written'}")
    sys.exit(1 if check and stale else 0)


if __name__ == "__main__":
    main()
