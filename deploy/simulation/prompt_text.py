"""Two prompts are the same where their texts differ only in case, spaces, punctuation and short forms."""

import re

_PUNCTUATION = re.compile(r"[^\w\s+*/<>=%]|_")


def normalised(text: str) -> str:
    """Returns the text in lower case, its words separated by single spaces, without punctuation; "what's" is
    "what is". Signs of arithmetic stay, as long as they are no hyphens."""
    lower = text.lower().replace("’", "'")
    spelled = re.sub(r"(?<=\w)'m\b", " am", re.sub(r"(?<=\w)'s\b", " is", lower))
    return " ".join(_PUNCTUATION.sub(" ", spelled).split())
