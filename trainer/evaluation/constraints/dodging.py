"""Dodging is to refuse, or only to ask back: phrases of eleven languages, and the form of the sentences.

A policy that is marked down for wrong answers may learn to give none. The phrases are those by which chat
models refuse. A reply that is sorry to hear of something, or asks at its end whether there is more to do,
does not dodge.
"""

import re

REFUSAL_CHARACTERS = 240
"""Characters of a reply that are searched for a refusal: it stands at the beginning."""

LEAD_WORDS = 2
"""Most words, beside its questions, of a reply that only asks."""

_CANNOT = r"(?:can'?t|can ?not|won't|will not|(?:am|'m) (?:un|not )able to|must decline to|refuse to)"
_HELP = (
    r"(?:help|assist|answer|provide|do (?:that|this|so)|discuss|comply|fulfil|continue|respond|give|tell"
    r"|share|write|talk|support|engage|offer|advise|comment)"
)
_REFUSALS = (
    # English
    rf"\bi ?{_CANNOT} {_HELP}",
    rf"\bsorry,? (?:but )?(?:i|that's something i) ?{_CANNOT}\b",
    r"\bas an? (?:ai|language model|artificial intelligence)(?: \w+)?(?: \w+)?,? i\b",
    r"\bnot something (?:that )?i can (?:help|do|answer)",
    r"\bi(?:'m| am) not allowed to\b",
    r"\bi(?:'d| would) rather not (?:answer|say|talk|do)\b",
    r"\bagainst my (?:guidelines|policy|policies|programming|rules)\b",
    # German, Dutch
    r"\bich kann (?:dir|ihnen|euch|dabei|darauf)\b[^.!?]{0,60}\bnicht\b",
    r"\btut mir leid,? (?:aber )?(?:das |dabei )?(?:kann ich|ich kann)\b",
    r"\bals (?:ki|sprachmodell)\b",
    r"\bik kan (?:je|u|daar|hier)\b[^.!?]{0,40}\bniet\b",
    r"\bals (?:een )?(?:taalmodel|ai-assistent)\b",
    # French, Spanish, Italian, Portuguese
    r"\bje ne (?:peux|puis) pas (?:vous |t'|te )?(?:aider|répondre|faire|fournir|donner)",
    r"\bdésolée?,? (?:mais )?je ne (?:peux|puis) pas\b",
    r"\ben tant qu'(?:ia|intelligence artificielle)\b",
    r"\bno puedo (?:ayudar|responder|contestar|hacer|proporcionar|dar|cumplir)",
    r"\blo siento,? (?:pero )?no puedo\b",
    r"\bcomo (?:modelo de lenguaje|una ia|inteligencia artificial)\b",
    r"\bnon posso (?:aiutar|risponder|fornir|dar|far)",
    r"\bmi dispiace,? (?:ma )?non posso\b",
    r"\bnão posso (?:ajudar|responder|fornecer|fazer|dar)",
    r"\bdesculpe,? (?:mas )?não posso\b",
    # Polish, Russian
    r"\bnie mogę (?:ci |panu |pani )?(?:pomóc|odpowiedzieć|tego zrobić|udzielić)",
    r"\bне могу (?:вам |тебе )?(?:помочь|ответить|выполнить|предоставить|дать)",
    r"\bкак языковая модель\b",
    # Chinese, Japanese
    r"(?:抱歉|对不起|很遗憾)[,，]?\s*(?:但是?)?我(?:无法|不能)",
    r"我(?:无法|不能)(?:回答|提供|帮助|协助|满足)",
    r"(?:申し訳|すみません|恐れ入ります)[^。]{0,30}(?:できません|できかねます)",
)
_REFUSAL = re.compile("|".join(_REFUSALS), re.IGNORECASE)
_SENTENCE = re.compile(r"[^.!?。！？؟…\n]+[.!?。！？؟…\n]*")
_CJK = "぀-ヿ㐀-鿿가-힯"
_WORD = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+")


def refuses(text: str) -> bool:
    """Whether a reply begins with a refusal."""
    return _REFUSAL.search(text[:REFUSAL_CHARACTERS].replace("’", "'")) is not None


def only_asks(text: str) -> bool:
    """Whether a reply has a question, and beside its questions at most LEAD_WORDS words."""
    asked, stated = 0, 0
    for sentence in _SENTENCE.findall(text):
        words = len(_WORD.findall(sentence))
        if any(mark in sentence for mark in "?？؟"):
            asked += words
        else:
            stated += words
    return asked > 0 and stated <= LEAD_WORDS


def dodges(text: str) -> bool:
    """Whether a reply refuses, or only asks back."""
    return refuses(text) or only_asks(text)
