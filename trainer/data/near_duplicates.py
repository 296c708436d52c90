"""Near-duplicate texts are found by MinHash with locality-sensitive hashing (Broder 1997; Indyk 1998).

A text is the set of its shingles of SHINGLE characters, without case, punctuation and differences of white
space. Two texts are near-duplicates where a band of their signatures is equal: nearly surely from a Jaccard
similarity of 0.8, and hardly ever below 0.4.
"""

import hashlib
from collections.abc import Sequence

import torch

from trainer.data.prompt_groups import normalised

SHINGLE, MIN_CHARACTERS = 5, 40
"""Characters of a shingle, and of the shortest text that is compared: many write the same few words."""

BANDS, ROWS = 16, 5
"""Bands of a signature, and hashes of a band."""

MAX_CHARACTERS = 2_000
"""Characters of a text that are compared, the first ones."""

_PRIME = 2**31 - 1


def near_duplicates(texts: Sequence[str]) -> list[list[int]]:
    """Returns the groups of near-duplicates as indices, the largest first; texts without one are in none."""
    generator = torch.Generator().manual_seed(0)
    a_H1 = torch.randint(1, _PRIME, (BANDS * ROWS, 1), generator=generator)
    b_H1 = torch.randint(0, _PRIME, (BANDS * ROWS, 1), generator=generator)
    lowest = list(range(len(texts)))
    first_of: dict[tuple[int, bytes], int] = {}
    for index, text in enumerate(texts):
        plain = normalised(text[:MAX_CHARACTERS])
        if len(plain) < MIN_CHARACTERS:
            continue
        hashes_S = torch.tensor(
            sorted({_hash(plain[at : at + SHINGLE]) for at in range(len(plain) - SHINGLE + 1)})
        )
        signature_H = ((a_H1 * hashes_S + b_H1) % _PRIME).amin(1)
        for band, rows in enumerate(signature_H.view(BANDS, ROWS)):
            other = first_of.setdefault((band, rows.numpy().tobytes()), index)
            _join(lowest, index, other)
    groups: dict[int, list[int]] = {}
    for index in range(len(texts)):
        groups.setdefault(_find(lowest, index), []).append(index)
    return sorted((group for group in groups.values() if len(group) > 1), key=len, reverse=True)


def _hash(shingle: str) -> int:
    return int.from_bytes(hashlib.blake2b(shingle.encode(), digest_size=4).digest()) % _PRIME


def _find(lowest: list[int], index: int) -> int:
    while lowest[index] != index:
        index = lowest[index]
    return index


def _join(lowest: list[int], one: int, other: int) -> None:
    one, other = _find(lowest, one), _find(lowest, other)
    lowest[max(one, other)] = min(one, other)
