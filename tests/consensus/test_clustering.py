"""Clusters are connected components: a partition, whatever the order."""

from hypothesis import given
from hypothesis import strategies as st

from distill.consensus import NormalisedMatch, clusters
from distill.consensus.base import Equivalence


class Near(Equivalence):
    """Numbers at most one apart: not transitive. Counts how often it is asked."""

    def __init__(self):
        self.asked = 0

    def same(self, first, second):
        self.asked += 1
        return abs(int(first) - int(second)) <= 1


ANSWERS = st.lists(st.integers(0, 9).map(str), max_size=12)


@given(ANSWERS)
def test_each_answer_is_in_exactly_one_cluster(answers):
    found = clusters(answers, Near())
    assert sorted(index for cluster in found for index in cluster.members) == list(range(len(answers)))
    assert all(list(cluster.members) == sorted(cluster.members) for cluster in found)


@given(ANSWERS.flatmap(lambda answers: st.tuples(st.just(answers), st.permutations(range(len(answers))))))
def test_the_grouping_does_not_depend_on_the_order(case):
    answers, order = case
    found = {frozenset(cluster.members) for cluster in clusters(answers, Near())}
    moved = clusters([answers[index] for index in order], Near())
    assert {frozenset(order[index] for index in cluster.members) for cluster in moved} == found


@given(ANSWERS)
def test_equivalent_answers_share_a_cluster_and_clusters_do_not_touch(answers):
    near = Near()
    of = {index: number for number, cluster in enumerate(clusters(answers, near)) for index in cluster.members}
    for i, first in enumerate(answers):
        for j, second in enumerate(answers):
            if near.same(first, second):
                assert of[i] == of[j]


@given(ANSWERS)
def test_clusters_come_largest_first_and_ties_by_first_appearance(answers):
    found = clusters(answers, Near())
    keys = [(-len(cluster.members), cluster.members[0]) for cluster in found]
    assert keys == sorted(keys)


def test_a_cluster_is_named_by_its_most_frequent_wording():
    found = clusters(["paris", "Paris", "Paris.", "Paris.", "Rome"], NormalisedMatch())
    assert found[0].answer == "Paris."
    assert clusters(["paris", "Paris"], NormalisedMatch())[0].answer == "paris"


def test_repeated_wordings_cost_no_comparisons():
    near = Near()
    clusters(["1", "5"] * 50, near)
    assert near.asked == 1


def test_no_answers_make_no_clusters():
    assert clusters([], NormalisedMatch()) == ()
