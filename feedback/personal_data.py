"""Personal data is found by its form and its check digits: e-mail and IP addresses by themselves, phone
numbers by the plans of libphonenumber, IBANs, payment cards and national ids by python-stdnum.

Names are not found: that takes a language model for each language, and misses many. Phone numbers without a
country code count by the plans of the regions that are set, and only where they are grouped as there, or a
word before them says what they are.
"""

import re
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from typing import Any, NamedTuple

from feedback.national_ids import NationalIds
from schemas.errors import StartError
from schemas.projects import PersonalData

Spans = Iterator[tuple[int, int]]


class Found(NamedTuple):
    """Personal data in a text: where it begins and ends, and what it is."""

    start: int
    end: int
    kind: PersonalData


_EMAIL = re.compile(
    r"[\w!#$%&'*+/=?^`{|}~-][\w.!#$%&'*+/=?^`{|}~-]{0,63}@(?:[\w-]{1,63}\.){1,8}[^\W\d_][\w-]{1,62}"
    r"|\b[\w.+-]{1,64} ?(?:\(at\)|\[at\]|\{at\}| at ) ?[\w-]{1,63}"
    r"(?: ?(?:\(dot\)|\[dot\]|\{dot\}| dot |\.) ?[\w-]{2,63}){1,4}(?<=[^\W\d_])",
    re.IGNORECASE,
)
_SPELLED = re.compile(r"[(\[{](?:at|dot)[)\]}]| dot |@", re.IGNORECASE)
_IPV4 = re.compile(r"(?<![\w.-])(?:\d{1,3}\.){3}\d{1,3}(?![\w-])(?!\.\d)")
_IPV6 = re.compile(r"(?<![\w:.])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?![\w:])")
_IBAN = re.compile(
    r"(?<!\w)[A-Za-z]{2}\d{2}"
    r"(?:[A-Za-z0-9]{11,30}|(?:[ -][A-Za-z0-9]{4}){2,7}(?:[ -][A-Za-z0-9]{1,4})?)(?!\w)"
)
_CARD = re.compile(r"(?<![\w.-])[2-6]\d{3}(?:[ -]?\d){8,15}(?![\w-])(?!\.\d)")
_BETWEEN = r"[ \t\u00a0().\-/\u2010-\u2013]"  # digits of a phone number
_PHONE = re.compile(rf"(?<![\w.,/:-])[+(]?\d(?:{_BETWEEN}{{0,3}}\d){{6,16}}(?![\w/:-])(?![.,]\d)")
_CALL = re.compile(
    # English, German, French, Spanish, Italian, Dutch, Polish, Portuguese
    r"phone|call|mobile|\bcell|whatsapp|signal|\btel|\bfax|sms|text me|my number|reach me"
    r"|handy|rufnummer|anruf|ruf mich|erreichbar|meine nummer|telefon"
    r"|appel|portable|joindre|mon num[ée]ro|\bt[ée]l"
    r"|m[óo]vil|ll[aá]ma|mi n[uú]mero|tel[ée]fono"
    r"|chiama|cellulare|mio numero"
    r"|bel me|bellen|telefoon|mijn nummer|mobiel"
    r"|zadzwo|kom[óo]rk|m[óo]j numer"
    r"|ligue|ligar|celular|contato|meu n[uú]mero|telem[óo]vel",
    re.IGNORECASE,
)
_DIGIT = re.compile(r"\d")
_VERSION = re.compile(r"(?:\bv|version|release|build)[ .:]*$", re.IGNORECASE)
_DATE = re.compile(r"\d{4}[-./]\d{1,2}[-./]\d{1,2}|\d{1,2}[-./]\d{1,2}[-./]\d{2,4}")
_DIFFERENCE = re.compile(r"[1-9]\d* +[-\u2010-\u2013] *\d+")  # or a span of years
_SENTENCE = re.compile(r"[.!?]\s")
_WORDS_BEFORE = 40  # characters in which a word may say that a number is a phone's
_SHORTEST_IBAN = 15
_MOST_CHECKED = 200  # numbers of one text that are looked up in the plans; the others count as phones'


class PersonalDataFinder:
    """Finds the given kinds. `regions` are ISO 3166 codes of the countries whose phone numbers may come
    without a country code. Raises StartError where the libraries are not installed."""

    def __init__(self, kinds: list[PersonalData], regions: list[str]) -> None:
        try:
            import phonenumbers
            from stdnum import iban, isbn, luhn

            self._ids = NationalIds()
        except ImportError as error:
            raise StartError(
                f"Redaction is set, but {error.name} is not installed: pip install 'hearken[redaction]'."
            ) from None
        self._phonenumbers: Any = phonenumbers
        self._iban, self._isbn, self._luhn = iban, isbn, luhn
        self._regions = regions
        detectors: dict[PersonalData, Callable[[str], Spans]] = {
            "email": self._emails,
            "iban": self._ibans,
            "card": self._cards,
            "national_id": self._ids.find,
            "ip": self._addresses,
            "phone": self._phones,
        }
        self._detectors = [(kind, find) for kind, find in detectors.items() if kind in kinds]

    def find(self, text: str) -> list[Found]:
        """Returns what was found, in order. What overlaps is one, of the kind of its longest part."""
        detectors = self._detectors if _DIGIT.search(text) else self._detectors[:1]  # an address needs none
        every = [Found(*span, kind) for kind, find in detectors for span in find(text)]
        merged: list[Found] = []
        longest = 0
        for each in sorted(every, key=lambda found: (found.start, -found.end)):
            length = each.end - each.start
            if merged and each.start < merged[-1].end:
                last = merged.pop()
                kind = each.kind if length > longest else last.kind
                merged.append(Found(last.start, max(last.end, each.end), kind))
                longest = max(longest, length)
            else:
                merged.append(each)
                longest = length
        return merged

    def _emails(self, text: str) -> Spans:
        if not _SPELLED.search(text):
            return
        for found in _EMAIL.finditer(text):
            if _SPELLED.search(found.group()):
                yield found.span()

    def _ibans(self, text: str) -> Spans:
        for found in _IBAN.finditer(text):
            end = found.end()
            while end - found.start() >= _SHORTEST_IBAN:  # words behind it may have been read as a part
                if self._iban.is_valid(text[found.start() : end].replace("-", "")):
                    yield found.start(), end
                    break
                end = max(text.rfind(" ", found.start(), end), text.rfind("-", found.start(), end))

    def _cards(self, text: str) -> Spans:
        for found in _CARD.finditer(text):
            digits = re.sub(r"\D", "", found.group())
            if 13 <= len(digits) <= 19 and self._luhn.is_valid(digits) and not self._isbn.is_valid(digits):
                yield found.span()

    def _addresses(self, text: str) -> Spans:
        for form in (_IPV4, _IPV6):
            for found in form.finditer(text):
                if _VERSION.search(text[max(0, found.start() - 12) : found.start()]):
                    continue
                try:
                    address = ip_address(found.group())
                except ValueError:
                    continue
                if not (address.is_loopback or address.is_unspecified) and _DIGIT.search(found.group()):
                    yield found.span()

    def _phones(self, text: str) -> Spans:
        known: dict[tuple[str, bool], bool] = {}
        for found in _PHONE.finditer(text):
            written = found.group()
            if _DATE.fullmatch(written) or _DIFFERENCE.fullmatch(written) or self._isbn.is_valid(written):
                continue
            before = _SENTENCE.split(text[max(0, found.start() - _WORDS_BEFORE) : found.start()])[-1]
            asked = written, _CALL.search(before) is not None
            if asked not in known and len(known) < _MOST_CHECKED:
                known[asked] = self._is_phone(*asked)
            if known.get(asked, True):
                yield found.span()

    def _is_phone(self, written: str, said: bool) -> bool:
        library = self._phonenumbers
        if written.startswith(("+", "00")):
            international = "+" + written.lstrip("+0") if written.startswith("00") else written
            return self._is_valid(international, None)
        if written.isdigit() and not said:
            return False
        if said:
            return any(self._is_valid(written, region) for region in self._regions)
        strict = library.Leniency.STRICT_GROUPING
        matchers = (library.PhoneNumberMatcher(written, each, leniency=strict) for each in self._regions)
        return any(matcher.has_next() for matcher in matchers)

    def _is_valid(self, written: str, region: str | None) -> bool:
        try:
            return bool(self._phonenumbers.is_valid_number(self._phonenumbers.parse(written, region)))
        except self._phonenumbers.NumberParseException:
            return False
