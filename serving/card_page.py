"""A policy's card is read as Markdown, or as an HTML page that needs nothing else."""

import base64
import hashlib
from collections.abc import Iterator
from html import escape
from typing import Any

FEWEST = 5
"""People below which the card does not count votes."""

_STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.55 system-ui, sans-serif; max-width: 44rem; margin: 2rem auto; padding: 0 1rem;
color: light-dark(#1c2024, #e8e6e1); background: light-dark(#fff, #161513); overflow-wrap: anywhere }
h1 { font-size: 1.6rem } h2 { font-size: 1.15rem; margin-top: 2rem }
"""
_STYLE_DIGEST = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

CONTENT_POLICY = f"default-src 'none'; style-src 'sha256-{_STYLE_DIGEST}'; frame-ancestors 'none'"
"""The Content-Security-Policy under which the page has its style, and nothing else."""

Section = tuple[str, str, list[str]]


def markdown(card: dict[str, Any]) -> str:
    """Returns a card as a text."""
    parts = [f"# Policy {card['policy']}", _about(card)]
    for heading, text, items in _sections(card):
        parts += [f"## {heading}", *filter(None, [text, "\n".join(f"- {item}" for item in items)])]
    return "\n\n".join(parts) + "\n"


def html(card: dict[str, Any]) -> str:
    """Returns a card as a page."""
    title = f"Policy {escape(card['policy'])}"
    parts = [f"<h1>{title}</h1>", f"<p>{escape(_about(card))}</p>"]
    for heading, text, items in _sections(card):
        listed = "".join(f"<li>{escape(item)}</li>" for item in items)
        parts += [f"<h2>{heading}</h2>", f"<p>{escape(text)}</p>", f"<ul>{listed}</ul>" if items else ""]
    return (
        '<!doctype html>\n<html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style>\n<main>" + "\n".join(parts) + "</main>\n</html>\n"
    )


def _about(card: dict[str, Any]) -> str:
    return f"A LoRA adapter of {card['base_model']}, made {card['made_at'][:10]}; it is {card['state']}."


def _sections(card: dict[str, Any]) -> Iterator[Section]:
    """Yields the heading, the text and the list of each section."""
    learned = card["learned_from"]
    if learned["votes"] is None:
        said = f"New votes of fewer than {FEWEST} people, or none."
    else:
        said = f"{learned['votes']} new votes of {learned['people']} people."
    kinds = [
        f"{row['votes']} of type {row['type']}" + (f" ({row['value']})" if row["value"] else "")
        for row in learned["kinds"]
    ]
    before = ", ".join(card["lineage"]) or "nothing"
    yield "What it learned from", said, [*kinds, f"Before that: {before}"]
    checks = [
        f"{each['name']}: {each['found']} (limit {each['limit']}): {each['state']}" for each in card["checks"]
    ]
    yield "How it was judged", card["verdict"], checks
    yield "Who was answered by it", "" if card["rollouts"] else "Nobody.", list(_rollouts(card))
    yield "Opt out", card["opt_out"], []
    yield "Digests", "", [f"The policy: {card['digest']}", f"Its base: {card['base_digest']}"]


def _rollouts(card: dict[str, Any]) -> Iterator[str]:
    for each in card["rollouts"]:
        ended = f" until {each['ended_at'][:10]}" if each["ended_at"] else ""
        why = f": {each['reason']}" if each["reason"] else ""
        yield f"{each['share']:.0%} from {each['started_at'][:10]}{ended}, {each['state']}{why}"
