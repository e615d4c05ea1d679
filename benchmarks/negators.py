"""How often a negator's output is really false (or, of a false statement, true), and what share of statements it can change.

    python -m benchmarks.negators prepare --data DATA --out runs/negators     # the rules' pairs, and a small random model
    distill fit --config benchmarks/negators.yaml --model.student runs/negators/random \\
        --data.train runs/negators/train.jsonl --trainer.default_root_dir runs/negators/fit
    distill export --checkpoint runs/negators/fit/checkpoints/last.ckpt --out runs/negators/small
    python -m benchmarks.negators measure --data DATA --out runs/negators     # the table

The truth of what comes out is symbolic: `FactJudge` reads a statement on a country or an element and looks its fact up, so that
a swap that stays true is found out. Right negations of statements that the rules cannot parse are known in two ways: held-out
verbs, of whose pairs the small model has seen none, and sentence forms whose denials are written by hand (FORMS). What it makes
of 100 real statements was read by eye: benchmarks/results/negators_by_hand.jsonl.
"""

from __future__ import annotations

import json
import math
import random
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from distill.consensus.normalisation import normalise
from distill.judges.base import Judge, Verdict
from distill.negators import (
    AnswerSwap,
    DistractorNegator,
    EntitySwap,
    Negation,
    Negator,
    NumberChange,
    RuleNegator,
    TeacherNegator,
    TextToTextNegator,
    is_right,
)
from distill.negators.form import is_denial
from distill.negators.verbs import PAST, THIRD_PERSON, VERBS, past, third_person
from distill.recipes.statements import (
    COUNTRY_FORMS,
    ELEMENT_FORMS,
    Statement,
    country_facts,
    country_statements,
    element_facts,
    element_statements,
)
from distill.records import Message, Prompt, Record, Span, make_id, write_records
from distill.teachers.base import Generator, Sampling

RULES = RuleNegator()
PREFIX = "It is not true that "
MODEL = "smollm2-135m-instruct"
# Verbs whose pairs the small model never sees, and the rules know: drawn once from the rules' own list.
HELD_OUT = frozenset(random.Random(0).sample(sorted(VERBS), 40))
_HELD_OUT_FORMS = frozenset(form for verb in HELD_OUT for form in (verb, third_person(verb), past(verb)))
# Sentence forms that the rules refuse, with their denials written by hand.
FORMS = (
    ("capital", "", "{y} houses the government of {x}.", "{y} does not house the government of {x}."),
    ("capital", "", "The parliament of {x} convenes in {y}.", "The parliament of {x} does not convene in {y}."),
    ("continent", "", "{X} occupies a part of {y}.", "{X} does not occupy a part of {y}."),
    ("continent", "", "Maps place {x} in {y}.", "Maps do not place {x} in {y}."),
    ("currency", "", "Shops in {x} accept the {y}.", "Shops in {x} do not accept the {y}."),
    ("currency", "", "{X} issues the {y}.", "{X} does not issue the {y}."),
    ("neighbour", "", "{X} adjoins {y}.", "{X} does not adjoin {y}."),
    ("neighbour", "", "{X} and {y} share a border.", "{X} and {y} do not share a border."),
)
MORE_FORMS = (
    ("symbol", "", "Chemists abbreviate {x} as {y}.", "Chemists do not abbreviate {x} as {y}."),
    ("symbol", "", "The periodic table lists {x} as {y}.", "The periodic table does not list {x} as {y}."),
    ("number", "", "{y} is the atomic number of {x}.", "{y} is not the atomic number of {x}."),
    ("number", "", "The nucleus of {x} comprises {y} protons.", "The nucleus of {x} does not comprise {y} protons."),
)


# What to learn from


def trivia(data: Path) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """(question, right answer, the other choices) of OpenTriviaQA, in the files' order."""
    for path in sorted((data / "opentriviaqa").iterdir()):
        text = path.read_bytes().decode("utf-8", "replace").replace("\r\n", "\n")
        for block in re.split(r"\n\s*\n(?=#Q)", text):
            found = re.match(r"\s*#Q (.+?)\n\^ (.+)\n((?:[A-D] .*\n?)*)", block, flags=re.DOTALL)
            if found is None or "\ufffd" in block or "\n" in found[1]:
                continue
            answer = found[2].splitlines()[0].strip()
            choices = (line[2:].strip() for line in found[3].splitlines())
            yield found[1].strip(), answer, tuple(one for one in choices if one and one != answer)


def as_sentence(question: str, answer: str) -> str | None:
    """A question and an answer as one statement; None where no simple rule makes one.

    >>> as_sentence("Who wrote Hamlet?", "William Shakespeare"), as_sentence("What is the capital of Peru?", "Lima")
    ('William Shakespeare wrote Hamlet.', 'The capital of Peru is Lima.')
    >>> as_sentence("Valeria Messalina was the third wife of this Roman emperor.", "Claudius")
    'Valeria Messalina was the third wife of Claudius.'
    """
    answer = answer.strip().rstrip(".")
    if not answer or len(question.split()) > 24 or len(answer.split()) > 5 or answer in ("True", "False"):
        return None
    if found := re.fullmatch(r"(?:What|Who|Which) (is|was|are|were) (the [^?,;:]+)\?", question):
        return f"T{found[2][1:]} {found[1]} {answer}."
    if found := re.fullmatch(r"Who ([a-z]+(?:ed|ote|ook|ang|ame|ad) [^?,;:]+)\?", question):
        return f"{answer[0].upper()}{answer[1:]} {found[1]}."
    if found := re.fullmatch(r"([^?,;:!]*[^?,;:!.]) this(?: [\w-]+){1,2}\.", question):
        return f"{found[1]} {answer}."
    return None


def wiki_sentences(path: Path) -> Iterator[str]:
    """Sentences of WikiText with its tokens put together again."""
    for raw in path.read_text(encoding="utf-8").splitlines():
        line = raw.strip()
        if not line or line.startswith("=") or "<unk>" in line:
            continue
        for token, mark in ((" @-@ ", "-"), (" @,@ ", ","), (" @.@ ", ".")):
            line = line.replace(token, mark)
        line = re.sub(r"([(\[]) ", r"\1", re.sub(r" ([.,;:!?)\]'’])", r"\1", line))
        line = re.sub(r'" ([^"]*) "', r'"\1"', line)
        yield from re.split(r'(?<=[.!?])\s+(?=[A-Z"])', line)


def plain(data: Path) -> Iterator[str]:
    """Statements to learn from, whatever their truth: countries, elements, trivia, simple sentences of Wikipedia."""
    yield from (one.text for one in country_statements())
    yield from (one.text for one in element_statements())
    for question, answer, wrong in trivia(data):
        if answer in ("True", "False"):
            yield question
        for one in (answer, *wrong[:1]):
            if (text := as_sentence(question, one)) is not None:
                yield text
    for name in ("wikitext2_train_5k.txt", "valid.txt"):
        yield from (one for one in wiki_sentences(data / "wikitext2" / name) if 3 <= len(one.split()) <= 20)


def drills(number: int, sentences: Iterable[str] = ()) -> Iterator[str]:
    """Statements whose words are invented, so that they can only be copied, which is the skill to learn first.

    A third of them are about a verb of the rules or an auxiliary. The others deny an invented verb, which the rules take back
    whatever it is: so the small model sees what the rules never parse the other way round. Of those, half stand in the given
    sentences, in the place of a known verb.
    """
    draw = random.Random(0)
    verbs = sorted((set(THIRD_PERSON) | set(PAST)) - _HELD_OUT_FORMS)
    starts = [*"bcdfghklmnprstvw", "br", "cl", "dr", "gr", "pl", "st", "th", "tr", "sh"]
    syllables = [start + vowel + end for start in starts for vowel in "aeiou" for end in ("", "n", "r", "l", "s", "ck", "m")]
    endings = ("", "e", "y", "ate", "ify", "ise", "sh", "ss", "ch", "ve", "t", "n", "l", "d", "ce", "se", "ge")
    denied = [one for one in (RULES.negate((), text) for text in sentences) if one and " does not " in one[0].text]

    def word() -> str:
        return (
            "".join(draw.choices(syllables, k=draw.choice((1, 2, 2, 3)))) if draw.random() < 0.85 else str(draw.randrange(2000))
        )

    def phrase(low: int, high: int) -> str:
        words = [word() for _ in range(draw.randint(low, high))]
        return " ".join(one.capitalize() if draw.random() < 0.4 else one for one in words)

    def verb() -> str:
        return "".join(draw.choices(syllables, k=draw.choice((1, 1, 2)))) + draw.choice(endings)

    for _ in range(number):
        kind = draw.randrange(6)
        if kind > 3 and denied:
            text = draw.choice(denied)[0].text
            yield re.sub(r"(?<= does not )\w+", lambda _: verb(), text, count=1)
            continue
        subject = draw.choice(("The ", "", "A ", "His ")) + phrase(1, 3)
        if kind == 2:
            said = f"does not {verb()}"
        elif kind == 3:
            subject, said = (
                draw.choice(("The ", "")) + phrase(1, 2) + "s" + draw.choice(("", " in " + phrase(1, 1))),
                f"do not {verb()}",
            )
        else:
            others = ("is the", "was a", "are", "is", "were", "can", "will", "has", "is called")
            said = draw.choice(verbs if draw.random() < 0.4 else others)
        joint = draw.choice((" in ", " of ", " ", " from ", " the ", " on the "))
        yield f"{subject[0].upper()}{subject[1:]} {said} {phrase(1, 2)}{joint}{phrase(1, 2)}."


def pairs(statements: Iterable[str], *, held_out: bool = False) -> Iterator[tuple[str, str]]:
    """(statement, negation) by the rules, both ways round: those without the held-out verbs, or those with one."""
    seen: set[str] = set()
    for statement in statements:
        found = RULES.negate((), statement)
        if not found or seen & {statement, found[0].text}:
            continue
        seen |= {statement, found[0].text}
        words = {word for text in (statement, found[0].text) for word in re.findall(r"[a-z]+", text.lower())}
        changed = (
            words if not held_out else {text[s.start : s.end].split()[-1] for text in [found[0].text] for s in found[0].spans}
        )
        if bool(changed & _HELD_OUT_FORMS) == held_out:
            yield statement, found[0].text
            yield found[0].text, statement


def prepare(
    data: Path,
    out: Path = Path("runs/negators"),
    drilled: int = 24_000,
    vocab_size: int = 1024,
    layers: int = 3,
    width: int = 192,
) -> None:
    """train.jsonl (statement -> negation) and `random`, a Llama from scratch with its own sentencepiece tokenizer."""
    from benchmarks.small_student import make

    out.mkdir(parents=True, exist_ok=True)
    texts = out / "statements.txt"
    sentences = list(plain(data))
    found = list(pairs([*drills(drilled, sentences), *sentences]))
    texts.write_text("\n".join(sorted({text for pair in found for text in pair})) + "\n", encoding="utf-8")
    write_records((_record(*pair) for pair in found), out / "train.jsonl")
    make(out / "random", texts, vocab_size=vocab_size, layers=layers, width=width)
    print(json.dumps({"pairs": len(found), "held_out_verbs": len(HELD_OUT)}))


def _record(statement: str, negation: str) -> Record:
    return Record(
        id=make_id(statement, "positive", _ask(statement), negation),
        group=min(statement, negation),
        prompt=_ask(statement),
        response=negation,
        polarity="positive",
        source="rules",
    )


def _ask(text: str) -> Prompt:
    return (Message(role="user", content=text),)


# What is true


@dataclass(frozen=True, kw_only=True)
class FactJudge(Judge):
    """Judges statements in the known forms by the fact they state; abstains on other texts and on things it does not know."""

    forms: tuple[tuple[str, str, str, str], ...] = (*COUNTRY_FORMS, *ELEMENT_FORMS, *FORMS, *MORE_FORMS)

    def judge(self, prompt: Prompt, response: str, reference: tuple[str, ...] = ()) -> Verdict:
        text = response.strip()
        denials = text.startswith(PREFIX)
        text = text.removeprefix(PREFIX)
        if denials:
            text = text[0].upper() + text[1:]
        for pattern, relation, affirms in self._patterns:
            found = pattern.fullmatch(text.replace("can't", "cannot").replace("n't ", " not "))
            if found is None:
                continue
            known = self._facts.get(found["x"].casefold(), {}).get(relation)
            if known is None or (relation == "neighbour" and found["y"].casefold() not in self._facts):
                return Verdict(approved=None, reason="not known")
            stated = found["y"].casefold() in {fact.casefold() for fact in known}
            return Verdict(approved=(stated == affirms) != denials, reason=relation)
        return Verdict(approved=None, reason="no known form")

    @cached_property
    def _facts(self) -> dict[str, dict[str, list[str]]]:
        tables = (country_facts(), element_facts())
        return {name.casefold(): facts[key] for names, facts in tables for key, name in names.items()}

    @cached_property
    def _patterns(self) -> list[tuple[re.Pattern[str], str, bool]]:
        # Denials first: "The capital of Peru is not Rome" has the form of an affirmation too.
        both = [(denied, relation, False) for relation, _, _, denied in self.forms]
        both += [(affirmed, relation, True) for relation, _, affirmed, _ in self.forms]
        return [(_pattern(form), relation, affirms) for form, relation, affirms in both]


def _pattern(form: str) -> re.Pattern[str]:
    plain_form = re.escape(form.replace("{X}", "{x}")).replace(r"\{x\}", "(?P<x>.+?)").replace(r"\{y\}", "(?P<y>.+?)")
    return re.compile(plain_form)


@dataclass(frozen=True, kw_only=True)
class PrefixNegator(Negator):
    """The simplest baseline: "It is not true that" before whatever is said."""

    def negate(self, prompt: Prompt, response: str, seed: int = 0) -> list[Negation]:
        # A name keeps its capital; a word that only the sentence's start gave one loses it.
        first = response.split(" ", 1)[0]
        body = (
            response[0].lower() + response[1:] if first in {"The", "An", "A", "People", "Shops", "Maps", "Chemists"} else response
        )
        span = Span(start=0, end=len(PREFIX) - 1, polarity="negative")
        return [Negation(text=PREFIX + body, spans=(span,))]


# Measuring


@dataclass(kw_only=True)
class Row:
    """Counts of one negator on one set. right, wrong, unjudged by the truth of the original; inside: changes within the spans."""

    negator: str
    on: str
    statements: int = 0
    negated: int = 0
    inside: int = 0
    right: dict[bool, int] = field(default_factory=lambda: {True: 0, False: 0})
    wrong: dict[bool, int] = field(default_factory=lambda: {True: 0, False: 0})
    unjudged: int = 0
    examples: list[list[str]] = field(default_factory=list)

    def line(self) -> str:
        def share(part: int, whole: int) -> str:
            if not whole:
                return "-"
            rate = part / whole
            return f"{100 * rate:.1f} % ± {100 * math.sqrt(rate * (1 - rate) / whole):.1f} ({whole})"

        cells = [share(self.right[truth], self.right[truth] + self.wrong[truth]) for truth in (True, False)]
        inside = share(self.inside, self.negated).split(" ±")[0]
        coverage = share(self.negated, self.statements)
        return f"| {self.negator} | {self.on} | {coverage} | {cells[0]} | {cells[1]} | {self.unjudged} | {inside} |"


def measured(
    name: str,
    on: str,
    negator: Negator,
    statements: Sequence[Statement],
    right: Callable[[Statement, Negation], bool | None],
    *,
    seed: int = 0,
) -> Row:
    """Negate each statement and judge the best negation."""
    row = Row(negator=name, on=on, statements=len(statements))
    negated = negator.negate_many([one.prompt for one in statements], [one.text for one in statements], seed)
    for statement, several in zip(statements, negated, strict=True):
        if not several:
            continue
        row.negated += 1
        row.inside += only_marked(statement.text, several[0])
        found = right(statement, several[0])
        if found is None:
            row.unjudged += 1
        else:
            (row.right if found else row.wrong)[statement.is_true] += 1
        if not found and len(row.examples) < 10:
            row.examples.append([statement.text, several[0].text, str(found)])
    print(row.line(), flush=True)
    return row


def only_marked(old: str, negation: Negation) -> bool:
    """Whether all that is outside the negation's spans stands in the old text, in its order."""
    pieces, done = [], 0
    for span in negation.spans:
        pieces.append(negation.text[done : span.start])
        done = span.end
    pieces.append(negation.text[done:])
    pattern = r"\s*.*?\s*".join(re.escape(piece.strip()) for piece in pieces)
    return re.fullmatch(r"\s*" + pattern + r"\s*", old, flags=re.DOTALL | re.IGNORECASE) is not None


def by_facts(judge: Judge) -> Callable[[Statement, Negation], bool | None]:
    return lambda statement, negation: is_right(statement.is_true, judge.judge(statement.prompt, negation.text))


def by_denial(statement: Statement, negation: Negation) -> bool:
    """Strict: the denial that was written by hand, contractions aside."""

    def expanded(text: str) -> str:
        return normalise(text.replace("’", "'").replace("can't", "cannot").replace("n't ", " not "))

    return expanded(negation.text) == expanded(statement.denial)


def sample(statements: Iterable[Statement], number: int, *, seed: int = 1) -> list[Statement]:
    found = list(statements)
    return random.Random(seed).sample(found, min(number, len(found)))


def measure(
    data: Path,
    out: Path = Path("runs/negators"),
    small: Path | None = None,
    number: int = 400,
    asked: int = 120,
    results: Path = Path("benchmarks/results/negators.json"),
    only: list[str] | None = None,
) -> None:
    """All rows. number: statements of a set; asked: of those that a model of 135M parameters is asked about."""
    from distill.teachers.huggingface import HuggingFaceTeacher

    judge = FactJudge()
    countries, elements = sample(country_statements(seed=1), number), sample(element_statements(seed=1), number // 2)
    facts = [*countries, *elements]
    affirmed = {truth: [one for one in facts if one.is_true == truth and not is_denial(one.text)] for truth in (True, False)}
    about = {
        relation: [one for one in affirmed[True] if one.evidence["relation"] == relation] for relation in ("capital", "number")
    }
    teacher = HuggingFaceTeacher(model=MODEL, threads=1)
    learnt = TextToTextNegator(generator=HuggingFaceTeacher(model=str(small or out / "small"), threads=1, dtype="float32"))
    unchecked = TextToTextNegator(generator=learnt.generator, plain=False, max_changed=1.0, max_longer=99, markers=())
    capitals = tuple(fact for known in country_facts()[1].values() for fact in known["capital"])
    held = [
        Statement(id=str(n), group=str(n), question="", text=text, is_true=True, denial=denial)
        for n, (text, denial) in enumerate(pairs(plain(data), held_out=True))
    ]
    held = sample(held, number, seed=7)
    others = [*country_statements(seed=2, forms=FORMS), *element_statements(seed=2, forms=MORE_FORMS)]
    beyond = sample([one for one in others if not RULES.negate((), one.text)], number, seed=7)
    jobs: dict[str, Callable[[], Row]] = {
        "prefix": lambda: measured("“It is not true that” (baseline)", "facts", PrefixNegator(), facts, by_facts(judge)),
        "rules": lambda: measured("RuleNegator", "facts", RULES, facts, by_facts(judge)),
        "learnt": lambda: measured("TextToTextNegator, small", "facts", learnt, facts, by_facts(judge)),
        "teacher": lambda: measured(
            "TeacherNegator, SmolLM2-135M", "facts", TeacherNegator(generator=teacher), facts[:asked], by_facts(judge)
        ),
        "entity": lambda: measured("EntitySwap", "true affirmations", EntitySwap(), affirmed[True], by_facts(judge)),
        "entity_judge": lambda: measured(
            "EntitySwap, judge",
            "true facts, denied too",
            EntitySwap(judge=judge),
            [one for one in facts if one.is_true],
            by_facts(judge),
        ),
        "answer": lambda: measured(
            "AnswerSwap", "true affirmations, capitals", AnswerSwap(pool=capitals), about["capital"], by_facts(judge)
        ),
        "number": lambda: measured(
            "NumberChange", "true affirmations, numbers", NumberChange(), about["number"], by_facts(judge)
        ),
        "entity_false": lambda: measured(
            "EntitySwap (no negator of these)", "false affirmations", EntitySwap(), affirmed[False], by_facts(judge)
        ),
        "rules_held": lambda: measured("RuleNegator (the gold)", "held-out verbs", RULES, held, by_denial),
        "learnt_held": lambda: measured("TextToTextNegator, small", "held-out verbs", learnt, held, by_denial),
        "unchecked_held": lambda: measured("the same, unchecked", "held-out verbs", unchecked, held, by_denial),
        "rules_beyond": lambda: measured("RuleNegator", "forms beyond the rules", RULES, beyond, by_denial),
        "learnt_beyond": lambda: measured("TextToTextNegator, small", "forms beyond the rules", learnt, beyond, by_denial),
        "unchecked_beyond": lambda: measured("the same, unchecked", "forms beyond the rules", unchecked, beyond, by_denial),
        "teacher_beyond": lambda: measured(
            "TeacherNegator, SmolLM2-135M", "forms beyond the rules", TeacherNegator(generator=teacher), beyond[:asked], by_denial
        ),
        "distractor": lambda: distracted(teacher, asked),
        "distractor_nq": lambda: distracted_nq(teacher, data, asked),
    }
    print("| negator | on | coverage (n) | false, of true (n) | true, of false (n) | unjudged | only the span |")
    print("|---|---|---|---|---|---|---|")
    kept: dict[str, Any] = json.loads(results.read_text(encoding="utf-8")) if results.is_file() else {}
    for name, job in jobs.items():
        if only is None or name in only:
            kept[name] = {**vars(job())}
            kept = {key: kept[key] for key in jobs if key in kept}
            results.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def distracted(teacher: Generator, number: int) -> Row:
    """The model's own wrong answers to questions on countries and elements, judged by every accepted spelling."""
    from distill.quickstart.grading import accepts
    from distill.recipes.facts import facts

    found = {fact.id: fact for fact in facts() if fact.split == "test" and fact.topic != "atomic_number"}
    statements = [
        Statement(id=one.id, group=one.id, question=one.question, text=one.accepted[0], is_true=True) for one in found.values()
    ]

    def right(statement: Statement, negation: Negation) -> bool:
        return not accepts(found[statement.id], negation.text)

    return measured("DistractorNegator, SmolLM2-135M", "test facts", _distractor(teacher), sample(statements, number), right)


def distracted_nq(teacher: Generator, data: Path, number: int) -> Row:
    """The same on Natural Questions, judged by all accepted answers."""
    rows = [json.loads(line) for line in (data / "nq_open" / "NQ-open.dev.jsonl").read_text(encoding="utf-8").splitlines()]
    accepted = {str(n): row["answer"] for n, row in enumerate(rows)}
    statements = [
        Statement(id=str(n), group=str(n), question=f"{row['question']}?", text=row["answer"][0], is_true=True)
        for n, row in enumerate(rows)
    ]

    def right(statement: Statement, negation: Negation) -> bool:
        said = f" {normalise(negation.text)} "
        return not any(f" {normalise(one)} " in said for one in accepted[statement.id])

    return measured("DistractorNegator, SmolLM2-135M", "NQ", _distractor(teacher), sample(statements, number), right)


def _distractor(teacher: Generator) -> DistractorNegator:
    return DistractorNegator(generator=teacher, sampling=Sampling(n=10, max_tokens=24))


def by_hand(data: Path, out: Path = Path("runs/negators"), small: Path | None = None, number: int = 100) -> None:
    """What the small model makes of real statements that the rules refuse: true-or-false questions of OpenTriviaQA.

    To be read by eye: is the truth turned round? The verdicts are kept in benchmarks/results/negators_by_hand.jsonl.
    """
    from distill.teachers.huggingface import HuggingFaceTeacher

    refused = [
        (question, answer == "True")
        for question, answer, _ in trivia(data)
        if answer in ("True", "False") and 4 <= len(question.split()) <= 14 and not RULES.negate((), question)
    ]
    chosen = random.Random(4).sample(refused, number)
    learnt = TextToTextNegator(generator=HuggingFaceTeacher(model=str(small or out / "small"), threads=1, dtype="float32"))
    negated = learnt.negate_many([()] * len(chosen), [text for text, _ in chosen])
    for (text, is_true), several in zip(chosen, negated, strict=True):
        row = {"statement": text, "is_true": is_true, "negation": several[0].text if several else None, "right": None}
        print(json.dumps(row, ensure_ascii=False))


if __name__ == "__main__":
    from jsonargparse import auto_cli

    auto_cli([prepare, measure, by_hand], as_positional=False, args=sys.argv[1:])
