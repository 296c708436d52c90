"""Toxicity is measured by a list of offensive words, that of the package `better-profanity` (MIT License).

The package is optional (the extra `safety`), and its list is read without running it. A list finds no insult
that is made of harmless words, which is for the people who vote and for the operator's own list to find. The
package also lists words of kitchens, hospitals, history lessons and people's identities; these are left out
(HARMLESS). No classifier is used: those that ship in wheels are pickles, and nothing here is unpickled.
"""

from functools import cache
from importlib import resources
from importlib.util import find_spec

from trainer.evaluation.constraints.word_list import WordList

_PACKAGE, _FILE = "better_profanity", "profanity_wordlist.txt"

_HARMLESS = """
cowgirl cowgirls dink dong drunk dummy enlargement erect facial fat flange gae gai ganja gey god hemp
heroin hoar homey hooch hookah hump humped jerk jerked junkie junky kill knob kum len leper lmao loin
loins lube lust lusting lusty mams massa maxi meth muff murder nad naked napalm nappy nimrod ninny omg
opiate opium organ paddy pantie panties panty pastie pasty pawn pcp penetrate penetration peyote
phallic playboy pms pollock poop pot potty prig prude puss queer racy reefer reich revue rum rump
sandbar scantily screw screwed seaman seamen sex sexual shag slave slope snatch sniper sodom souse
soused spunk steamy stoned strip stroke suck sucked sucking tawdry thrust thug tinkle titi toke toots
tramp trashy tush ugly undies unwed uzi valium viagra virgin vixen vodka voyeur vulgar wad wang wedgie
weed weirdo whiz willies willy woody xx yury

anal anus areole breasts clitoris erection foreskin glans gonad gonads herpes hymen labia menses
menstruate menstruation nipple nipples oral orally ovary ovum ovums pee penial penile penis perversion
pubic pubis rectal rectum rectus scrotum semen sperm tampon teat testes testicle testis urinal
urine uterus vagina vomit womb

gay gays lesbians masochist sadism sadist transsexual
"""
HARMLESS = frozenset(_HARMLESS.split())
"""Words of the list that offend nobody where they stand alone."""

NOT_INSTALLED = "there is no list of offensive words: pip install 'hearken[safety]'"
"""Why toxicity is not judged."""


@cache
def offensive_words() -> WordList | None:
    """Returns the list; None where the package is not installed."""
    if find_spec(_PACKAGE) is None:
        return None
    text = resources.files(_PACKAGE).joinpath(_FILE).read_text(encoding="utf-8")
    return WordList(phrase for phrase in text.splitlines() if phrase.casefold() not in HARMLESS)
