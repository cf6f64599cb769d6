"""Reports that several studies share are found, near-copies included, and fast enough for a whole dataset."""

import itertools
import random
import time

from medfinder.curation.shared_texts import Told, find_shared_texts

WORDS = [a + b + c for a, b, c in itertools.product("bdfglmnprst", "aeiou", "lnrs")]


def draw_text(rng: random.Random, words: int = 110) -> list[str]:
    return [rng.choice(WORDS) for _ in range(words)]


def similarity_by_hand(one: list[str], other: list[str]) -> float:
    """Jaccard index of the three-word runs, by sets."""
    first, second = ({tuple(t[i : i + 3]) for i in range(len(t) - 2)} for t in (one, other))
    return len(first & second) / len(first | second)


def told(texts: list[list[str]]) -> list[Told]:
    return [Told(f"s{n}", f"p{n}", " ".join(text)) for n, text in enumerate(texts)]


def test_the_same_words_are_one_text_whatever_their_case_accents_and_stops() -> None:
    reports = [
        Told("a", "1", "Tórax normal; sin hallazgos."),
        Told("b", "1", "torax normal . sin hallazgos"),
        Told("c", "2", "torax con hallazgos"),
    ]
    (group,) = find_shared_texts(reports)
    assert (group.names, group.patients, group.words, group.similarity) == (("a", "b"), 1, 4, 1.0)


def test_near_copies_are_found_exactly_from_the_threshold_on() -> None:
    rng = random.Random(3)
    for changed in range(1, 8):
        text = draw_text(rng)
        copy = list(text)
        for place in rng.sample(range(len(text)), changed):
            copy[place] = "xxx"
        expected = similarity_by_hand(text, copy)
        groups = find_shared_texts(told([text, copy]), similarity=0.9)
        assert bool(groups) is (expected >= 0.9)
        if groups:
            assert abs(groups[0].similarity - expected) < 1e-9


def test_texts_of_one_template_with_their_own_findings_are_not_one() -> None:
    rng = random.Random(4)
    frame = draw_text(rng, 60)
    texts = [frame[:30] + draw_text(rng, 15) + frame[30:] for _ in range(50)]
    assert find_shared_texts(told(texts)) == ()


def test_empty_texts_share_nothing() -> None:
    assert find_shared_texts([Told("a", "1", ""), Told("b", "2", " . ")]) == ()
    assert find_shared_texts([]) == ()


def test_eight_thousand_reports_take_less_than_ten_seconds_and_all_copies_are_found() -> None:
    rng = random.Random(5)
    texts = [draw_text(rng) for _ in range(7800)]
    # A hundred near-copies, and a hundred copies of one short template.
    for place in range(100):
        copy = list(texts[place])
        copy[rng.randrange(len(copy))] = "xxx"
        texts.append(copy)
    texts += [["tc", "torax", "sin", "hallazgos"] for _ in range(100)]
    begin = time.process_time()
    groups = find_shared_texts(told(texts))
    assert time.process_time() - begin < 10
    assert sorted(len(group.names) for group in groups) == [2] * 100 + [100]
