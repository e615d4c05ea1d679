"""How many planted near-duplicates are found, by how many of their words were changed, and what the index costs in memory.

    python -m benchmarks.overlap --data ../shared/data

Prints a table for docs/how-to/overlap.md. Originals are GSM8K test questions and WikiText-2 valid lines; each copy has every word
deleted, replaced by another word of the set, or swapped with the next one, with the rate's probability. Half of the rows have no
copy. Time: 2 minutes (1 core).
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable
from pathlib import Path

from distill.recipes.overlap import Contamination, NearDuplicates, Overlap, Row, _jaccard, _plain


def gsm8k(folder: Path) -> list[str]:
    """The test questions."""
    return [json.loads(line)["question"] for line in (folder / "gsm8k" / "test.jsonl").open(encoding="utf-8")]


def wikitext(folder: Path) -> list[str]:
    """Lines of at least 30 words, the first 100 of each."""
    lines = (folder / "wikitext2" / "valid.txt").read_text(encoding="utf-8").split("\n")
    return [" ".join(line.split()[:100]) for line in lines if len(line.split()) >= 30]


def edited(text: str, rate: float, vocabulary: list[str], chance: random.Random) -> str:
    """The text with so many of its words changed, in expectation."""
    words = text.split()
    at = 0
    while at < len(words):
        if chance.random() < rate:
            kind = chance.randrange(3)
            if kind == 0:
                del words[at]
                continue
            if kind == 1:
                words[at] = chance.choice(vocabulary)
            elif at + 1 < len(words):
                words[at], words[at + 1] = words[at + 1], words[at]
        at += 1
    return " ".join(words)


def measured(texts: list[str], rate: float, settings: Overlap) -> dict[str, float]:
    """Recall and precision of both ways, over rows of which half are edited copies of the other set."""
    chance = random.Random(round(rate * 1000))
    vocabulary = sorted({word for text in texts for word in text.split()})
    chance.shuffle(texts)
    originals, others = texts[: len(texts) // 2], texts[len(texts) // 2 :]
    copies = [edited(text, rate, vocabulary, chance) for text in originals]
    index = NearDuplicates(settings)
    for number, text in enumerate(originals):
        index.find(Row(str(number), str(number), text), add=True)
    leak = Contamination(settings, [Row(str(number), str(number), text) for number, text in enumerate(originals)])
    grams = [index._grams(_plain(text)) for text in originals]
    counts = dict.fromkeys(("near right", "near wrong", "over threshold", "over found", "runs right", "runs wrong"), 0)
    for number, text in enumerate([*copies, *others]):
        row = Row(f"new{number}", f"new{number}", text)
        planted = number < len(copies)
        near, run = index.find(row), leak.find(row)
        counts["near right"] += planted and near is not None and near.id == str(number)
        counts["near wrong"] += near is not None and not (planted and near.id == str(number))
        counts["runs right"] += planted and run is not None
        counts["runs wrong"] += not planted and run is not None
        if planted and _jaccard(grams[number], index._grams(_plain(text))) >= settings.threshold:
            counts["over threshold"] += 1
            counts["over found"] += near is not None
    return {"copies": len(copies), "others": len(others), **counts}


def memory(texts: list[str], settings: Overlap) -> float:
    """Bytes of resident memory for each row in the index."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    index = NearDuplicates(settings)
    index.find(Row("-", "-", "warm up"), add=True)
    before = resident()
    for number in range(20_000):
        text = texts[number % len(texts)]
        index.find(Row(str(number), str(number), f"{text[number % 50 :]} {number} {number * 7919} {number * 104729}"), add=True)
    return (resident() - before) / len(index)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    folder = parser.parse_args().data
    # First, while no memory has been given back that could be used again.
    print(f"{memory(gsm8k(folder), Overlap()):.0f} bytes for each row of the index\n", flush=True)
    sets: dict[str, Callable[[Path], list[str]]] = {"gsm8k": gsm8k, "wikitext2": wikitext}
    print("| set | words changed | copies | near-duplicates found | over the threshold | contamination found | false alarms |")
    print("|---|---|---|---|---|---|---|")
    for name, read in sets.items():
        for rate in (0.0, 0.02, 0.05, 0.1, 0.2, 0.4):
            found = measured(read(folder), rate, Overlap())
            over = f"{found['over found']} of {found['over threshold']}"
            wrong = f"{found['near wrong'] + found['runs wrong']} of {found['copies'] + found['others']}"
            shares = [f"{found[key] / found['copies']:.3f}" for key in ("near right", "runs right")]
            print(f"| {name} | {rate:.0%} | {found['copies']} | {shares[0]} | {over} | {shares[1]} | {wrong} |", flush=True)


if __name__ == "__main__":
    main()
