"""A text-to-text model as negator: the statement goes in as it is, behind a prefix, and the negation comes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from distill.errors import TeacherError
from distill.negators.base import Negation, Negator
from distill.negators.edits import is_plain_negation
from distill.negators.form import MARKERS, as_negation, check_form_settings
from distill.records import Message, Prompt
from distill.teachers.base import Generator, Sampling


@dataclass(frozen=True, kw_only=True)
class TextToTextNegator(Negator):
    """Negates with a model that was trained for it, and keeps only what has the form of a negation.

    generator: `Seq2SeqTeacher` for any T5-like model of the hub, with `beams` for a beam search; or a causal model that was
    trained on pairs (statement as the prompt, negation as the response) by `distill fit`, as HuggingFaceTeacher. prefix: what
    the model was trained to see before the statement ("negate: "). sampling: greedy by default; n > 1 gives several.
    batch_size: statements in one call of the generator. plain: accept only one denied verb with every other word as it was
    (`edits.is_plain_negation`), since small models miscopy; English only. Without it the checks are those of TeacherNegator:
    max_longer, max_changed, markers.
    """

    generator: Generator
    prefix: str = ""
    sampling: Sampling = field(default_factory=lambda: Sampling(temperature=0.0, max_tokens=96))
    batch_size: int = field(default=32, compare=False)
    max_longer: int = 4
    max_changed: float = 0.7
    markers: tuple[str, ...] = MARKERS
    plain: bool = True

    def __post_init__(self) -> None:
        """Refuse a share that is none."""
        check_form_settings(self.max_longer, self.max_changed)

    def negate(self, prompt: Prompt, response: str, seed: int = 0) -> list[Negation]:
        """The accepted outputs for one statement; `negate_many` is faster for more."""
        return self.negate_many([prompt], [response], seed)[0]

    def negate_many(self, prompts: Sequence[Prompt], responses: Sequence[str], seed: int = 0) -> list[list[Negation]]:
        """The accepted outputs for each statement, different ones only; a blank statement is not asked about."""
        sampling = replace(self.sampling, seed=self.sampling.seed + seed)
        asked = [index for index, response in enumerate(responses) if response.strip()]
        found: list[list[Negation]] = [[] for _ in responses]
        for at in range(0, len(asked), self.batch_size):
            batch = asked[at : at + self.batch_size]
            inputs = [(Message(role="user", content=self.prefix + responses[index].strip()),) for index in batch]
            written = self.generator.generate(inputs, sampling)
            if len(written) != len(batch):
                raise TeacherError(f"the model gave {len(written)} outputs for {len(batch)} statements")
            for index, completions in zip(batch, written, strict=True):
                # A text that was cut off is no whole statement.
                texts = dict.fromkeys(one.text.strip() for one in completions if one.finish == "stop")
                accepted = (self._accepted(responses[index], text) for text in texts)
                found[index] = [negation for negation in accepted if negation is not None]
        return found

    def _accepted(self, statement: str, text: str) -> Negation | None:
        if self.plain and not is_plain_negation(statement, text):
            return None
        return as_negation(statement, text, max_longer=self.max_longer, max_changed=self.max_changed, markers=self.markers)
