"""Sentences about feelings from a small grammar. The label is what the speaker feels now.

    my sister is not angry, but it is a lie that i am not cheerful, and i was gloomy.   -> joy

A text has up to three clauses with one feeling each. A feeling is held if it is present and has an
even number of negations. It is felt if the speaker holds it. All clauses use the same words, so
counting keywords does not give the label.

The foundation model learns sentiment: is the one feeling that anybody holds good or bad? The
adapter learns emotion: what does the speaker feel? For that it must also tell the speaker from
other people.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..data.examples import Example, Splits
from ..runtime.seeds import named_seed
from .words import (
    ASSERTIONS,
    DENIALS,
    EMOTIONS,
    FEELINGS,
    INTENSIFIERS,
    LINKS,
    OPENINGS,
    PEOPLE,
    RECALL,
    SENTIMENTS,
    TIMES,
    TOPICS,
)

CORPUS_SEED = 20
TRAIN_ROWS, VALIDATION_ROWS, TEST_ROWS = 4800, 500, 1000

EMOTION_OF = {word: emotion for (emotion, _), words in FEELINGS.items() for word in words}
SENTIMENT_OF = {word: sentiment for (_, sentiment), words in FEELINGS.items() for word in words}


@dataclass(frozen=True)
class Clause:
    """Who has a feeling, when, and how it is negated.

    Args:
        word: names the feeling, from FEELINGS.
        by_speaker: the speaker ("i", "me") has it, else another person.
        now: present, else past.
        denied: negated inside the clause ("i am not angry").
        refuted: negated from outside ("it is a lie that i am angry").
    """

    word: str
    by_speaker: bool = True
    now: bool = True
    denied: bool = False
    refuted: bool = False

    @property
    def held(self) -> bool:
        """Somebody has the feeling now: it is present, with an even number of negations."""
        return self.now and self.denied == self.refuted

    @property
    def felt(self) -> bool:
        """The speaker has the feeling now."""
        return self.held and self.by_speaker


Accept = Callable[[Clause], bool]


@dataclass(frozen=True)
class Statement:
    """A text and the word that names its one accepted feeling."""

    text: str
    word: str


def emotion_corpus(n: int, *, seed: int = CORPUS_SEED) -> tuple[Example, ...]:
    """Return `n` different texts and what the speaker feels (index into EMOTIONS), balanced."""
    rng = random.Random(named_seed(seed, "emotions"))  # noqa: S311 - texts, not secrets
    rows = _statements(n, rng, classes=EMOTION_OF, accept=lambda c: c.felt, counts=(2, 2, 3))
    return tuple(Example(row.text, EMOTIONS.index(EMOTION_OF[row.word])) for row in rows)


def sentiment_statements(n: int, *, seed: int = CORPUS_SEED) -> tuple[Statement, ...]:
    """Return `n` different texts with the one feeling that anybody holds now, half of them good."""
    rng = random.Random(named_seed(seed, "sentiment"))  # noqa: S311 - texts, not secrets
    return _statements(n, rng, classes=SENTIMENT_OF, accept=lambda c: c.held, counts=(1, 2, 2, 3))


def sentiment_corpus(n: int, *, seed: int = CORPUS_SEED) -> tuple[Example, ...]:
    """Return `sentiment_statements` as examples, with an index into SENTIMENTS as label."""
    rows = sentiment_statements(n, seed=seed)
    return tuple(Example(row.text, SENTIMENTS.index(SENTIMENT_OF[row.word])) for row in rows)


def demo_splits(*, seed: int = CORPUS_SEED) -> Splits:
    """Return the demo's six-emotion task. No text is in two splits."""
    rows = emotion_corpus(TRAIN_ROWS + VALIDATION_ROWS + TEST_ROWS, seed=seed)
    train, validation = rows[:TRAIN_ROWS], rows[TRAIN_ROWS : TRAIN_ROWS + VALIDATION_ROWS]
    test = rows[TRAIN_ROWS + VALIDATION_ROWS :]
    return Splits(train, validation, test, labels=EMOTIONS, source="demo")


def write_clause(clause: Clause, rng: random.Random) -> str:
    """Return a random wording of `clause`, without punctuation.

    For example "it is a lie that i am not very angry about the exam", for an angry speaker.
    """
    openings = OPENINGS[clause.by_speaker, clause.now, clause.denied]
    opening = rng.choice(openings).format(rng.choice(PEOPLE))
    parts = [*_maybe(TIMES[clause.now], 0.1, rng), opening]
    parts += [*_maybe(INTENSIFIERS, 0.5, rng), clause.word, *_maybe(TOPICS, 0.15, rng)]
    if clause.refuted:
        parts = [rng.choice(DENIALS), *parts]
    elif rng.random() < 0.1:
        parts = [rng.choice(ASSERTIONS).format(rng.choice(PEOPLE)), *parts]
    return " ".join(parts)


def write_text(clauses: Sequence[Clause], rng: random.Random) -> str:
    """Return the clauses in their order, linked by conjunctions or full stops."""
    text = write_clause(clauses[0], rng)
    for clause in clauses[1:]:
        text += f"{rng.choice(LINKS)} {write_clause(clause, rng)}"
    return f"{text}."


def corpus_words() -> tuple[str, ...]:
    """Return every word and punctuation mark that a text can contain, sorted."""
    phrases: list[str] = [*PEOPLE, *INTENSIFIERS, *TOPICS, *LINKS, *DENIALS, *ASSERTIONS, RECALL]
    for group in (*OPENINGS.values(), *TIMES.values(), *FEELINGS.values()):
        phrases += group
    return tuple(sorted(set(re.findall(r"[a-z]+|[.,;:]", "\n".join(phrases)))))


def _statements(
    n: int,
    rng: random.Random,
    *,
    classes: dict[str, str],
    accept: Accept,
    counts: Sequence[int],
) -> tuple[Statement, ...]:
    """Return `n` different texts with one accepted clause each, the same number for every class.

    Args:
        classes: word -> class.
        counts: numbers of clauses; one of them is drawn for every text.
    """
    names = sorted(set(classes.values()))
    drawn = [names[row % len(names)] for row in range(n)]
    rng.shuffle(drawn)
    words: dict[str, str] = {}
    for name in drawn:
        own = [word for word in classes if classes[word] == name]
        other = [word for word in classes if classes[word] != name]
        text = ""
        while not text or text in words:
            # a second distractor can be of any class: else the rarest class would be the answer
            pools = [other, list(classes)][: rng.choice(counts) - 1]
            clauses = [_draw_clause(own, rng, accept=accept)]
            clauses += [_draw_clause(pool, rng, accept=lambda c: not accept(c)) for pool in pools]
            word = clauses[0].word
            rng.shuffle(clauses)
            text = write_text(clauses, rng)
        words[text] = word
    return tuple(Statement(text, word) for text, word in words.items())


def _draw_clause(words: Sequence[str], rng: random.Random, *, accept: Accept) -> Clause:
    while True:
        names, chances = ("by_speaker", "now", "denied", "refuted"), (0.5, 0.7, 0.4, 0.06)
        facts = {name: rng.random() < chance for name, chance in zip(names, chances, strict=True)}
        clause = Clause(rng.choice(words), **facts)
        if accept(clause):
            return clause


def _maybe(phrases: Sequence[str], chance: float, rng: random.Random) -> tuple[str, ...]:
    """Return one of `phrases` with probability `chance`, else none."""
    return (rng.choice(phrases),) if rng.random() < chance else ()
