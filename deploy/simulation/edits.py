"""A rule-based style transfer edits replies for simulated users.

It is a pure text transformation: it splits the reply into sentences and list items, removes the styles that
are not wanted, adds those that are missing, and cuts or pads the text to length. It keeps the content as far
as the length allows, above all an answer that must stay. It knows English punctuation only.
"""

import random
import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import NamedTuple

from trainer.starter.styles import FORMAL, HEDGES, SHORT_WORDS, WARM, styles

_EMOJI = re.compile("[\U0001f000-\U0001faff\u2600-\u27bf\u2b50\u2b55\u231a\u231b\ufe0f\u200d]+")
_MARKER = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s*")
_SENTENCES = re.compile(r"(?<=[.!?])\s+")
_WORDS = {"hedging": HEDGES, "formal": FORMAL, "warm": WARM}
_UNWANTED = {
    axis: re.compile(r",?\s*\b(?:my )?(?:" + "|".join(map(re.escape, words)) + r")\b,?", re.IGNORECASE)
    for axis, words in _WORDS.items()
}
_OPENERS = {
    "hedging": ("I think", "Perhaps", "Probably", "I believe"),
    "formal": ("Certainly.", "Indeed.", "As requested."),
    "warm": ("Gladly, friend.", "Lovely question.", "Happy to help."),
    "exclamation": ("Sure!", "Right!", "Here you go!"),
}
_QUESTIONS = ("Anything else?", "Want to know more?", "What else?")
_EMOJIS = "🙂✨👍🌟"
_FILLERS = (
    "There is always a little more to say about this",
    "You can ask me about it again at any time",
    "It is one of the things that people ask about often",
)
_LOWERED = {"It", "The", "A", "An", "That", "This", "There", "You", "They", "My", "Here", "Once"}


class _Piece(NamedTuple):
    """A sentence with its punctuation, or a list item."""

    text: str
    item: bool = False


def rewrite(text: str, wants: dict[str, bool], keep: Sequence[str], rng: random.Random) -> str:
    """Returns the text with every axis of `wants` at its wanted value, and as many others as possible at
    their old values: a sentence that is removed for its question may have held a `perhaps` that must stay.
    One of the words in `keep` stays if it was there. Returns the nearest attempt if none succeeds."""
    before = styles(text)
    best, nearest = text, (-1, -1)
    for asked in (before | wants, wants):
        for words in range(SHORT_WORDS, 3, -2):
            attempt = _attempt(text, asked, keep, words, rng)
            found = styles(attempt)
            as_wanted = sum(found[axis] == value for axis, value in wants.items())
            near = as_wanted, sum(found[axis] == value for axis, value in before.items() if axis not in wants)
            if near > nearest:
                best, nearest = attempt, near
            if sum(near) == len(before):
                return attempt
    return best


def _attempt(text: str, wants: dict[str, bool], keep: Sequence[str], words: int, rng: random.Random) -> str:
    """Makes one attempt, with at most `words` words before additions where the reply must be short."""
    emoji = _EMOJI.findall(text)
    pieces = _split(_EMOJI.sub("", text))
    for axis in _UNWANTED:
        if wants.get(axis) is False:
            pieces = _without(pieces, _UNWANTED[axis], keep)
    if wants.get("question") is False:
        pieces = _without_question(pieces, keep)
    if wants.get("exclamation") is False:
        pieces = [piece._replace(text=piece.text.replace("!", ".")) for piece in pieces]
    if wants.get("list") is False:
        pieces = _without_lists(pieces)
    if wants.get("short"):
        pieces = _shortened(pieces, keep, words)
    if wants.get("list") and not any(piece.item for piece in pieces):
        pieces = _as_list(pieces)
    found = styles(_join(pieces))
    for axis in ("hedging", "warm", "formal"):
        if wants.get(axis) and not found[axis]:
            pieces = _with_opener(pieces, rng.choice(_OPENERS[axis]))
    if wants.get("exclamation") and not found["exclamation"]:
        pieces = _with_exclamation(pieces, rng)
    if wants.get("short") is False:
        pieces = _padded(pieces, rng)
    if wants.get("question") and not pieces[-1].text.endswith("?"):
        pieces = [*pieces, _Piece(rng.choice(_QUESTIONS))]
    result = _join(pieces)
    if wants.get("emoji", bool(emoji)):
        result = f"{result} {emoji[0] if emoji else rng.choice(_EMOJIS)}"
    return result


def _split(text: str) -> list[_Piece]:
    pieces: list[_Piece] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        if marker := _MARKER.match(line):
            pieces.append(_Piece(line[marker.end() :], item=True))
        else:
            pieces.extend(_Piece(sentence) for sentence in _SENTENCES.split(line))
    return [piece for piece in pieces if re.search(r"\w", piece.text)] or [_Piece("Yes.")]


def _join(pieces: Iterable[_Piece]) -> str:
    text, after_item = "", False
    for piece in pieces:
        text += ("\n" if piece.item or after_item else " ") + ("- " if piece.item else "") + piece.text
        after_item = piece.item
    return text.strip()


def _keeps(text: str, keep: Sequence[str]) -> bool:
    return any(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE) for word in keep)


def _without(pieces: list[_Piece], unwanted: re.Pattern[str], keep: Sequence[str]) -> list[_Piece]:
    """Removes the sentences with unwanted words, or only the words where the sentence must stay."""
    rest = [piece for piece in pieces if not unwanted.search(piece.text)]
    if rest and (_keeps(_join(rest), keep) or not _keeps(_join(pieces), keep)):
        return rest
    cleaned: list[_Piece] = []
    for piece in pieces:
        text = piece.text
        while unwanted.search(text):
            text = unwanted.sub("", text).strip()
        if re.search(r"\w", text):
            cleaned.append(piece._replace(text=text[0].upper() + text[1:]))
    return cleaned or [_Piece("Yes.")]


def _without_question(pieces: list[_Piece], keep: Sequence[str]) -> list[_Piece]:
    """Removes a question at the end, or turns it into a statement where it must stay."""
    if not pieces[-1].text.endswith("?"):
        return pieces
    if len(pieces) > 1 and not _keeps(pieces[-1].text, keep):
        return _without_question(pieces[:-1], keep)
    return [*pieces[:-1], pieces[-1]._replace(text=pieces[-1].text.rstrip("? ") + ".")]


def _without_lists(pieces: list[_Piece]) -> list[_Piece]:
    """Joins the items of each list into one sentence."""
    sentences: list[_Piece] = []
    for is_item, group in groupby(pieces, lambda piece: piece.item):
        if not is_item:
            sentences.extend(group)
            continue
        sentence = ", ".join(piece.text.rstrip(".:,") for piece in group) + "."
        if not (sentences and sentences[-1].text.endswith(":")):
            sentence = sentence[0].upper() + sentence[1:]
        sentences.append(_Piece(sentence))
    return sentences


def _as_list(pieces: list[_Piece]) -> list[_Piece]:
    """Turns sentences into list items, except the first (unless it is the only one) and a closing
    question."""
    asks = len(pieces) > 1 and pieces[-1].text.endswith("?")
    body, closing = (pieces[:-1], pieces[-1:]) if asks else (pieces, [])
    return [piece._replace(item=index > 0 or len(body) == 1) for index, piece in enumerate(body)] + closing


def _shortened(pieces: list[_Piece], keep: Sequence[str], words: int) -> list[_Piece]:
    """Keeps at most `words` words, list markers included: the piece with the answer, then others in order."""
    answer = next((i for i, piece in enumerate(pieces) if _keeps(piece.text, keep)), 0)
    chosen = {answer}
    for index in range(len(pieces)):
        candidate = [piece for i, piece in enumerate(pieces) if i in chosen | {index}]
        if len(_join(candidate).split()) <= words:
            chosen.add(index)
    if len(chosen) > 1 or len(pieces[answer].text.split()) < words:
        return [piece for i, piece in enumerate(pieces) if i in chosen]
    answer_words = pieces[answer].text.split()
    end = next((n for n in range(1, len(answer_words) + 1) if _keeps(" ".join(answer_words[:n]), keep)), 0)
    start = max(0, end - words + 1)
    cut = " ".join(answer_words[start : start + words - 1])
    return [pieces[answer]._replace(text=cut.rstrip(",.;:!?") + ".")]


def _with_opener(pieces: list[_Piece], opener: str) -> list[_Piece]:
    """Puts an opener first: as its own sentence if it ends like one, else before the first sentence of more
    than two words."""
    if opener.endswith((".", "!")):
        return [_Piece(opener), *pieces]
    index = next((i for i, piece in enumerate(pieces) if len(piece.text.split()) > 2 and not piece.item), 0)
    first, _, rest = pieces[index].text.partition(" ")
    opened = f"{opener} {first.lower() if first in _LOWERED else first} {rest}".rstrip()
    return [*pieces[:index], pieces[index]._replace(text=opened), *pieces[index + 1 :]]


def _with_exclamation(pieces: list[_Piece], rng: random.Random) -> list[_Piece]:
    for index, piece in enumerate(pieces):
        if piece.text.endswith("."):
            louder = piece._replace(text=piece.text.rstrip(".") + "!")
            return [*pieces[:index], louder, *pieces[index + 1 :]]
    return _with_opener(pieces, rng.choice(_OPENERS["exclamation"]))


def _padded(pieces: list[_Piece], rng: random.Random) -> list[_Piece]:
    """Pads the text beyond the short length with filler sentences, before a closing question."""
    fillers = rng.sample(_FILLERS, len(_FILLERS))
    asks = len(pieces) > 1 and pieces[-1].text.endswith("?")
    body, closing = (pieces[:-1], pieces[-1:]) if asks else (pieces, [])
    while fillers and len(_join([*body, *closing]).split()) <= SHORT_WORDS:
        body = [*body, _Piece(fillers.pop() + ".")]
    return [*body, *closing]
