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
