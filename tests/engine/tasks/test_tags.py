"""Tags and entities: schemes that say the same, and broken sequences read as conlleval reads them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unmask.tasks.tags import Entity, Scheme, entities_of, first_break, scheme_of, tags_of

SCHEMES: tuple[Scheme, ...] = ("BIO", "IOB1", "BIOES", "BMES")


@st.composite
def sentences(draw: st.DrawFn) -> tuple[list[Entity], int]:
    """Entities, some of them side by side, and the number of words."""
    place, found = 0, []
    for _ in range(draw(st.integers(0, 5))):
        start = place + draw(st.integers(0, 2))
        place = start + draw(st.integers(1, 4))
        found.append(Entity(draw(st.sampled_from(["PER", "LOC", "B-X", ""])), start, place))
    return found, place + draw(st.integers(0, 2))


@settings(deadline=None)
@given(sentences(), st.sampled_from(SCHEMES))
def test_every_scheme_says_the_same(sentence: tuple[list[Entity], int], scheme: Scheme) -> None:
    entities, words = sentence
    tags = tags_of(entities, words, scheme)
    assert len(tags) == words
    assert entities_of(tags) == entities
    assert first_break(tags, scheme) is None


@settings(deadline=None)
@given(st.lists(st.sampled_from(["O", "B-X", "I-X", "E-X", "S-X", "M-X", "B-Y", "I-Y", "E-Y", "I", "B", "Q-X"])))
def test_any_sequence_gives_entities_that_do_not_overlap(tags: list[str]) -> None:
    found = entities_of(tags)
    covered = [word for entity in found for word in range(entity.start, entity.end)]
    assert covered == [place for place, tag in enumerate(tags) if tag not in ("O", "Q-X")]
    assert all(entity.start < entity.end for entity in found)


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ("I-PER I-PER O", ["PER 0 2"]),
        ("O I-PER B-PER I-PER", ["PER 1 2", "PER 2 4"]),
        ("B-PER I-LOC I-LOC", ["PER 0 1", "LOC 1 3"]),
        ("B-PER B-PER", ["PER 0 1", "PER 1 2"]),
        ("I-PER O I-PER", ["PER 0 1", "PER 2 3"]),
        ("B-PER I-PER", ["PER 0 2"]),
        ("E-PER E-PER", ["PER 0 1", "PER 1 2"]),
        ("S-PER I-PER E-PER", ["PER 0 1", "PER 1 3"]),
        ("B-PER E-PER I-PER", ["PER 0 2", "PER 2 3"]),
        ("M-PER M-PER S-LOC", ["PER 0 2", "LOC 2 3"]),
        ("B-A-B I-A-B", ["A-B 0 2"]),
        ("I B I O", [" 0 1", " 1 3"]),
    ],
)
def test_a_broken_sequence_is_read_as_conlleval_reads_it(tags: str, found: list[str]) -> None:
    assert [f"{one.type} {one.start} {one.end}" for one in entities_of(tags.split())] == found


@pytest.mark.parametrize(
    ("tags", "scheme"),
    [
        ("B-X I-X O B-X", "BIO"),
        ("O O", "BIO"),
        ("I-X I-X O I-X B-X", "IOB1"),
        # two entities begin rightly, so this is BIO with a break
        ("B-X I-X O I-X", "BIO"),
        ("B-X E-X O S-X", "BIOES"),
        ("B-X L-X O U-X", "BIOES"),
        ("B-X M-X E-X", "BMES"),
    ],
)
def test_the_scheme_of_a_file_is_found(tags: str, scheme: Scheme) -> None:
    assert scheme_of([tags.split()]) == scheme


@pytest.mark.parametrize(
    ("tags", "scheme", "place"),
    [
        ("B-X O I-X", "BIO", 2),
        ("B-X I-Y", "BIO", 1),
        ("B-X I-X O B-X", "BIO", None),
        ("I-X B-X I-X", "IOB1", None),
        ("O M-X E-X", "BMES", 1),
        ("B-X O", "BIOES", 0),
        ("B-X L-X U-X", "BIOES", None),
    ],
)
def test_the_first_break_of_a_sequence_is_found(tags: str, scheme: Scheme, place: int | None) -> None:
    assert first_break(tags.split(), scheme) == place
