"""A webhook proves who sent it by its signature (Standard Webhooks)."""

import base64
import binascii
import hashlib
import hmac
import json
import re
import time
from collections.abc import Mapping
from typing import Any, TypedDict

_PREFIX = "whsec_"
_TIMESTAMP = re.compile(r"[0-9]{1,15}")


class WebhookEvent(TypedDict):
    """What happened; `data` depends on `type`. Events of votes have a list of them in `data["votes"]`."""

    type: str
    timestamp: str
    data: dict[str, Any]


class WebhookRefused(Exception):
    """Raised when a webhook does not prove that Hearken sent it, lately. Answer it with 400."""


def verify_webhook(
    body: bytes | str, headers: Mapping[str, str], secret: str, *, tolerance: float = 300
) -> WebhookEvent:
    """Returns the event of a webhook, whose `body` is as it came, of which not a byte may change. It may be
    `tolerance` seconds old. Raises WebhookRefused.

    A webhook may come twice: its header `webhook-id` tells you whether you have had it.
    """
    found = {name.lower(): value for name, value in headers.items()}
    id, timestamp = found.get("webhook-id", ""), found.get("webhook-timestamp", "")
    content = body.encode() if isinstance(body, str) else body
    if not _TIMESTAMP.fullmatch(timestamp) or abs(time.time() - int(timestamp)) > tolerance:
        raise WebhookRefused("The webhook is too old, or its clock is wrong.")
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except binascii.Error:
        raise WebhookRefused("The secret is none of a webhook: it is `whsec_` and base64.") from None
    digest = hmac.digest(key, f"{id}.{timestamp}.".encode() + content, hashlib.sha256)
    expected = f"v1,{base64.b64encode(digest).decode()}".encode()
    signatures = found.get("webhook-signature", "").encode().split()
    if not any(hmac.compare_digest(expected, each) for each in signatures):
        raise WebhookRefused("The webhook's signature is wrong.")
    event: WebhookEvent = json.loads(content)
    return event
