"""English verb forms that the rule negator needs: auxiliaries, and the commonest verbs with their third person and past."""

from __future__ import annotations

import re
from types import MappingProxyType

# "not" may follow these directly, and negates the whole clause. Left out: must, should, shall, may, might, ought, whose "not"
# binds otherwise ("must not" is no negation of "must").
AUXILIARIES = frozenset(
    ("is", "are", "was", "were", "am", "can", "could", "will", "would", "does", "do", "did", "has", "have", "had")
)
UNSAFE_AUXILIARIES = frozenset(("must", "should", "shall", "may", "might", "ought", "need", "dare"))
CONTRACTED = MappingProxyType(
    {f"{word}n't": word for word in ("is", "are", "was", "were", "could", "would", "does", "do", "did", "has", "have", "had")}
    | {"can't": "can", "cannot": "can", "won't": "will"}
)

_REGULAR = """
    accept act add affect allow answer appear ask attack attract become begin believe belong bite border break bring
    build buy call carry catch cause change close come compose conquer consist contain control cook cost cover create
    cross cry cure cut dance defeat depend describe design destroy develop die differ direct discover drink drive eat
    enable end enjoy enter establish evolve exist explain explode export face fall feature feed fight find finish
    float flow fly follow force form freeze give go govern grow happen hate have hear help hibernate hold host hunt
    import include increase influence invade invent join jump kill know last lay lead learn leave lie like live lose
    love make marry mean measure meet melt migrate move need occur open orbit own paint play possess prevent produce
    protect prove provide publish pump reach read receive reduce reflect release remain repel represent require rotate
    rule run say see sell send separate serve share shine show sing sink sit sleep speak spend stand start stop suffer
    support surround swim take teach tell think travel treat turn use visit walk want wear weigh win work write :
"""
_IRREGULAR = """
    become:became begin:began bite:bit break:broke bring:brought build:built buy:bought catch:caught come:came
    cost:cost cut:cut drink:drank drive:drove eat:ate fall:fell feed:fed fight:fought find:found fly:flew freeze:froze
    give:gave go:went grow:grew have:had hear:heard hold:held know:knew lay:laid lead:led learn:learned leave:left
    lie:lay lose:lost make:made mean:meant meet:met pay:paid read:read run:ran say:said see:saw sell:sold send:sent
    shine:shone show:showed sing:sang sink:sank sit:sat sleep:slept speak:spoke spend:spent stand:stood swim:swam
    take:took teach:taught tell:told think:thought wear:wore win:won write:wrote
"""
_IRREGULAR_PAST: dict[str, str] = dict(re.findall(r"(\w+):(\w+)", _IRREGULAR))
_DOUBLED = frozenset(("repel", "stop"))  # the past doubles the last letter


def third_person(base: str) -> str:
    """He, she or it ...s.

    >>> third_person("fly"), third_person("reach"), third_person("have"), third_person("play")
    ('flies', 'reaches', 'has', 'plays')
    """
    if base == "have":
        return "has"
    if base.endswith("y") and base[-2] not in "aeiou":
        return base[:-1] + "ies"
    return base + ("es" if base.endswith(("s", "sh", "ch", "x", "z", "o")) else "s")


def past(base: str) -> str:
    """The simple past.

    >>> past("write"), past("invade"), past("stop"), past("carry")
    ('wrote', 'invaded', 'stopped', 'carried')
    """
    if base in _IRREGULAR_PAST:
        return _IRREGULAR_PAST[base]
    if base in _DOUBLED:
        return base + base[-1] + "ed"
    if base.endswith("e"):
        return base + "d"
    return base[:-1] + "ied" if base.endswith("y") and base[-2] not in "aeiou" else base + "ed"


VERBS = frozenset(_REGULAR.split()) | frozenset(_IRREGULAR_PAST)
# A form that is its own base ("cut", "read", "cost") is left out of the past: only "did not cut" would tell.
THIRD_PERSON = MappingProxyType({third_person(verb): verb for verb in VERBS})
PAST = MappingProxyType({past(verb): verb for verb in VERBS if past(verb) not in VERBS})
