"""Splits by rule: disjoint, complete, the same for everyone."""

import random

import pytest

from regnet_lib.data.ixi import split_subjects
from regnet_lib.data.splits import fingerprint, split_by_hash

NAMES = [f"IXI{number:03d}-HH-{number + 1199}" for number in range(1, 576)]


def test_every_name_is_in_one_split():
    splits = split_by_hash(NAMES, validation=58, test=114)
    assert {split: len(names) for split, names in splits.items()} == {
        "train": 403,
        "validation": 58,
        "test": 114,
    }
    assert sorted(name for names in splits.values() for name in names) == NAMES
    assert all(list(names) == sorted(names) for names in splits.values())


def test_the_order_of_the_input_does_not_matter():
    shuffled = random.Random(0).sample(NAMES, len(NAMES))
    assert split_by_hash(shuffled, validation=58, test=114) == split_by_hash(
        NAMES, validation=58, test=114
    )


def test_the_rule_is_pinned():
    """A change here would give everyone another test set."""
    splits = split_by_hash(NAMES, validation=58, test=114)
    assert {split: fingerprint(names) for split, names in splits.items()} == {
        "train": "731c9a61909b",
        "validation": "5b315f223f08",
        "test": "bda853f29f78",
    }


def test_a_fingerprint_depends_on_names_and_order():
    prints = {fingerprint(names) for names in (["a", "b"], ["b", "a"], ["a"], ["ab"], [])}
    assert len(prints) == 5 and all(len(text) == 12 for text in prints)


def test_the_split_looks_random():
    """Neighbours in the list, often from one hospital, do not stay together."""
    test = set(split_by_hash(NAMES, validation=58, test=114)["test"])
    first_half = sum(name in test for name in NAMES[: len(NAMES) // 2])
    assert 40 < first_half < 74


def test_ixi_has_the_numbers_of_the_paper_with_the_atlas_among_the_test_subjects():
    splits = split_subjects(NAMES)
    assert [len(splits[split]) for split in ("train", "validation", "test")] == [403, 58, 114]


def test_a_part_of_ixi_is_split_in_proportion():
    splits = split_subjects(NAMES[:99])
    assert [len(splits[split]) for split in ("train", "validation", "test")] == [70, 10, 19]
    assert split_subjects([]) == {"train": (), "validation": (), "test": ()}


@pytest.mark.parametrize("validation, test", [(3, 3), (-1, 2), (0, 6)])
def test_too_few_names(validation, test):
    with pytest.raises(ValueError, match="expected at least .* names, got 5"):
        split_by_hash(NAMES[:5], validation=validation, test=test)


def test_repeats():
    with pytest.raises(ValueError, match="distinct names, got 2 with repeats"):
        split_by_hash(["a", "a"], validation=0, test=1)
