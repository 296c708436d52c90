"""A receipt says what was done to erase a person, and is signed (Ed25519, RFC 8032), so that anybody who has
the installation's public key can check it without asking the installation.

What is signed is the receipt without its signature, as JSON with sorted keys and without white space.
"""

from typing import Any

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from psycopg import AsyncConnection
from psycopg.rows import DictRow

from schemas.errors import HearkenError

FORMAT = "hearken.erasure.v1"

_SECRET = "receipts"  # noqa: S105  (its name in the table)


class InvalidReceipt(HearkenError):
    """A receipt was changed, or is another installation's. Do not rely on it."""


async def signing_key(connection: AsyncConnection[DictRow]) -> Ed25519PrivateKey:
    """Returns the installation's key for receipts, which the first use creates."""
    await connection.execute(
        "insert into secrets (name, value) values (%s, %s) on conflict (name) do nothing",
        [_SECRET, Ed25519PrivateKey.generate().private_bytes_raw()],
    )
    row = await (await connection.execute("select value from secrets where name = %s", [_SECRET])).fetchone()
    assert row is not None  # noqa: S101  (inserted above)
    return Ed25519PrivateKey.from_private_bytes(bytes(row["value"]))


def public_key(key: Ed25519PrivateKey) -> str:
    """Returns the public key that checks the receipts, 32 bytes in hexadecimal digits."""
    return key.public_key().public_bytes_raw().hex()


def sign(receipt: dict[str, Any], key: Ed25519PrivateKey) -> dict[str, Any]:
    """Returns the receipt with the public key and the signature."""
    signed = {**receipt, "public_key": public_key(key)}
    return {**signed, "signature": key.sign(_content(signed)).hex()}


def verify(receipt: Any, public_key: str) -> None:
    """Checks a receipt in parsed JSON against the installation's public key. Raises InvalidReceipt."""
    try:
        known = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key))
    except ValueError:
        raise InvalidReceipt("The public key is not 64 hexadecimal digits.") from None
    if not isinstance(receipt, dict) or receipt.get("format") != FORMAT:
        raise InvalidReceipt(f"This is no receipt of the format {FORMAT}.")
    if receipt.get("public_key") != public_key:
        raise InvalidReceipt("The receipt was signed with another key than this one.")
    signed = {name: value for name, value in receipt.items() if name != "signature"}
    try:
        known.verify(bytes.fromhex(str(receipt.get("signature"))), _content(signed))
    except (ValueError, InvalidSignature):
        raise InvalidReceipt("The receipt is not as it was signed: its signature does not fit.") from None


def _content(receipt: dict[str, Any]) -> bytes:
    return orjson.dumps(receipt, option=orjson.OPT_SORT_KEYS)
