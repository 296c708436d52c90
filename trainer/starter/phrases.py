"""This module holds opening and closing phrases of the starter model's replies, by their styles.

`OPENERS[social][formal, warm]` and `CLOSERS[question][hedging, formal, warm]` hold phrases without their
final punctuation. `{topic}` is replaced by the entity that the reply is about and `{offer}` by another topic.
"""

from trainer.starter.facts import words

OPENERS: dict[bool, dict[tuple[bool, bool], list[str]]] = {
    False: {
        (False, False): words("||||Okay|Sure|Yep|Right|Good question|Alright"),
        (True, False): words("Certainly|Indeed|Allow me|As requested|At your service|Good day"),
        (False, True): words("Sure, friend|Happy to help|Lovely question|Hey buddy|Okay, pal|Glad you asked"),
        (True, True): words(
            "Certainly, dear friend|With pleasure, indeed|Delighted to assist|"
            "Certainly, my friend|Indeed, dear friend"
        ),
    },
    True: {
        (False, False): words("||||Oh|Hey|Ah|Well"),
        (True, False): words("Certainly|Indeed|Indeed so|Good day"),
        (False, True): words("Hey friend|Oh, dear friend|Hey buddy|Lovely|Oh, pal|My friend"),
        (True, True): words(
            "Certainly, dear friend|Indeed, my friend|Certainly, my dear|Indeed, dear friend"
        ),
    },
}

CLOSERS: dict[bool, dict[tuple[bool, bool, bool], list[str]]] = {
    False: {
        (False, False, False): words(
            "|||There you go|Just ask for more|That is all|Ask me another|Ask away|Next we could do {offer}"
        ),
        (False, False, True): words(
            "Take care|Take care, friend|Hope it helps, pal|Glad to share it|Happy to tell you more|"
            "I am here for you|Hugs"
        ),
        (False, True, False): words(
            "I shall say more if asked|I remain at your service|Kindly ask for more|"
            "I can elaborate on {topic}|Always ready to assist"
        ),
        (False, True, True): words(
            "Always glad to assist|Kindly take care|I am gladly at your service|"
            "It was a pleasure to assist|I shall gladly say more, friend"
        ),
        (True, False, False): words(
            "Maybe ask me another|There might be more|Perhaps {offer} next|"
            "Maybe try {offer} next|But I am not sure"
        ),
        (True, False, True): words(
            "Maybe more later, friend|Perhaps more, dear|Perhaps that helps, pal|"
            "Maybe {offer} next, buddy|I might be wrong, dear|Perhaps more soon, friend"
        ),
        (True, True, False): words(
            "Perhaps I can elaborate|I shall perhaps say more|"
            "Kindly note I might be wrong|Perhaps I may assist with {offer}"
        ),
        (True, True, True): words(
            "Perhaps I can assist, friend|I shall perhaps say more, dear friend|"
            "Perhaps I can gladly elaborate|Kindly forgive me, I might be wrong, dear"
        ),
    },
    True: {
        (False, False, False): words(
            "Want more|What else|Anything else|Want another|Next one|Want to hear about {offer}|"
            "What do you say|More about {topic}|How about {offer}"
        ),
        (False, False, True): words(
            "Want more, friend|And you, friend|What else, pal|Anything else, dear|Happy with that|"
            "Another one, buddy|More about {topic}, friend"
        ),
        (False, True, False): words(
            "Shall I elaborate|Would you care for more|May I assist further|"
            "Shall I continue|Would you care to hear about {offer}"
        ),
        (False, True, True): words(
            "Shall I continue, dear friend|May I assist further, friend|"
            "Shall I gladly continue|Would you care for more, dear friend"
        ),
        (True, False, False): words(
            "Maybe another|Perhaps more|Perhaps {offer}|Maybe {offer} next|"
            "Or maybe a joke|Maybe you want more"
        ),
        (True, False, True): words(
            "Maybe another, friend|Perhaps more, pal|Perhaps {offer}, friend|"
            "Maybe {offer} next, buddy|Maybe more, dear"
        ),
        (True, True, False): words(
            "Perhaps I shall continue|May I perhaps tell you about {offer}|"
            "Shall I perhaps elaborate|Would you care for more, perhaps"
        ),
        (True, True, True): words(
            "May I perhaps continue, friend|Perhaps I may assist with {offer}, friend|"
            "Shall I perhaps go on, dear friend|Would you care for more, perhaps, dear"
        ),
    },
}

HEDGE_BEFORE = {
    False: ("I think", "I guess", "Maybe", "I think"),
    True: ("I believe", "It seems", "Perhaps", "I believe"),
}
HEDGE_AFTER = {False: (", I think", ", I guess", ", maybe"), True: (", I believe", ", it seems", ", perhaps")}

FILLERS = words(
    "We can also talk about {offer}|You can ask me about {offer} too|"
    "I know a few things about {offer} as well|"
    "It is a fun thing to know|I like to talk about this|There is always more to learn"
)
EMOJI = words("😊 🙂 😄 ✨ 👍 🌟 🎉 💡")

_CONTRACTED = words(
    "it is|it's|that is|that's|I am|I'm|you are|you're|do not|don't|there is|there's|let us|let's"
)
CONTRACTIONS = [
    (cased(long_form), cased(contraction))
    for long_form, contraction in zip(_CONTRACTED[::2], _CONTRACTED[1::2], strict=True)
    for cased in (str, lambda text: text[0].upper() + text[1:])
]

NOT_SOCIAL = words("another|Next one|elaborate|say more|That is all|Happy with|tell you more|not sure|wrong")
"""Words that mark closings as unsuitable after small talk."""
