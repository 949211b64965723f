"""Sentences about feelings from a small grammar. The label is what the speaker feels now; other feelings distract.

    my sister is not very angry, but it is a lie that i am not cheerful, although i used to be gloomy.   -> joy

Every text holds up to three clauses, each about one feeling. A clause is held if the feeling is present and stands under
an even number of negations; it is felt if, besides, the speaker is the one who holds it. All clauses draw their words
from the same lists, so which feelings are named says little about which is felt: counting keywords must fail.

The grammar asks two questions. Sentiment, which the foundation model is tuned on: is the one feeling held a good or a bad
one, whoever holds it? Emotion, which the adapter learns: what does the speaker feel? The second needs what the first
teaches and one thing more, to tell the speaker from other people, so the foundation helps but does not know the answer.
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
    """Who has a feeling, when, and what negates it; `word` names the feeling.

    Args:
        word: a word of FEELINGS.
        by_speaker: "i" and "me" have it, else another person.
        now: it is present, else past.
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
        """Somebody has the feeling now: it is not past, and the number of negations is even."""
        return self.now and self.denied == self.refuted

    @property
    def felt(self) -> bool:
        """The speaker has the feeling now."""
        return self.held and self.by_speaker


@dataclass(frozen=True)
class Statement:
    """A text and the word in it that names the feeling asked for."""

    text: str
    word: str


def emotion_corpus(n: int, *, seed: int = CORPUS_SEED) -> tuple[Example, ...]:
    """`n` different texts labelled with what the speaker feels, an index into EMOTIONS, even over the classes."""
    rng = random.Random(named_seed(seed, "emotions"))  # noqa: S311 - texts, not secrets
    rows = _statements(n, rng, classes=EMOTION_OF, asked=lambda clause: clause.felt, counts=(2, 2, 3))
    return tuple(Example(row.text, EMOTIONS.index(EMOTION_OF[row.word])) for row in rows)


def sentiment_statements(n: int, *, seed: int = CORPUS_SEED) -> tuple[Statement, ...]:
    """`n` different texts, each with the one feeling in it that anybody holds now; half of them good ones."""
    rng = random.Random(named_seed(seed, "sentiment"))  # noqa: S311 - texts, not secrets
    return _statements(n, rng, classes=SENTIMENT_OF, asked=lambda clause: clause.held, counts=(1, 2, 2, 3))


def sentiment_corpus(n: int, *, seed: int = CORPUS_SEED) -> tuple[Example, ...]:
    """`sentiment_statements` labelled with an index into SENTIMENTS; class sizes differ by one at most."""
    rows = sentiment_statements(n, seed=seed)
    return tuple(Example(row.text, SENTIMENTS.index(SENTIMENT_OF[row.word])) for row in rows)


def demo_splits(*, seed: int = CORPUS_SEED) -> Splits:
    """The six-emotion task of the demo. No text stands in two splits."""
    rows = emotion_corpus(TRAIN_ROWS + VALIDATION_ROWS + TEST_ROWS, seed=seed)
    train, held_out = rows[:TRAIN_ROWS], rows[TRAIN_ROWS:]
    return Splits(train, held_out[:VALIDATION_ROWS], held_out[VALIDATION_ROWS:], labels=EMOTIONS, source="demo")


def write_clause(clause: Clause, rng: random.Random) -> str:
    """One of the many ways to say `clause`, without punctuation.

    "it is a lie that i am not very angry about the exam", for an angry speaker.
    """
    opening = rng.choice(OPENINGS[clause.by_speaker, clause.now, clause.denied]).format(rng.choice(PEOPLE))
    parts = [*_maybe(TIMES[clause.now], 0.1, rng), opening, *_maybe(INTENSIFIERS, 0.5, rng), clause.word]
    parts += _maybe(TOPICS, 0.15, rng)
    if clause.refuted:
        parts = [rng.choice(DENIALS), *parts]
    elif rng.random() < 0.1:
        parts = [rng.choice(ASSERTIONS).format(rng.choice(PEOPLE)), *parts]
    return " ".join(parts)


def write_text(clauses: Sequence[Clause], rng: random.Random) -> str:
    """The clauses in their order, linked by conjunctions or full stops."""
    text = write_clause(clauses[0], rng)
    for clause in clauses[1:]:
        text += f"{rng.choice(LINKS)} {write_clause(clause, rng)}"
    return f"{text}."


def corpus_words() -> tuple[str, ...]:
    """Every word and punctuation mark that a text of the corpus can hold, sorted."""
    phrases: list[str] = [*PEOPLE, *INTENSIFIERS, *TOPICS, *LINKS, *DENIALS, *ASSERTIONS, RECALL]
    phrases += [phrase for group in (*OPENINGS.values(), *TIMES.values(), *FEELINGS.values()) for phrase in group]
    return tuple(sorted({word for phrase in phrases for word in re.findall(r"[a-z]+|[.,;:]", phrase)}))


def _statements(
    n: int,
    rng: random.Random,
    *,
    classes: dict[str, str],
    asked: Callable[[Clause], bool],
    counts: Sequence[int],
) -> tuple[Statement, ...]:
    """`n` different texts with exactly one clause that is `asked` for, whose words are even over the classes.

    Args:
        classes: word -> class.
        counts: how many clauses a text may have; one of them is drawn for each text.
    """
    names = sorted(set(classes.values()))
    wanted = [names[row % len(names)] for row in range(n)]
    rng.shuffle(wanted)
    words: dict[str, str] = {}
    for name in wanted:
        text = ""
        while not text or text in words:
            clauses = _draw_clauses(name, rng, classes=classes, asked=asked, count=rng.choice(counts))
            word = clauses[0].word
            rng.shuffle(clauses)
            text = write_text(clauses, rng)
        words[text] = word
    return tuple(Statement(text, word) for text, word in words.items())


def _draw_clauses(
    name: str, rng: random.Random, *, classes: dict[str, str], asked: Callable[[Clause], bool], count: int
) -> list[Clause]:
    """First the clause that is asked for, with a word of class `name`, then its distractors.

    The first distractor is of another class, the second of any: were both of another one, the minority would be the answer.
    """
    own = [word for word in classes if classes[word] == name]
    other = [word for word in classes if classes[word] != name]
    pools = [other, list(classes)][: count - 1]
    return [_draw_clause(own, rng, accept=asked)] + [
        _draw_clause(pool, rng, accept=lambda clause: not asked(clause)) for pool in pools
    ]


def _draw_clause(words: Sequence[str], rng: random.Random, *, accept: Callable[[Clause], bool]) -> Clause:
    while True:
        by_speaker, now, denied, refuted = (rng.random() < chance for chance in (0.5, 0.7, 0.4, 0.06))
        clause = Clause(rng.choice(words), by_speaker=by_speaker, now=now, denied=denied, refuted=refuted)
        if accept(clause):
            return clause


def _maybe(phrases: Sequence[str], chance: float, rng: random.Random) -> tuple[str, ...]:
    """One of `phrases` with probability `chance`, else nothing."""
    return (rng.choice(phrases),) if rng.random() < chance else ()
