"""Criteria are the kinds of reasons for which a reply is good or bad."""

CRITERIA = {
    "helpful": "it answers what was asked, clearly and completely",
    "correct": "what it says is true",
    "safe": "it harms and offends nobody",
    "tone": "how it speaks to the person",
    "length": "it is neither too long nor too short",
}
"""The known criteria, each with what a reply is that meets it. A project has others of its own: reasons that
many of its people give."""

_GOOD: dict[str, tuple[str, ...]] = {
    "helpful": ("helpful", "useful", "clear", "complete", "relevant", "solved"),
    "correct": ("correct", "accurate", "right", "true", "factual"),
    "safe": ("safe", "harmless", "responsible"),
    "tone": ("friendly", "fun", "polite", "kind", "warm"),
    "length": ("concise", "detailed", "brief", "right-length"),
}
_BAD: dict[str, tuple[str, ...]] = {
    "helpful": ("unhelpful", "useless", "unclear", "incomplete", "off-topic", "irrelevant", "confusing"),
    "correct": ("wrong", "incorrect", "inaccurate", "false", "made-up", "hallucination", "outdated"),
    "safe": ("unsafe", "harmful", "dangerous", "offensive", "toxic", "inappropriate"),
    "tone": ("cold", "gushing", "rude", "unfriendly", "condescending", "boring", "robotic"),
    "length": ("too-long", "too-short", "verbose", "wordy"),
}
_NEUTRAL: dict[str, tuple[str, ...]] = {  # the thumb says which way
    "helpful": ("helpfulness", "relevance", "clarity"),
    "correct": ("correctness", "accuracy", "facts"),
    "safe": ("safety", "harm"),
    "tone": ("tone", "style", "manner"),
    "length": ("length", "size"),
}
REASONS: dict[str, tuple[str, bool | None]] = {
    slug: (criterion, good)
    for good, table in ((True, _GOOD), (False, _BAD), (None, _NEUTRAL))
    for criterion, slugs in table.items()
    for slug in slugs
}
"""The known reasons of votes, each with its criterion and whether a reply meets it; None where the thumb says
which way."""
