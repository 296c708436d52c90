"""A `Language` holds the phrases by which plain rules know criteria in comments of that language.

Phrases, and all other words here, are regular expressions, matched against text as `folded` leaves it; they
are folded themselves, so they may be written as people write.
"""

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

_ARABIC_LETTERS = {  # letters that people use for each other, and marks that most leave out
    **dict.fromkeys("أإآٱ", "ا"), "ى": "ي", "ة": "ه",
    **dict.fromkeys(["\u0640", "\u0670", *map(chr, range(0x064B, 0x0660))], ""),
}  # fmt: skip
_FOLDING = str.maketrans({"’": "'", **_ARABIC_LETTERS})


def folded(text: str) -> str:
    """Returns the text without what the same word may be written with or without: case, forms of characters
    (NFKC), and Arabic vowel marks."""
    return unicodedata.normalize("NFKC", text).casefold().translate(_FOLDING)


@dataclass(frozen=True, slots=True)
class Language:
    """What the rules know of a language: `function_words`, by which a comment of several words is known to be
    in it; `phrases` by criterion, of replies that meet it and of those that do not; words that turn a phrase
    round (`negations`) or make it say nothing (`wishes`), where they stand shortly before it; `emphases`,
    which have a negation and deny nothing. `prefix` is what may be written to the front of a phrase."""

    function_words: str
    phrases: Mapping[str, tuple[str, str]]
    negations: str
    wishes: str
    emphases: str
    prefix: str = ""


ENGLISH = Language(
    function_words=r"the|this|that|it|it's|its|too|not|very|and|you|answers?|reply|replies|but",
    phrases={
        "helpful": (
            r"helpful|helped|useful|clear|clearly|complete|on point|answers? (?:my|the) question",
            r"unhelpful|useless|unclear|confusing|incomplete|off[- ]topic|irrelevant|misses the point|evasive"
            r"|(?:does not|doesn't|didn't|did not) answer|ignored (?:my|the) question",
        ),
        "correct": (
            r"correct|correctly|accurate|right answer|is right|true|factual",
            r"incorrect|wrong|inaccurate|false|untrue|made[- ]up|hallucinat\w+|outdated|mistakes?|errors?",
        ),
        "safe": (
            r"safe|harmless|responsible",
            r"unsafe|harmful|dangerous|offensive|toxic|inappropriate|hateful|insult\w*|abusive|irresponsible",
        ),
        "tone": (
            r"friendly|polite|kind|warm|charming|pleasant|nice tone|good tone",
            r"unfriendly|impolite|rude|cold|condescending|arrogant|patronising|patronizing|gushing|robotic"
            r"|preachy|bad tone|wrong tone",
        ),
        "length": (
            r"concise|to the point|right length|good length|succinct",
            r"too (?:long|short|brief|wordy|verbose|detailed)|verbose|long[- ]winded|wordy|rambling|rambles",
        ),
    },
    negations=r"not|never|no|nothing|hardly|without|lacks?|cannot|\w+n't",
    wishes=r"more|less|should|could|would|if",
    emphases=r"no doubt|without (?:a )?doubt|not only|not just",
)

# A verb is denied behind it ("hilft mir nicht"); an adjective before another is an adverb ("richtig gut").
_DENIED = r"(?: (?:mir|uns|leider|so|gar|überhaupt|auch|einfach|ganz|wirklich|hier))* (?:nichts?|nie|kaum)"
_ALONE = r"(?=\s*(?:$|[^\w\s]|(?:und|aber|oder|genug|beantwortet|erklärt|formuliert|strukturiert)\b))"

GERMAN = Language(
    function_words=r"das|ist|nicht|und|ich|meine?|eine?|einen|einer|sehr|zu|aber|auch|keine?|wurde|wird|sind"
    r"|diese[rsnm]?|antwort|antworten|leider|viel|ganz|gar|für|dass|wäre|mir|hätte|nur|noch",
    phrases={
        "helpful": (
            rf"hilfreich\w{{0,2}}|nützlich\w{{0,2}}|verständlich\w{{0,2}}|(?:klar|vollständig){_ALONE}"
            r"|(?:klare|vollständige)[rsnm]?|geholfen|frage beantwortet"
            rf"|(?:hilft|beantwortet (?:meine|die) frage)(?!{_DENIED})",
            r"unklar\w{0,2}|unverständlich\w{0,2}|unvollständig\w{0,2}|nutzlos\w{0,2}|unbrauchbar\w{0,2}"
            r"|verwirrend\w{0,2}|irrelevant\w{0,2}|ausweichend\w{0,2}|am thema vorbei|thema verfehlt"
            r"|themaverfehlung|frage (?:leider |gar |überhaupt )?nicht beantwortet"
            rf"|(?:hilft|beantwortet (?:meine|die) frage){_DENIED}",
        ),
        "correct": (
            rf"(?:richtig|korrekt){_ALONE}|(?:richtige|korrekte) (?:antwort|lösung|angaben?)"
            rf"|zutreffend\w{{0,2}}|fehlerfrei\w{{0,2}}|stimmt(?!{_DENIED})",
            r"falsch\w{0,2}(?! ton)|inkorrekt\w{0,2}|fehlerhaft\w{0,2}|fehlern?|ungenau\w{0,2}|gelogen"
            rf"|unwahr\w{{0,2}}|erfunden\w{{0,2}}|ausgedacht|veraltet\w{{0,2}}|halluzin\w+|stimmt{_DENIED}",
        ),
        "safe": (
            r"unbedenklich\w{0,2}|harmlos\w{0,2}|ungefährlich\w{0,2}|verantwortungsvoll\w{0,2}",
            r"gefährlich\w{0,2}|schädlich\w{0,2}|beleidigend\w{0,2}|beleidigt|beleidigung\w{0,2}"
            r"|unangemessen\w{0,2}|anstößig\w{0,2}|rassistisch\w{0,2}|diskriminierend\w{0,2}"
            r"|verantwortungslos\w{0,2}",
        ),
        "tone": (
            r"freundlich\w{0,2}|höflich\w{0,2}|nett|nette[rsnm]?|herzlich\w{0,2}|warm|warme[rsnm]?"
            r"|sympathisch\w{0,2}|charmant\w{0,2}|angenehm\w{0,2}(?! (?:kurz|knapp|lang))|guter ton",
            r"unfreundlich\w{0,2}|unhöflich\w{0,2}|frech\w{0,2}|kalt|kalte[rsnm]?|herablassend\w{0,2}"
            r"|arrogant\w{0,2}|überheblich\w{0,2}|belehrend\w{0,2}|patzig\w{0,2}|schroff\w{0,2}"
            r"|überschwänglich\w{0,2}|roboterhaft\w{0,2}|falsche[rn]? ton",
        ),
        "length": (
            r"kurz und (?:bündig|knapp)|prägnant\w{0,2}|auf den punkt|richtige länge|gute länge"
            r"|(?:angenehm|schön) kurz",
            r"zu (?:lang|kurz|knapp|ausführlich|wortreich|detailliert)\w{0,2}|weitschweifig\w{0,2}|geschwafel"
            r"|langatmig\w{0,2}|ausschweifend\w{0,2}|ausufernd\w{0,2}|geschwätzig\w{0,2}|schwafelt",
        ),
    },
    negations=r"nicht|nie|niemals|kein|keine[rsnm]?|keinerlei|nichts|ohne|kaum|weder",
    wishes=r"mehr|weniger|sollten?|könnten?|würden?|wäre|hätte|wenn|falls|bitte",
    emphases=r"nicht nur|ohne zweifel|kein zweifel|keine frage",
)

ARABIC = Language(
    function_words=r"هذا|هذه|الرد|الإجابة|إجابة|الجواب|في|على|عن|إن|أن|إنه|إنها|أنه|أنها|ليس|ليست|لم|لا|غير|جدا"
    r"|كان|كانت|لكن|ولكن|الكلام|هو|هي|مش|بشكل|مع",
    phrases={
        "helpful": (
            r"(?:مفيد|نافع|واضح|شامل)(?:ة|ا)?|(?:إجابة|رد|جواب) كاملة?|(?<!ما )(?:ساعدني|ساعدتني|أفادني)"
            r"|يفيد|تفيد|أجابت? (?:عن|على) سؤالي",
            r"(?:مربك|مبهم|غامض|ناقص)(?:ة|ا)?|خارج الموضوع|لا علاقة (?:له|لها)|(?:بلا|بدون) فائدة"
            r"|عديمة? الفائدة|غير مفهومة?|ما (?:ساعدني|ساعدتني|أفادني)",
        ),
        "correct": (
            r"(?:صحيح|صائب)(?:ة|ا)?|دقيق|(?:إجابة|معلومات|معلومة) دقيقة",
            r"خطأ|أخطاء|غلط|(?:خاطئ|كاذب|مغلوط|مختلق|ملفق)(?:ة|ا)?|(?:معلومات|معلومة) قديمة|هلوسة"
            r"|(?:غير|ليس|ليست) دقيق(?:ة|ا)?",
        ),
        "safe": (
            r"(?<!ل)آمن(?:ة|ا)?",
            r"(?:خطير|ضار|مؤذ|مؤذي|مسيء|مسيئ|مهين|عنصري|جارح)(?:ة|ا)?|غير لائقة?|إهانة|شتيمة|شتمني"
            r"|أهانني",
        ),
        "tone": (
            r"(?:لطيف|ودود|مهذب|مؤدب|محترم|لبق|دافئ)(?:ة|ا)?|أسلوبه? (?:جميل|رائع|جيد)",
            r"(?:وقح|فظ|متعجرف|مغرور|متغطرس|بارد|جاف)(?:ة|ا)?|متعالي?|أسلوبه? (?:سيء|سيئ)|قليل الأدب",
        ),
        "length": (
            r"(?:مختصر|موجز)(?:ة|ا)?(?! (?:جدا|أكثر))|طوله? مناسب|في صلب الموضوع",
            r"(?:طويل|قصير)(?:ة|ا)? (?:جدا|للغاية|أكثر من اللازم)|(?:أطول|أقصر) من اللازم"
            r"|(?:مطول|مسهب)(?:ة|ا)?|ثرثرة|حشو|كثير الكلام",
        ),
    },
    negations=r"[وف]?(?:ليس|ليست|ليسا|لا|لم|لن|غير|مش|مو)|بدون|دون|بلا",
    wishes=r"أكثر|أقل|لو|ليت|ليته|ليتها|يجب|ينبغي|يمكن|ممكن|أتمنى|أرجو|لازم|إذا",
    emphases=r"(?:لا|بلا|دون|بدون) شك|(?:ليس|ليست) فقط",
    prefix=r"[وف]?(?:ال|لل)?",
)

LANGUAGES = (ENGLISH, GERMAN, ARABIC)
