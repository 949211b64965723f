"""The demo's corpus: its law, its balance, and that counting words does not solve it."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from lora_scratch.demo.corpus import (
    EMOTION_OF,
    SENTIMENT_OF,
    Clause,
    demo_splits,
    emotion_corpus,
    sentiment_corpus,
    write_clause,
    write_text,
)
from lora_scratch.demo.words import EMOTIONS, FEELINGS, LINKS, OPENINGS, PEOPLE


def words_in(text: str) -> list[str]:
    return text.replace(",", " ").replace(".", " ").replace(";", " ").split()


def is_felt(clause: str) -> bool:
    """The law read off the words of one clause, by other means than those that wrote it."""
    words = words_in(clause)
    for lead in ("i know that", "everyone can see that", "nobody can say that", "that"):
        parts = f" {' '.join(words)} ".split(f" {lead} ")
        if len(parts) == 2:
            words = parts[1].split()
            break
    outer = any(denial in clause for denial in ("not true that", "wrong to say", "nobody can say", "a lie that"))
    inner = any(word in words for word in ("not", "no", "never"))
    past = any(word in words for word in ("was", "felt", "made", "used", "had", "left", "did"))
    return ("i" in words or "me" in words) and not past and outer == inner


@pytest.mark.parametrize(
    ("clause", "felt"),
    [
        (Clause("angry"), True),
        (Clause("angry", denied=True), False),
        (Clause("angry", refuted=True), False),
        (Clause("angry", denied=True, refuted=True), True),
        (Clause("angry", now=False), False),
        (Clause("angry", now=False, denied=True, refuted=True), False),
        (Clause("angry", by_speaker=False), False),
    ],
)
def test_clause_is_felt_exactly_when_speaker_has_it_now_under_even_negations(clause: Clause, felt: bool) -> None:
    """felt = by the speaker, now, and denied exactly if refuted."""
    assert clause.felt is felt


def test_written_clause_says_what_the_clause_means() -> None:
    """A reader of the words alone, who knows no Clause, comes to the same verdict."""
    rng = random.Random(0)  # noqa: S311
    for _ in range(3000):
        flags = {name: rng.random() < 0.5 for name in ("by_speaker", "now", "denied", "refuted")}
        clause = Clause("angry", **flags)
        text = write_clause(clause, rng)
        assert is_felt(text) is clause.felt, (text, clause)


def test_text_keeps_the_order_of_its_clauses() -> None:
    """Clauses are linked, never mixed."""
    text = write_text([Clause("sad", by_speaker=False), Clause("merry")], random.Random(1))  # noqa: S311
    assert text.index("sad") < text.index("merry")
    assert any(link in text for link in LINKS)
    assert text.endswith(".")


def test_emotion_label_is_that_of_the_one_felt_word() -> None:
    """Read clause by clause, exactly one is felt, and its word has the label."""
    separators = sorted(LINKS[:-2], key=len, reverse=True)
    for example in emotion_corpus(300):
        text = example.text.rstrip(".")
        for link in (*separators, ";", "."):
            text = text.replace(f"{link} ", "|")
        felt = [clause for clause in text.split("|") if is_felt(clause)]
        assert len(felt) == 1, example.text
        (word,) = [word for word in words_in(felt[0]) if word in EMOTION_OF]
        assert EMOTION_OF[word] == EMOTIONS[example.label]


def test_corpora_are_the_same_for_the_same_seed_alone() -> None:
    """The seed decides every text."""
    assert emotion_corpus(50, seed=3) == emotion_corpus(50, seed=3)
    assert emotion_corpus(50, seed=3) != emotion_corpus(50, seed=4)
    assert sentiment_corpus(50, seed=3) == sentiment_corpus(50, seed=3)


def test_classes_are_balanced() -> None:
    """Class sizes differ by one at most."""
    for counts in (Counter(e.label for e in emotion_corpus(602)), Counter(e.label for e in sentiment_corpus(301))):
        assert max(counts.values()) - min(counts.values()) == 1


def test_every_word_names_one_emotion_and_one_sentiment() -> None:
    """No word stands in two lists, and no feeling is a word of the grammar."""
    words = [word for group in FEELINGS.values() for word in group]
    assert len(words) == len(set(words)) == len(EMOTION_OF) == len(SENTIMENT_OF)
    grammar = {word for group in OPENINGS.values() for phrase in group for word in phrase.split()}
    assert not grammar & set(words)
    assert not {word for person in PEOPLE for word in person.split()} & set(words)


def test_demo_splits_share_no_text() -> None:
    """What is tested was never seen."""
    splits = demo_splits()
    texts = [example.text for rows in (splits.train, splits.validation, splits.test) for example in rows]
    assert len(texts) == len(set(texts)) == 6300
    assert splits.labels == EMOTIONS
    assert {e.label for e in splits.test} == set(range(6))


@pytest.mark.parametrize("longest", [1, 2])
def test_counting_words_does_not_solve_the_task(longest: int) -> None:
    """Logistic regression over words, or words and pairs, stays far from 0.8 (measured 0.46 and 0.55)."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    splits = demo_splits()
    counts = CountVectorizer(ngram_range=(1, longest), token_pattern=r"[a-z]+")  # noqa: S106
    train = counts.fit_transform([example.text for example in splits.train[:2000]])
    model = LogisticRegression(max_iter=200).fit(train, [example.label for example in splits.train[:2000]])
    test = counts.transform([example.text for example in splits.test])
    assert model.score(test, [example.label for example in splits.test]) < 0.65
