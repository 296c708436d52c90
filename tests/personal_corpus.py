"""A generated corpus of chat messages with personal data in nine languages, and without it.

Each message has one number or address among sentences that are full of what only looks like one.
"""

import random
from dataclasses import dataclass

from tests.personal_numbers import (
    Write,
    br_phone,
    bsn,
    card,
    codice,
    cpf,
    de_phone,
    dni,
    email,
    es_phone,
    fr_phone,
    gb_phone,
    iban,
    idnr,
    ip,
    it_phone,
    nino,
    nir,
    nl_phone,
    pesel,
    pl_phone,
    ssn,
    us_phone,
)


@dataclass(frozen=True)
class Message:
    """A message, and the place and kind of the personal data in it."""

    text: str
    spans: list[tuple[int, int, str]]


@dataclass(frozen=True)
class Language:
    """How people of one language bring personal data up. `{}` is where it stands."""

    phone: Write
    national: Write
    said: dict[str, list[str]]


LANGUAGES = {
    "en-US": Language(
        us_phone,
        ssn,
        {
            "email": ["You can write to {}.", "{} is my address", "my mail: {}, thanks!"],
            "phone": ["Call me at {} tonight.", "my number is {}", "Reach me on {}, please."],
            "iban": ["Please refund to {}.", "IBAN: {}"],
            "card": ["My card is {}, exp 04/29.", "{} was charged twice"],
            "ip": ["The server {} does not answer.", "ping {} fails"],
            "national_id": ["My SSN is {}.", "social security number: {}"],
        },
    ),
    "en-GB": Language(
        gb_phone,
        nino,
        {
            "email": ["Drop me a line: {}", "(mail {})"],
            "phone": ["Ring {} after six.", "Mobile: {}"],
            "iban": ["Transfer it to {} please"],
            "card": ["I paid with {}."],
            "ip": ["Is {} blocked?"],
            "national_id": ["NI number {}", "My national insurance number is {}, is that right?"],
        },
    ),
    "de": Language(
        de_phone,
        idnr,
        {
            "email": ["Schreib mir an {}.", "Meine Adresse: {}"],
            "phone": ["Ruf mich an: {}", "Handy {}, Danke"],
            "iban": ["Überweise es auf {}.", "Meine IBAN lautet {}"],
            "card": ["Karte {} wurde abgelehnt."],
            "ip": ["Der Router hat {}"],
            "national_id": ["Meine Steuer-ID ist {}.", "Steuernummer (IdNr) {}"],
        },
    ),
    "fr": Language(
        fr_phone,
        nir,
        {
            "email": ["Écris-moi à {}.", "mon adresse est {}"],
            "phone": ["Appelle-moi au {}.", "Mon portable : {}"],
            "iban": ["Mon IBAN est {}."],
            "card": ["Ma carte {} ne marche pas."],
            "ip": ["L'adresse {} est bloquée."],
            "national_id": ["Mon numéro de sécurité sociale : {}", "NIR {}"],
        },
    ),
    "es": Language(
        es_phone,
        dni,
        {
            "email": ["Escríbeme a {}.", "correo: {}"],
            "phone": ["Llámame al {}.", "Mi móvil es {}"],
            "iban": ["La cuenta es {}."],
            "card": ["Mi tarjeta {} está bloqueada."],
            "ip": ["No responde {}"],
            "national_id": ["Mi DNI es {}.", "con documento {}"],
        },
    ),
    "it": Language(
        it_phone,
        codice,
        {
            "email": ["Scrivimi a {}."],
            "phone": ["Chiamami al {}.", "cellulare {}"],
            "iban": ["Il mio IBAN: {}"],
            "card": ["La carta {} è scaduta."],
            "ip": ["Il server {} non va."],
            "national_id": ["Il mio codice fiscale è {}.", "c.f. {}"],
        },
    ),
    "nl": Language(
        nl_phone,
        bsn,
        {
            "email": ["Mail me op {}."],
            "phone": ["Bel me op {}.", "mijn nummer is {}"],
            "iban": ["Maak het over naar {}."],
            "card": ["Mijn kaart {} werkt niet."],
            "ip": ["{} is niet bereikbaar"],
            "national_id": ["Mijn BSN is {}.", "burgerservicenummer: {}"],
        },
    ),
    "pl": Language(
        pl_phone,
        pesel,
        {
            "email": ["Napisz na {}."],
            "phone": ["Zadzwoń pod {}.", "komórka: {}"],
            "iban": ["Konto {}."],
            "card": ["Karta {} nie działa."],
            "ip": ["Adres {} nie odpowiada."],
            "national_id": ["Mój PESEL to {}.", "pesel {}"],
        },
    ),
    "pt": Language(
        br_phone,
        cpf,
        {
            "email": ["Escreva para {}."],
            "phone": ["Me ligue no {}.", "celular {}"],
            "iban": ["A conta é {}."],
            "card": ["Meu cartão {} foi recusado."],
            "ip": ["O servidor {} caiu."],
            "national_id": ["Meu CPF é {}.", "cpf: {}"],
        },
    ),
}

WRITERS: dict[str, Write] = {"email": email, "card": card, "iban": iban, "ip": ip}
KINDS = ["email", "phone", "iban", "card", "ip", "national_id"]

PLAIN = [
    "The meeting is on 20¤¤-0¤-1¤ at 1¤:4¤.",
    "Am 1¤.0¤.19¤¤ um 12:30:45 Uhr.",
    "It costs ¤,¤¤¤.¤¤ dollars for ¤¤¤ items.",
    "Bestellung Nr. ¤¤¤¤¤¤¤¤ kam mit Paket ¤¤¤¤¤¤¤¤¤¤¤¤.",
    "Order ¤¤¤¤-¤¤¤¤-¤¤ is late.",
    "I use Python 3.1¤.¤ and version ¤.0.2.1.",
    "What is the ISBN 978-3-16-148410-0 about?",
    "The population was ¤¤ ¤¤¤ ¤¤¤ in 19¤¤.",
    "Compute ¤¤¤¤¤¤ * ¤¤¤¤¤ - ¤¤¤¤.",
    "commit ¤¤a¤f¤¤¤¤¤b¤¤¤¤c¤e¤¤¤¤¤¤d¤¤¤¤¤¤¤a¤¤¤¤¤ broke it",
    "std::vector<int> v{1, 2, 3}; foo::bar(a ? b : c); // see http://127.0.0.1:8000/docs",
    "Uuid 3fa85f64-5717-4562-b3fc-2c963f66afa¤ was not found.",
    "Le résultat est ¤,¤¤¤¤¤¤ à ¤¤ % près.",
    "Vols AF¤¤¤¤ et LH¤¤¤, siège 1¤A.",
    "The coordinates are ¤¤.¤¤¤¤¤, -¤¤.¤¤¤¤¤.",
    "Between 19¤¤ - 20¤¤ it grew by ¤¤%.",
    "Meet me at the station at five, or look at page 12 of chapter 3.",
    "serial number ¤¤¤¤¤B¤¤¤¤ of model X-¤¤¤¤",
    "@ada said hello, and #42 is fixed in a@b, as in user@host:path.",
    "¿Cuánto es ¤¤¤ entre ¤¤? La factura ¤¤¤¤¤¤¤ dice otra cosa.",
]
"""Sentences without personal data, full of what looks like it; ¤ is any digit."""


def filled(draw: random.Random, sentence: str) -> str:
    return "".join(str(draw.randint(0, 9)) if each == "¤" else each for each in sentence)


def corpus(seed: int, each: int) -> list[Message]:
    """Returns `each` messages of every kind in every language, and two of three sentences without any."""
    draw = random.Random(seed)
    messages = []
    for language in LANGUAGES.values():
        writers = {**WRITERS, "phone": language.phone, "national_id": language.national}
        for kind in KINDS:
            for _ in range(each):
                before, after = (filled(draw, draw.choice(PLAIN)) for _ in range(2))
                data, said = writers[kind](draw), draw.choice(language.said[kind])
                start = len(before) + 1 + said.index("{}")
                text = f"{before} {said.format(data)} {after}"
                messages.append(Message(text, [(start, start + len(data), kind)]))
    draw.shuffle(messages)
    return messages
