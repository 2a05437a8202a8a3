"Splits keep their promises whatever the sizes of groups: drawn sets, derandomised."
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from simseg.data import Split, listed_groups, read_split_lists, split_data
from simseg.synthetic import ImageData

RATIOS = [0.01, 0.05, 0.2, 0.5, 0.8]
MANY = settings(max_examples=400, derandomize=True, deadline=None, database=None)


def labelled(sizes: list[int], labels: int, official: float, seed: int) -> ImageData:
    "A set of nothing but groups and labels, in no order; a share of its images is the official test."
    rng = np.random.default_rng(seed)
    groups = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    n = len(groups)
    empty = np.zeros((n, 1), np.uint8)
    ids = [f"{i:016x}" for i in rng.permutation(n)]
    return ImageData(empty, empty, rng.integers(0, labels, n), [str(i) for i in range(n)], rng.random(n) < official,
                     groups=groups, ids=ids)


@st.composite
def sets(draw) -> tuple:
    "A set, how it is split, and the seeds."
    alike = st.integers(1, 12)
    sizes = draw(st.one_of(st.lists(alike, min_size=1, max_size=80),
                           st.builds(lambda size, count: [size] * count, alike, st.integers(1, 60)),
                           st.lists(st.sampled_from([1, 1, 1, 2, 40]), min_size=1, max_size=150)))
    data = labelled(sizes, draw(st.integers(1, 5)), draw(st.sampled_from([0.1, 0.3, 0.6])), draw(st.integers(0, 99)))
    return data, draw(st.sampled_from(["random", "official"])), draw(st.integers(0, 9)), draw(st.integers(0, 3))


def divide(data: ImageData, ratio: float, *how) -> Split | None:
    "The split, or None where it is refused for a true reason."
    try: return split_data(data, ratio, *how)
    except ValueError as error: sentence = str(error)
    groups = data.groups
    if how[0] == "official":
        groups = groups[~np.isin(groups, groups[data.official_test])]
        if not data.official_test.any(): return None
    few = len(set(groups)) < 3 - (how[0] == "official")
    assert few or ("leaves" in sentence and round(ratio / 0.8 * len(groups)) < 5), sentence
    return None


@MANY
@given(sets())
def test_no_group_is_divided_and_ratios_nest(drawn):
    data, *how = drawn
    before = None
    for ratio in RATIOS:
        part = divide(data, ratio, *how)
        if part is None: continue
        sides = [part.train, part.val, part.test]
        groups = [set(data.groups[side]) for side in sides]
        assert not (groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2]), "a group on two sides"
        development = np.r_[part.train, part.val]
        whole = np.flatnonzero(np.isin(data.groups, data.groups[development]))
        assert np.array_equal(whole, np.sort(development)), "a labelled group is not whole"
        sizes = np.bincount(data.groups[development])
        sizes = sizes[sizes > 0]
        if len(sizes) >= 20 and sizes.max() <= len(development) / 20:
            assert 0.05 <= len(part.val) / len(development) <= 0.2
        if before:
            assert np.array_equal(before.test, part.test), "the test images depend on the label ratio"
            assert set(before.train) <= set(part.train) and set(before.val) <= set(part.val)
        before = part


@MANY
@given(sets())
def test_a_draw_of_labels_moves_neither_test_images_nor_the_pool(drawn):
    data, kind, seed, label_seed = drawn
    first = divide(data, 0.8, kind, seed, 0)
    other = divide(data, 0.8, kind, seed, label_seed)
    if first is None or other is None: return
    assert np.array_equal(first.test, other.test)
    assert np.array_equal(np.union1d(first.train, first.val), np.union1d(other.train, other.val))


@MANY
@given(sets())
def test_a_random_test_set_is_about_a_fifth(drawn):
    data, _, seed, label_seed = drawn
    part = divide(data, 0.8, "random", seed, label_seed)
    if part is None: return
    largest = np.bincount(data.groups).max()
    assert abs(len(part.test) - 0.2 * len(data)) <= max(0.1 * len(data) + 1, largest)


def test_two_draws_of_labels_differ():
    data = labelled([1] * 400, 3, 0.2, 0)
    drawn = {tuple(split_data(data, 0.05, label_seed=seed).train) for seed in range(5)}
    assert len(drawn) == 5


@pytest.mark.parametrize("sizes, reason", [([9, 1], "2 group.* it takes three"), ([4], "1 group.* it takes three")])
def test_the_impossible_is_refused_with_its_reason(sizes, reason):
    with pytest.raises(ValueError, match=reason): split_data(labelled(sizes, 1, 0.0, 0))


@pytest.mark.parametrize("size", [1, 5, 10, 20])
def test_a_tenth_validates_whatever_the_size_of_groups(size):
    part = split_data(labelled([size] * (160 // size), 1, 0.0, 0))
    assert len(part.val) <= 0.2 * (len(part.train) + len(part.val))


# label ratio → images to train, validate and test on
OF_PETS = {
    "random": {0.8: (5293, 586, 1470), 0.2: (1325, 145, 1470), 0.01: (65, 8, 1470)},
    "official": {0.8: (3287, 369, 3669), 0.01: (41, 5, 3669)},
}


@pytest.mark.parametrize("kind, sizes", OF_PETS.items())
def test_the_split_of_the_pets_is_the_list_that_recorded_figures_rest_on(kind, sizes):
    table = pd.read_csv(ROOT / "simseg" / "splits" / f"pets-{kind}.csv")
    names = sorted(table["name"])
    data = labelled([1] * len(names), 37, 0.5, 0)
    data.names = names
    data.listed = read_split_lists(names)
    data.groups = listed_groups(data.listed["random"])
    for ratio, wanted in sizes.items():
        part = split_data(data, ratio, kind)
        assert (len(part.train), len(part.val), len(part.test)) == wanted
        for side, indices in {"train": part.train, "val": part.val, "test": part.test}.items():
            assert {names[i] for i in indices} <= set(table["name"][table["part"] == side])
