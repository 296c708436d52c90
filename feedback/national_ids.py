"""National identification numbers: how each is written, and the module of python-stdnum that checks it.

Where a format is rare by chance (letters, several check digits, a date inside) it is enough. Where one number
of ten passes, a word before it must say what it is.
"""

import re
from collections.abc import Iterator
from importlib import import_module
from typing import Any, NamedTuple

_WORDS_BEFORE = 40  # characters in which a word may say what a number is


class NationalId(NamedTuple):
    """One kind of number: the module that checks it (none: its form is enough), how it is written, and the
    words of which one must precede it (none: no word is needed)."""

    module: str | None
    form: str
    words: str | None = None


IDS = [
    NationalId("us.ssn", r"\d{3}-\d{2}-\d{4}"),
    NationalId("us.ssn", r"\d{3} ?\d{2} ?\d{4}", r"ssn|social security"),
    NationalId("us.itin", r"9\d{2}-?\d{2}-?\d{4}", r"itin|taxpayer"),
    NationalId(None, r"[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?\d{2} ?\d{2} ?\d{2} ?[A-D]"),  # British NINO
    NationalId("gb.nhs", r"\d{3}[ -]?\d{3}[ -]?\d{4}", r"nhs"),
    NationalId("gb.utr", r"\d{5} ?\d{5}", r"utr|tax reference"),
    NationalId("ie.pps", r"\d{7} ?[A-W][A-IW]?"),
    NationalId("de.idnr", r"\d{2} ?\d{3} ?\d{3} ?\d{3}", r"steuer|idnr|tax|tin\b"),
    NationalId("ch.ssn", r"756[. ]?\d{4}[. ]?\d{4}[. ]?\d{2}"),
    NationalId("fr.nir", r"[12] ?\d{2} ?\d{2} ?(?:\d{2}|2[AB]) ?\d{3} ?\d{3} ?\d{2}"),
    NationalId("fr.nif", r"[0-3]\d ?\d{2} ?\d{3} ?\d{3} ?\d{3}", r"fiscal|nif\b"),
    NationalId("be.nn", r"\d{2}[. ]?\d{2}[. ]?\d{2}[- ]?\d{3}[. ]?\d{2}"),
    NationalId("nl.bsn", r"\d{4}[. ]?\d{2}[. ]?\d{3}", r"bsn|burgerservice|sofi"),
    NationalId("es.dni", r"\d{8}[ -]?[A-Za-z]"),
    NationalId("es.nie", r"[XYZxyz][ -]?\d{7}[ -]?[A-Za-z]"),
    NationalId("pt.nif", r"\d{3} ?\d{3} ?\d{3}", r"nif\b|contribuinte|fiscal"),
    NationalId("pt.cc", r"\d{8} ?\d ?[A-Za-z]{2}\d"),
    NationalId("it.codicefiscale", r"[A-Za-z]{6}\d{2}[A-Za-z]\d{2}[A-Za-z]\d{3}[A-Za-z]"),
    NationalId("pl.pesel", r"\d{11}"),
    NationalId("cz.rc", r"\d{6}/\d{3,4}"),
    NationalId("ro.cnp", r"[1-9]\d{12}"),
    NationalId("bg.egn", r"\d{10}", r"egn|егн"),
    NationalId("hr.oib", r"\d{11}", r"oib"),
    NationalId("se.personnummer", r"(?:19|20)?\d{6}[-+]?\d{4}"),
    NationalId("no.fodselsnummer", r"\d{6} ?\d{5}"),
    NationalId("dk.cpr", r"\d{6}-\d{4}"),
    NationalId("dk.cpr", r"\d{10}", r"cpr"),
    NationalId("fi.hetu", r"\d{6}[-+ABCDEFYXWVU]\d{3}[0-9A-Y]"),
    NationalId("br.cpf", r"\d{3}\.\d{3}\.\d{3}-\d{2}"),
    NationalId("br.cpf", r"\d{11}", r"cpf"),
    NationalId("mx.curp", r"[A-Za-z]{4}\d{6}[HMXhmx][A-Za-z]{5}[A-Za-z0-9]\d"),
    NationalId("ca.sin", r"\d{3}[ -]?\d{3}[ -]?\d{3}", r"\bsin\b|social insurance|\bnas\b|assurance sociale"),
    NationalId("au.tfn", r"\d{3} ?\d{3} ?\d{3}", r"tfn|tax file"),
    NationalId("in_.aadhaar", r"[2-9]\d{3}[ -]\d{4}[ -]\d{4}"),
    NationalId("in_.aadhaar", r"[2-9]\d{11}", r"aadha?ar"),
    NationalId("in_.pan", r"[A-Z]{3}[ABCFGHJLPT][A-Z]\d{4}[A-Z]"),
    NationalId("cn.ric", r"\d{17}[0-9Xx]"),
    NationalId("kr.rrn", r"\d{6}-\d{7}"),
    NationalId("za.idnr", r"\d{6} ?\d{4} ?\d{3}"),
    NationalId("tr.tckimlik", r"[1-9]\d{10}"),
]
"""Every kind that is looked for."""

_EDGES = r"(?<![\w.,/-])(?:%s)(?![\w/-])(?![.,]\d)"


class NationalIds:
    """Finds national ids. Raises ImportError without python-stdnum."""

    def __init__(self) -> None:
        self._kinds: list[tuple[re.Pattern[str], Any, re.Pattern[str] | None]] = [
            (
                re.compile(_EDGES % each.form),
                import_module(f"stdnum.{each.module}") if each.module else None,
                re.compile(each.words, re.IGNORECASE) if each.words else None,
            )
            for each in IDS
        ]

    def find(self, text: str) -> Iterator[tuple[int, int]]:
        """Yields the beginning and the end of each number."""
        for form, module, words in self._kinds:
            for found in form.finditer(text):
                before = text[max(0, found.start() - _WORDS_BEFORE) : found.start()]
                if words is not None and not words.search(before):
                    continue
                if module is None or module.is_valid(found.group()):
                    yield found.span()
