"""The judge's client asks one model, behind an OpenAI-compatible endpoint, one question at a time."""

import json
import re
from typing import Any

import httpx

from schemas.errors import HearkenError
from schemas.settings import JudgeSettings

CONCURRENCY = 4
"""Questions that are asked at once."""

_FENCE = re.compile(r"^\s*```(?:json)?|```\s*$")  # which many models put around JSON
_BUSY = (429, 503)


class NoVerdict(HearkenError):
    """The judge gave no answer, or one without a verdict. What it was asked about is skipped."""


class Unreachable(NoVerdict):
    """There is no connection to the judge, or it has too much to do: it has not read the question."""


async def ask(client: httpx.AsyncClient, settings: JudgeSettings, system: str, question: str) -> str:
    """Returns the judge's answer to a question. Raises NoVerdict when there is none, and Unreachable when the
    question was not read."""
    key = settings.key
    try:
        answer = await client.post(
            f"{str(settings.url).rstrip('/')}/chat/completions",
            headers={"Authorization": f"Bearer {key.get_secret_value()}"} if key else {},
            timeout=settings.timeout,
            json={
                "model": settings.model,
                "temperature": 0,
                "messages": [
                    {"role": "system", "content": system},
                    {"role": "user", "content": question},
                ],
            },
        )
        if answer.status_code in _BUSY:
            raise Unreachable(f"status {answer.status_code}")
        answer.raise_for_status()
        content = answer.json()["choices"][0]["message"]["content"]
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise Unreachable(f"{type(error).__name__}: {error}") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise NoVerdict(f"{type(error).__name__}: {error}") from None
    except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
        raise NoVerdict(f"not a chat completion: {type(error).__name__}") from None
    if not isinstance(content, str):
        raise NoVerdict("the answer has no text")
    return content


def json_object(answer: str) -> dict[str, Any]:
    """Returns the JSON object that an answer is. Raises NoVerdict for any other answer."""
    try:
        found = json.loads(_FENCE.sub("", answer))
    except (ValueError, RecursionError):
        raise NoVerdict("the answer is no JSON") from None
    if not isinstance(found, dict):
        raise NoVerdict("the answer is no JSON object")
    return found
