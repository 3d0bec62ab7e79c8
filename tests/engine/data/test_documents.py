"""Sets of documents that take no memory for each one answer as arrays of all documents would."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmask.data.documents import Chosen, LengthCounts, Members, Selection


@given(st.lists(st.booleans(), max_size=40), st.data())
def test_a_selection_finds_the_chosen_documents_of_a_source(owned, data):
    documents = np.flatnonzero(owned)
    runs = np.flatnonzero(np.diff(documents, prepend=-2) > 1)
    members = data.draw(
        st.sampled_from([Members.of(documents), Members(firsts=documents[runs], befores=runs, size=documents.size)])
    )
    np.testing.assert_array_equal(members.at(np.arange(members.size)), documents)
    np.testing.assert_array_equal(members.ranks(documents), np.arange(members.size))
    listed = np.array(sorted(data.draw(st.sets(st.sampled_from(range(members.size)))) if members.size else []), int)
    for all_but, ranks in ((False, listed), (True, np.setdiff1d(np.arange(members.size), listed))):
        selection = Selection(members, listed, all_but=all_but)
        assert selection.size == ranks.size
        places = np.arange(ranks.size)[::-1]
        found, found_ranks = selection.find(places)
        np.testing.assert_array_equal(found_ranks, ranks[places])
        np.testing.assert_array_equal(found, documents[ranks[places]])
        np.testing.assert_array_equal(selection.documents(places), found)


def test_the_others_of_chosen_documents_are_the_rest():
    chosen = Chosen(np.array([1, 3]))
    assert chosen.mask(5).tolist() == [False, True, False, True, False]
    np.testing.assert_array_equal(chosen.others().mask(5), ~chosen.mask(5))
    assert chosen.others().others().all_but == chosen.all_but
    assert Chosen().others().mask(2).all()


@given(st.lists(st.integers(0, 9), min_size=1), st.data())
def test_counts_of_lengths_leave_out_those_of_other_documents(lengths, data):
    kept = data.draw(st.lists(st.booleans(), min_size=len(lengths), max_size=len(lengths)))
    every = np.array(lengths)
    counts = LengthCounts.of(every).without(LengthCounts.of(every[np.logical_not(kept)]))
    expected = LengthCounts.of(every[kept])
    assert [part.tolist() for part in counts] == [part.tolist() for part in expected]
    assert counts.tokens == every[kept].sum()


@pytest.mark.parametrize("lengths", [[], [0, 0], [5]])
def test_counts_of_few_lengths_sum_to_their_tokens(lengths):
    assert LengthCounts.of(lengths).tokens == sum(lengths)
