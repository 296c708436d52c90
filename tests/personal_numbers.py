"""Personal numbers and addresses, made by the rules of their countries as they are published, with check
digits computed here, and written as people write them. Nothing here is the detector's own.
"""

import random
import string
from collections.abc import Callable

Write = Callable[[random.Random], str]


def digits(draw: random.Random, count: int) -> str:
    return "".join(draw.choices(string.digits, k=count))


def grouped(number: str, sizes: list[int], mark: str) -> str:
    parts, at = [], 0
    for size in sizes:
        parts.append(number[at : at + size])
        at += size
    return mark.join([part for part in [*parts, number[at:]] if part])


# E-mail

NAMES = ["ada", "jan", "maria", "li.wei", "o.brien", "juergen", "jürgen", "zofia", "ana-maria", "k_smith"]
HOSTS = ["example", "mueller-bau", "müller", "corp.acme", "mail.uni-bonn", "gmx", "my-shop24", "cs.ox"]
ENDS = ["com", "org", "de", "fr", "co.uk", "io", "com.br", "it", "museum", "nl"]


def email(draw: random.Random) -> str:
    name = draw.choice(NAMES) + draw.choice(["", str(draw.randint(1, 99)), "+news"])
    host, end = draw.choice(HOSTS), draw.choice(ENDS)
    spelled = [
        f"{name}@{host}.{end}", f"{name}@{host}.{end}", f"{name.upper()}@{host.upper()}.{end.upper()}",
        f"{name} (at) {host}.{end}", f"{name}[at]{host}[dot]{end.replace('.', '[dot]')}",
    ]  # fmt: skip
    return draw.choice(spelled)


# Payment cards and bank accounts


def luhn_digit(body: str) -> str:
    total = 0
    for place, digit in enumerate(reversed(body)):
        value = int(digit) * (2 if place % 2 == 0 else 1)
        total += value - 9 if value > 9 else value
    return str(-total % 10)


def card(draw: random.Random) -> str:
    prefix, length = draw.choice([("4", 16), ("51", 16), ("55", 16), ("2221", 16), ("37", 15), ("6011", 16)])
    body = prefix + digits(draw, length - 1 - len(prefix))
    number = body + luhn_digit(body)
    sizes = [4, 6, 5] if length == 15 else [4, 4, 4, 4]
    return draw.choice([number, grouped(number, sizes, " "), grouped(number, sizes, "-")])


IBANS: list[tuple[str, Write]] = [
    ("DE", lambda draw: digits(draw, 18)),
    ("FR", lambda draw: digits(draw, 20) + draw.choice(string.ascii_uppercase) + digits(draw, 2)),
    ("GB", lambda draw: draw.choice(["NWBK", "BARC", "LOYD"]) + digits(draw, 14)),
    ("NL", lambda draw: draw.choice(["ABNA", "INGB", "RABO"]) + digits(draw, 10)),
    ("AT", lambda draw: digits(draw, 16)),
    ("CH", lambda draw: digits(draw, 17)),
]


def iban(draw: random.Random) -> str:
    country, write = draw.choice(IBANS)
    account = write(draw)
    as_number = "".join(str(int(each, 36)) for each in f"{account}{country}00")
    number = f"{country}{98 - int(as_number) % 97:02}{account}"
    return draw.choice([number, grouped(number, [4] * 9, " "), grouped(number, [4] * 9, " ").lower()])


# Network


def ip(draw: random.Random) -> str:
    four = f"{draw.randint(11, 223)}.{draw.randint(0, 255)}.{draw.randint(0, 255)}.{draw.randint(1, 254)}"
    parts = [f"{draw.randint(1, 65535):x}" for _ in range(7)]
    six = [f"2a{draw.randint(0, 15):x}2:{':'.join(parts)}", f"2001:{parts[0]}::{parts[1]}:{parts[2]}"]
    return draw.choice([four, four, *six])


# Phones: each plan's own mobiles and landlines, as its people write them

US_AREAS = ["212", "415", "305", "617", "206", "312", "713"]


def us_phone(draw: random.Random) -> str:
    area = draw.choice(US_AREAS)
    exchange = f"{draw.randint(2, 9)}{draw.choice('023456789')}{draw.randint(2, 9)}"
    line = digits(draw, 4)
    return draw.choice(
        [f"({area}) {exchange}-{line}", f"{area}-{exchange}-{line}", f"+1 {area} {exchange} {line}",
         f"{area}.{exchange}.{line}", f"+1{area}{exchange}{line}"]
    )  # fmt: skip


def gb_phone(draw: random.Random) -> str:
    mobile = f"7{draw.choice('4578')}{digits(draw, 2)}", digits(draw, 6)
    london = digits(draw, 3)
    return draw.choice(
        [f"0{mobile[0]} {mobile[1]}", f"+44 {mobile[0]} {mobile[1]}", f"+44{mobile[0]}{mobile[1]}",
         f"+44 (0)20 7{london} {digits(draw, 4)}", f"020 7{london} {digits(draw, 4)}"]
    )  # fmt: skip


def de_phone(draw: random.Random) -> str:
    mobile, rest = draw.choice(["151", "160", "170", "171", "175"]), f"{draw.randint(2, 9)}{digits(draw, 6)}"
    if mobile == "151":
        rest += digits(draw, 1)
    city, line = draw.choice(["30", "89", "40", "221"]), f"{draw.randint(2, 9)}{digits(draw, 6)}"
    return draw.choice(
        [f"0{mobile} {rest}", f"0{mobile}/{rest}", f"+49 {mobile} {rest}", f"0049 {city} {line}",
         f"+49 ({city}) {line}", f"0{city} {line}", f"+49{mobile}{rest}"]
    )  # fmt: skip


def fr_phone(draw: random.Random) -> str:
    number = draw.choice("67") + digits(draw, 8)
    pairs = [number[at : at + 2] for at in (1, 3, 5, 7)]
    spaced, dotted = " ".join(pairs), ".".join(pairs)
    return draw.choice([f"0{number[0]} {spaced}", f"0{number[0]}.{dotted}", f"+33 {number[0]} {spaced}"])


def es_phone(draw: random.Random) -> str:
    number = "6" + digits(draw, 8)
    return draw.choice([grouped(number, [3, 3], " "), f"+34 {grouped(number, [3, 3], ' ')}", f"+34{number}"])


def it_phone(draw: random.Random) -> str:
    number = draw.choice(["320", "333", "347", "338"]), digits(draw, 7)
    return draw.choice([f"{number[0]} {number[1]}", f"+39 {number[0]} {number[1]}", f"+39{''.join(number)}"])


def nl_phone(draw: random.Random) -> str:
    number = f"{draw.choice('12345')}{digits(draw, 7)}"
    return draw.choice([f"06-{number}", f"06 {number}", f"+31 6 {number}", f"+31 (0)6 {number}"])


def pl_phone(draw: random.Random) -> str:
    number = draw.choice(["512", "601", "691", "788"]) + digits(draw, 6)
    return draw.choice([grouped(number, [3, 3], " "), f"+48 {grouped(number, [3, 3], ' ')}"])


def br_phone(draw: random.Random) -> str:
    area, number = draw.choice(["11", "21", "31", "41"]), f"9{draw.randint(6, 9)}{digits(draw, 7)}"
    return draw.choice([f"({area}) {grouped(number, [5], '-')}", f"+55 {area} {grouped(number, [5], '-')}"])


# National ids


def ssn(draw: random.Random) -> str:
    return f"{draw.randint(100, 665)}-{draw.randint(10, 99)}-{draw.randint(1000, 9999)}"


def nino(draw: random.Random) -> str:
    first, last = draw.choice(["AB", "JG", "PW", "SE", "NH"]), draw.choice("ABCD")
    number = digits(draw, 6)
    return draw.choice([f"{first}{number}{last}", f"{first} {grouped(number, [2, 2], ' ')} {last}"])


def idnr(draw: random.Random) -> str:
    """Germany's tax number: of ten digits one is twice there; the check is ISO 7064 MOD 11,10."""
    body = draw.sample("123456789", 9)
    body.append(body[draw.randrange(8)])
    if body[-1] == body[-2] == body[-3]:
        body.reverse()
    product = 10
    for digit in body:
        total = (int(digit) + product) % 10 or 10
        product = total * 2 % 11
    number = "".join(body) + str((11 - product) % 10)
    return draw.choice([number, grouped(number, [2, 3, 3], " ")])


def nir(draw: random.Random) -> str:
    born = f"{draw.randint(40, 99)}{draw.randint(1, 12):02}"
    body = f"{draw.choice('12')}{born}{draw.randint(10, 89)}{digits(draw, 6)}"
    key = f"{97 - int(body) % 97:02}"
    return draw.choice([body + key, f"{grouped(body, [1, 2, 2, 2, 3, 3], ' ')} {key}"])


def dni(draw: random.Random) -> str:
    number = draw.randint(10_000_000, 79_999_999)
    letter = "TRWAGMYFPDXBNJZSQVHLCKE"[number % 23]
    return draw.choice([f"{number}{letter}", f"{number}-{letter}"])


def bsn(draw: random.Random) -> str:
    while True:
        body = [draw.randint(1, 9), *(draw.randint(0, 9) for _ in range(7))]
        check = sum(weight * digit for weight, digit in zip(range(9, 1, -1), body, strict=True)) % 11
        if check < 10:
            return "".join(map(str, [*body, check]))


def pesel(draw: random.Random) -> str:
    body = f"{draw.randint(40, 99)}{draw.randint(1, 12):02}{draw.randint(1, 28):02}{digits(draw, 4)}"
    weights = [1, 3, 7, 9, 1, 3, 7, 9, 1, 3]
    total = sum(weight * int(digit) for weight, digit in zip(weights, body, strict=True))
    return body + str(-total % 10)


def cpf(draw: random.Random) -> str:
    body = [draw.randint(0, 9) for _ in range(9)]
    for _ in range(2):
        total = sum(digit * weight for digit, weight in zip(body, range(len(body) + 1, 1, -1), strict=True))
        body.append(0 if total % 11 < 2 else 11 - total % 11)
    text = "".join(map(str, body))
    return f"{text[:3]}.{text[3:6]}.{text[6:9]}-{text[9:]}"


ODD = dict(zip(
    string.digits + string.ascii_uppercase,
    [1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14,
     16, 10, 22, 25, 24, 23], strict=True,
))  # fmt: skip


def codice(draw: random.Random) -> str:
    names = "".join(draw.choices("BCDFGLMNPRSTV", k=6))
    body = f"{names}{draw.randint(40, 99)}{draw.choice('ABCDEHLMPRST')}{draw.randint(1, 28):02}H501"
    even = {each: int(each, 36) - (10 if each.isalpha() else 0) for each in ODD}
    total = sum((even if place % 2 else ODD)[each] for place, each in enumerate(body))
    return body + string.ascii_uppercase[total % 26]
