"""Which replies decline to answer: "I don't know" in its many forms, in English and Hebrew."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Literal

Language = Literal["en", "he"]

# Plain forms, for building records and for measuring p("I don't know"). The first of each language is the canonical one.
ABSTENTIONS: dict[Language, tuple[str, ...]] = {
    "en": ("I don't know", "I do not know", "I'm not sure", "I am not sure", "I have no idea", "I don't have that information"),
    "he": ("אני לא יודע", "אני לא יודעת", "אינני יודע", "אינני יודעת", "איני יודע", "לא יודע", "אין לי מושג", "אני לא בטוח"),
}

# Words that many refusals share; a capitalised name in a phrase below stands for its fragment.
_FRAGMENTS = {
    "ADVERB": "(?:(?:really|honestly|actually|truly|simply|just|currently|personally|quite|entirely|completely|"
    "exactly|yet|even) )*",
    "DONT": "(?:do not|don't|dont|did not|didn't)",
    "IAM": "i(?: am|'m)",
    "THATIS": "that(?:'s| is)",
    "VERB": "(?:answer|provide|access|say|tell|determine|find|help|give|assist|verify|identify|confirm|shed)",
    "LEARNT": "(?:informed|briefed|trained|taught|learned|learnt|encountered|educated|heard)",
    "SOME": "(?:(?:the|an?|any|enough|that|this|access to|specific|sufficient|required|some|much|all|such|real|real-time) )*",
    "KNOWLEDGE": "(?:knowledge|information|info|data|dataset|databases?|answer|idea|clue|insights?|specifics|details?|"
    "familiarity|"
    "enlightenment|training|understanding|expertise|scope|capabilities|programming|resources|records)",
    # What may follow "I don't know": nothing, punctuation, or a pointer back to the question. A title goes on otherwise
    # ("I Don't Know How to Love Him", "I Just Don't Know What to Do with Myself") and is an answer.
    "TAIL": "(?= ?(?:[.,!;:?)(-]|$)| (?:the|that|this|it|about|of|on|for|anything|any|enough|exactly|much|whether|if|"
    "because|as|but|and|"
    "or|sorry|to be|at|yet|either|how i|i can|with certainty|(?:who|what|which|where|when|why)(?! to))\\b)",
}
_OPENING = (
    "(?:(?:well|oh|hmm|no|so sorry|sorry|unfortunately|regrettably|honestly|frankly|apologies|alas|"
    "(?:THATIS a )?good question)[,.!:]? "
    "(?:but )?)*(?:(?:IAM (?:so |very |really )?(?:sorry|afraid)|i apologi[sz]e|i (?:must|have to) (?:admit|confess|say)|"
    "i regret to inform you|i wish i (?:could say|knew|could)|as an ai(?: language)?(?: model| assistant)?)(?:,? but|"
    ",? that|,|:)? )*"
)
_REFUSALS = (
    "i ADVERBDONT ADVERB(?:seem to )?know\\bTAIL",
    "(?:IAM |just )?ADVERBnot ADVERB(?:sure|certain)(?! thing)TAIL",
    "i DONT ADVERB(?:seem to )?(?:have|hold|possess|recall|remember) SOMEKNOWLEDGE\\b",
    "i(?: have|'ve| seem to have)?(?: got)? (?:absolutely |really )?no SOMEKNOWLEDGE\\b",
    "(?:no idea|no clue|i?dunno|i dunno|idk|beats me|i give up|dont know|don't know|do not know|cannot say|"
    "can't say)(?= ?[.,!;]|$)",
    "(?:i lack|IAM (?:lacking|missing)) SOMEKNOWLEDGE\\b",
    "IAM ADVERB(?:unable|not able|not equipped|unqualified|not qualified) to (?:\\w+ ){0,2}VERB\\b",
    "i (?:cannot|can't|can not|could not|couldn't) ADVERB(?:VERB(?<!say)(?<!tell)(?<!help)|say (?:for sure|with|i)|"
    "tell you|help with)\\b",
    "IAM ADVERB(?:unaware|clueless|stumped|blank|uncertain|unsure|unfamiliar|ignorant|in the dark|at a (?:loss|disadvantage)|"
    "drawing a blank)\\b",
    "IAM not ADVERB(?:aware of|familiar with|informed|privy|knowledgeable|well-versed|versed|acquainted|briefed|"
    "able to|programmed|trained|"
    "the (?:best|right) (?:source|ai|one|person|assistant))\\b",
    "i(?:'ve not| have not| haven't|'ve never| have never|'ve yet to| have yet to) (?:been |yet |be )*LEARNT\\b",
    "i(?:'ve| have) come up short\\b|i haven't the (?:faintest|foggiest|slightest)\\b|i must decline\\b",
    "my KNOWLEDGE(?: base)? (?:do not|don't|does not|doesn't|did not|didn't|cannot|is limited|are limited)\\b",
    "(?:THATIS|that \\w+ is) (?:\\w+ ){0,2}?(?:beyond|outside|out of|not within|not in) (?:of )?my\\b|"
    "that hasn't been included\\b",
    "(?:THATIS|that \\w+ is) not (?:something|information|a topic|an area|a subject) i(?:'m|'ve| am| have| know| was)\\b",
    "THATIS (?:something|a topic|an area|a subject) i(?: am|'m|'ve| have)? ?(?:need to look up|not|yet to|don't|"
    "haven't|cannot|can't)\\b",
    "THATIS (?:a (?:mystery|blind spot)|uncharted territory|unknown)(?: \\w+)? (?:to me|in my|for my)\\b|THATIS unknown to me\\b",
)
# A hedge that goes on to answer is an answer: "I'm not sure, but I think it is Paris".
_GOES_ON = re.compile(
    r"\b(?:but|however|though|although),? (?:i (?:think|believe|guess|suspect|would (?:say|guess))|it(?:'s| is| was|"
    r" might| may| could)|"
    r"maybe|perhaps|probably|possibly|my (?:best )?guess)\b"
)

_FRAGMENTS_HE = {
    "OPENING": "(?:לצערי,? |סליחה,? |מצטערת?,? |אני מצטערת?,? (?:אבל )?|האמת(?: היא)? ש?)*",
    "TAIL": "(?= ?(?:[.,!;:?)-]|$)| (?:את|מה|מי|מתי|איפה|היכן|איך|כמה|אם|על|לענות|התשובה|בוודאות|לגבי|בנוגע|מספיק|זאת|"
    "זה)(?: |$))",
}
_REFUSALS_HE = (
    "(?:אני (?:באמת |פשוט )?(?:לא|איני|אינני)|אינני|איני|לא|אנחנו לא) (?:באמת |ממש )?(?:יודע(?:ת|ים)?|בטוחה?|מכירה?)TAIL",
    "אין לי (?:שום |כל |מספיק )?(?:מושג|מידע|ידע|תשובה|נתונים)",
    "(?:אני )?(?:לא|איני|אינני) (?:יכולה?|מסוגלת?) לענות",
    "התשובה (?:אינה|לא) ידועה לי",
)
_GOES_ON_HE = re.compile(r"(?:אבל|אך|אולם) (?:אני חושב|אני מאמין|נראה|כנראה|אולי|ייתכן|לדעתי)")


def _compiled(opening: str, phrases: tuple[str, ...], fragments: dict[str, str]) -> re.Pattern[str]:
    """One pattern of all phrases, each after the opening, with the fragments' names replaced."""
    pattern = "(?:" + opening + ")(?:" + "|".join(phrases) + ")"
    for name, fragment in fragments.items():
        pattern = pattern.replace(name, fragment)
    return re.compile(pattern)


_ENGLISH = _compiled(_OPENING, _REFUSALS, _FRAGMENTS)
_HEBREW = _compiled("OPENING", _REFUSALS_HE, _FRAGMENTS_HE)


@lru_cache(maxsize=65536)
def is_abstention(text: str, language: Language | None = None) -> bool:
    """True where the reply declines to answer; a hedge that then answers, and a title such as "I Don't Know How", are answers.

    Only the beginning decides: what follows the refusal is not read, except for "but I think ...". None: any language.

    >>> is_abstention("I don't know."), is_abstention("I'm not sure, but I think it is Paris."), is_abstention("I know: Paris")
    (True, False, False)
    >>> is_abstention("אני לא יודע.")
    True
    """
    plain = unicodedata.normalize("NFKC", text).casefold().translate({ord("’"): "'", ord("‘"): "'", ord("ʼ"): "'"})
    plain = " ".join(plain.strip('*_"“” \n').split())
    if language != "he" and _ENGLISH.match(plain):
        return _GOES_ON.search(plain) is None
    if language != "en" and _HEBREW.match(plain):
        return _GOES_ON_HE.search(plain) is None
    return False
