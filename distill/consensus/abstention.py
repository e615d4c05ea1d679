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

_NOT = r"(?:do not|don't|dont|cannot|can't|can not|could not|couldn't|am not|'m not|have not|haven't|'ve not|did not|didn't)"
_ADVERB = r"(?:(?:really|honestly|actually|truly|simply|just|currently|personally|quite|entirely|completely|exactly|yet|even|seem to) )*"
_OPENING = (
    r"(?:(?:well|oh|hmm|no|sorry|so sorry|unfortunately|regrettably|honestly|frankly|apologies|alas|that's a good question|good question)[,.!:]? (?:but )?)*"
    r"(?:(?:i(?: am|'m) (?:so |very |really )?sorry|i apologi[sz]e|i(?: am|'m) afraid|i (?:must|have to) (?:admit|confess|say)|i regret to inform you|"
    r"i wish i (?:could say|knew|could)|as an ai(?: language)?(?: model| assistant)?)(?:,? but|,? that|,|:)? )*"
)
_KNOWLEDGE = (
    r"(?:knowledge|information|info|data|dataset|database|databases|answer|idea|clue|insight|insights|specifics|details?|familiarity|enlightenment|"
    r"training|understanding|expertise|scope|capabilities|programming|resources|records)"
)
# What may follow "I don't know": nothing, punctuation, or a pointer back to the question. A title goes on otherwise
# ("I Don't Know How to Love Him") and is an answer.
_TAIL = (
    r"(?= ?(?:[.,!;:?)(-]|$)| (?:the|that|this|it|about|of|on|for|anything|any|enough|exactly|much|(?:who|what|which|where|when|why)(?! to)|whether|if|because|as|"
    r"but|and|or|sorry|to be|at|yet|either|with certainty)\b)"
)
_NEGATED_HAVE = r"(?:do not|don't|dont|did not|didn't) " + _ADVERB + r"(?:have|hold|possess|recall|remember)"

_ENGLISH = tuple(
    re.compile(r"^" + _OPENING + pattern)
    for pattern in (
        r"i " + _ADVERB + r"(?:do not|don't|dont|did not|didn't) " + _ADVERB + r"know" + _TAIL,
        r"(?:i(?: am|'m) |just )?" + _ADVERB + r"not " + _ADVERB + r"(?:sure|certain)(?! thing)" + _TAIL.replace("either", "either|how|i can"),
        r"i " + _NEGATED_HAVE + r" (?:the |an? |any |enough |that |this |access to |specific |sufficient |much |all |such )*" + _KNOWLEDGE + r"\b",
        r"i(?: have|'ve| seem to have)?(?: got)? (?:absolutely |really )?no (?:real )?" + _KNOWLEDGE + r"\b",
        r"(?:no idea|no clue|dunno|i dunno|idk|beats me|i give up|don't know|do not know|dont know|cannot say|can't say)(?= ?[.,!;]|$)",
        r"i (?:lack|am lacking|'m lacking|am missing|'m missing)(?: the| any| some| enough| required)* " + _KNOWLEDGE + r"\b",
        r"i'm (?:lacking|missing)(?: the| any| some| enough| required)* " + _KNOWLEDGE + r"\b",
        r"i(?: am|'m) " + _ADVERB + r"(?:unable|not able|not equipped|unqualified|not qualified) to (?:\w+ ){0,2}(?:answer|provide|access|say|tell|determine|find|help|give|assist|verify|identify)\b",
        r"i(?: cannot|'m unable to| can't| can not| could not| couldn't) " + _ADVERB + r"(?:answer|provide|shed|find|determine|give|tell you|verify|confirm|help with|assist|say(?: for sure| with| i))\b",
        r"i(?: am|'m) " + _ADVERB + r"(?:unaware|clueless|stumped|blank|uncertain|unsure|unfamiliar|ignorant|in the dark|at a (?:loss|disadvantage)|drawing a blank)\b",
        r"i(?: am|'m) not " + _ADVERB + r"(?:aware of|familiar with|informed|privy|knowledgeable|well-versed|versed|acquainted|briefed|able to|programmed|trained|"
        r"the (?:best|right) (?:source|ai|one|person|assistant))\b",
        r"i(?: have|'ve)(?: not|n't)? ?(?:yet to|not|n't|never)? ?(?:been |yet )?(?:informed|briefed|trained|taught|learned|learnt|encountered|educated|heard|be informed|come up short)\b",
        r"i haven't (?:been )?(?:informed|briefed|trained|taught|learned|learnt|encountered|educated|heard|the (?:faintest|foggiest|slightest))\b",
        r"i must decline\b",
        r"my " + _KNOWLEDGE + r"(?: base)? (?:do not|don't|does not|doesn't|did not|didn't|cannot|is limited|are limited)\b",
        r"that(?:'s| is| was|'s been|has been)?(?: \w+){0,2}? (?:beyond|outside|out of|not (?:within|in)) my\b",
        r"that (?:hasn't|has not|was not|wasn't) been included in my\b|that hasn't been included\b",
        r"that(?:'s| is| \w+ is) (?:out of|beyond|outside|not within|not in) (?:of )?my\b",
        r"that(?:'s| is| \w+ is) not (?:something|information|a topic|an area|a subject) i(?:'m| am|'ve| have| know| was)\b",
        r"that(?:'s| is) (?:something|a topic|an area|a subject) i(?: am|'m|'ve| have)? ?(?:need to look up|not|yet to|don't|haven't|cannot|can't)\b",
        r"that(?:'s| is) (?:a (?:mystery|blind spot)|uncharted territory|unknown)(?: \w+)? (?:to me|in my|for my)\b|that(?:'s| is) unknown to me\b",
        r"that information is not (?:available to me|within my)\b",
    )
)
# A hedge that goes on to answer is an answer: "I'm not sure, but I think it is Paris".
_GOES_ON = re.compile(
    r"\b(?:but|however|though|although),? (?:i (?:think|believe|guess|suspect|would (?:say|guess))|it(?:'s| is| was| might| may| could)|maybe|perhaps|probably|possibly|my (?:best )?guess)\b"
)
_SUBJECT_HE = r"(?:לצערי,? |סליחה,? |מצטער(?:ת)?,? |אני מצטער(?:ת)?,? (?:אבל )?|האמת(?: היא)? ש?)*"
_TAIL_HE = r"(?= ?(?:[.,!;:?)-]|$)| (?:את |מה|מי|מתי|איפה|היכן|איך|כמה|אם|על|לענות|התשובה|בוודאות|לגבי|בנוגע|מספיק|זאת|זה))"
_HEBREW = tuple(
    re.compile(r"^" + _SUBJECT_HE + pattern)
    for pattern in (
        r"(?:אני (?:באמת |פשוט )?(?:לא|איני|אינני)|אינני|איני|לא|אנחנו לא) (?:באמת |ממש )?(?:יודע(?:ת|ים)?|בטוח(?:ה)?|מכיר(?:ה)?)" + _TAIL_HE,
        r"אין לי (?:שום |כל |מספיק )?(?:מושג|מידע|ידע|תשובה|נתונים)",
        r"(?:אני )?(?:לא|איני|אינני) (?:יכול(?:ה)?|מסוגל(?:ת)?) לענות",
        r"איני? יכול(?:ה)? לענות|התשובה (?:אינה|לא) ידועה לי",
    )
)
_GOES_ON_HE = re.compile(r"(?:אבל|אך|אולם) (?:אני חושב|אני מאמין|נראה|כנראה|אולי|ייתכן|לדעתי)")


@lru_cache(maxsize=65536)
def is_abstention(text: str, language: Language | None = None) -> bool:
    """True where the reply declines to answer; a hedge that then answers, and a title such as "I Don't Know How", are answers.

    Only the beginning decides: what follows the refusal is not read, except for "but I think ...". None: any language.

    >>> is_abstention("I don't know."), is_abstention("I'm not sure, but I think it is Paris."), is_abstention("I know: Paris")
    (True, False, False)
    >>> is_abstention("אני לא יודע.")
    True
    """
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().replace("’", "'").replace("‘", "'").strip("*_\"“” \n").split())
    if language != "he" and any(pattern.match(plain) for pattern in _ENGLISH):
        return _GOES_ON.search(plain) is None
    if language != "en" and any(pattern.match(plain) for pattern in _HEBREW):
        return _GOES_ON_HE.search(plain) is None
    return False
