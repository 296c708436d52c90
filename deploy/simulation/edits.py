"""How people reword a reply until it is written the way they like.

A pure text transformation: the reply is taken apart into sentences and list items, what is not wanted is
taken away, what is missing is added, and it is cut or filled to length; what went with it that nobody minded
is put back. What the reply says stays as far as the length allows, an answer that must be kept above all. It
knows English punctuation and nothing more.
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
    """A sentence with its punctuation, or an item of a list."""

    text: str
    item: bool = False


def rewrite(text: str, wants: dict[str, bool], keep: Sequence[str], rng: random.Random) -> str:
    """The text with every axis of `wants` as wanted, and of the others as many as can be as they were: who
    takes a sentence away for its question did not mean its `perhaps`. One of the words in `keep` that stood
    in it still does. The nearest attempt where none succeeds."""
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
    """One attempt, with at most `words` words before anything is added where it must be short."""
    emoji = _EMOJI.findall(text)
    pieces = _take_apart(_EMOJI.sub("", text))
    for axis in _UNWANTED:
        if wants.get(axis) is False:
            pieces = _without(pieces, _UNWANTED[axis], keep)
    if wants.get("question") is False:
        pieces = _unasked(pieces, keep)
    if wants.get("exclamation") is False:
        pieces = [piece._replace(text=piece.text.replace("!", ".")) for piece in pieces]
    if wants.get("list") is False:
        pieces = _joined(pieces)
    if wants.get("short"):
        pieces = _shortened(pieces, keep, words)
    if wants.get("list") and not any(piece.item for piece in pieces):
        pieces = _listed(pieces)
    found = styles(_put_together(pieces))
    for axis in ("hedging", "warm", "formal"):
        if wants.get(axis) and not found[axis]:
            pieces = _opened(pieces, rng.choice(_OPENERS[axis]))
    if wants.get("exclamation") and not found["exclamation"]:
        pieces = _exclaimed(pieces, rng)
    if wants.get("short") is False:
        pieces = _filled(pieces, rng)
    if wants.get("question") and not pieces[-1].text.endswith("?"):
        pieces = [*pieces, _Piece(rng.choice(_QUESTIONS))]
    result = _put_together(pieces)
    if wants.get("emoji", bool(emoji)):
        result = f"{result} {emoji[0] if emoji else rng.choice(_EMOJIS)}"
    return result


def _take_apart(text: str) -> list[_Piece]:
    pieces: list[_Piece] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        if marker := _MARKER.match(line):
            pieces.append(_Piece(line[marker.end() :], item=True))
        else:
            pieces.extend(_Piece(sentence) for sentence in _SENTENCES.split(line))
    return [piece for piece in pieces if re.search(r"\w", piece.text)] or [_Piece("Yes.")]


def _put_together(pieces: Iterable[_Piece]) -> str:
    text, after_item = "", False
    for piece in pieces:
        text += ("\n" if piece.item or after_item else " ") + ("- " if piece.item else "") + piece.text
        after_item = piece.item
    return text.strip()


def _keeps(text: str, keep: Sequence[str]) -> bool:
    return any(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE) for word in keep)


def _without(pieces: list[_Piece], unwanted: re.Pattern[str], keep: Sequence[str]) -> list[_Piece]:
    """Drops the sentences that hold unwanted words; those words alone where the sentence is needed."""
    rest = [piece for piece in pieces if not unwanted.search(piece.text)]
    if rest and (_keeps(_put_together(rest), keep) or not _keeps(_put_together(pieces), keep)):
        return rest
    cleaned: list[_Piece] = []
    for piece in pieces:
        text = piece.text
        while unwanted.search(text):
            text = unwanted.sub("", text).strip()
        if re.search(r"\w", text):
            cleaned.append(piece._replace(text=text[0].upper() + text[1:]))
    return cleaned or [_Piece("Yes.")]


def _unasked(pieces: list[_Piece], keep: Sequence[str]) -> list[_Piece]:
    """Ends with a statement: drops a last question, or makes a statement of it where it is needed."""
    if not pieces[-1].text.endswith("?"):
        return pieces
    if len(pieces) > 1 and not _keeps(pieces[-1].text, keep):
        return _unasked(pieces[:-1], keep)
    return [*pieces[:-1], pieces[-1]._replace(text=pieces[-1].text.rstrip("? ") + ".")]


def _joined(pieces: list[_Piece]) -> list[_Piece]:
    """Makes one sentence of the items of a list."""
    sentences: list[_Piece] = []
    for is_item, group in groupby(pieces, lambda piece: piece.item):
        if not is_item:
            sentences.extend(group)
            continue
        told = ", ".join(piece.text.rstrip(".:,") for piece in group) + "."
        if not (sentences and sentences[-1].text.endswith(":")):
            told = told[0].upper() + told[1:]
        sentences.append(_Piece(told))
    return sentences


def _listed(pieces: list[_Piece]) -> list[_Piece]:
    """Makes items of all but the first sentence and a closing question; of the first where it is alone."""
    asks = len(pieces) > 1 and pieces[-1].text.endswith("?")
    body, closing = (pieces[:-1], pieces[-1:]) if asks else (pieces, [])
    return [piece._replace(item=index > 0 or len(body) == 1) for index, piece in enumerate(body)] + closing


def _shortened(pieces: list[_Piece], keep: Sequence[str], words: int) -> list[_Piece]:
    """At most `words` words, list markers included: the piece with the answer, then others in order."""
    answer = next((i for i, piece in enumerate(pieces) if _keeps(piece.text, keep)), 0)
    chosen = {answer}
    for index in range(len(pieces)):
        trial = [piece for i, piece in enumerate(pieces) if i in chosen | {index}]
        if len(_put_together(trial).split()) <= words:
            chosen.add(index)
    if len(chosen) > 1 or len(pieces[answer].text.split()) < words:
        return [piece for i, piece in enumerate(pieces) if i in chosen]
    spoken = pieces[answer].text.split()
    end = next((n for n in range(1, len(spoken) + 1) if _keeps(" ".join(spoken[:n]), keep)), 0)
    start = max(0, end - words + 1)
    cut = " ".join(spoken[start : start + words - 1])
    return [pieces[answer]._replace(text=cut.rstrip(",.;:!?") + ".")]


def _opened(pieces: list[_Piece], opener: str) -> list[_Piece]:
    """Puts an opener first: a sentence of its own, or, without a full stop, words before the first sentence
    of more than two words."""
    if opener.endswith((".", "!")):
        return [_Piece(opener), *pieces]
    place = next((i for i, piece in enumerate(pieces) if len(piece.text.split()) > 2 and not piece.item), 0)
    first, _, rest = pieces[place].text.partition(" ")
    said = f"{opener} {first.lower() if first in _LOWERED else first} {rest}".rstrip()
    return [*pieces[:place], pieces[place]._replace(text=said), *pieces[place + 1 :]]


def _exclaimed(pieces: list[_Piece], rng: random.Random) -> list[_Piece]:
    for index, piece in enumerate(pieces):
        if piece.text.endswith("."):
            louder = piece._replace(text=piece.text.rstrip(".") + "!")
            return [*pieces[:index], louder, *pieces[index + 1 :]]
    return _opened(pieces, rng.choice(_OPENERS["exclamation"]))


def _filled(pieces: list[_Piece], rng: random.Random) -> list[_Piece]:
    """Longer than short, by sentences that say nothing; before a closing question."""
    fillers = rng.sample(_FILLERS, len(_FILLERS))
    asks = len(pieces) > 1 and pieces[-1].text.endswith("?")
    body, closing = (pieces[:-1], pieces[-1:]) if asks else (pieces, [])
    while fillers and len(_put_together([*body, *closing]).split()) <= SHORT_WORDS:
        body = [*body, _Piece(fillers.pop() + ".")]
    return [*body, *closing]
