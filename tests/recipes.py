"""The recipes of the documents, as a reader copies them: the code below a heading."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
_SHOWN = {
    "url": "http://127.0.0.1:8000",
    "secret": "sk-hearken-…",
    "publishable": "pk-hearken-…",
    "webhook_secret": "whsec_…",
    "port": "9000",
}


def recipe(page: str, heading: str, language: str, **instead: str) -> str:
    """Returns the first block in this language below a heading; `instead` are texts by what they replace:
    names of _SHOWN."""
    section = (DOCS / page).read_text("utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    found = re.search(rf"```{language}\n(.*?)```", section, re.DOTALL)
    assert found is not None, f"{page} has no {language} below {heading}"
    code = found[1]
    for name, value in instead.items():
        shown = _SHOWN[name]
        assert shown in code, f"{heading} does not name {shown}"
        code = code.replace(shown, value)
    return code
