"""Structures that several sets of brains have in common."""

import pytest

from regnet_lib.data import LPBA40, IXIHammersmith, OASISSamples
from regnet_lib.data.ixi_hh_2mm import STRUCTURES as HAMMERSMITH
from regnet_lib.data.shared_structures import LABELS, shared_structures

ADAPTERS = {adapter.name: adapter for adapter in (IXIHammersmith, OASISSamples, LPBA40)}


@pytest.mark.parametrize("name", sorted(LABELS))
def test_labels_are_evaluated_and_counted_once(name):
    labels = [label for found in LABELS[name].values() for label in found]
    assert len(set(labels)) == len(labels)
    assert {*labels} <= {*ADAPTERS[name].label_ids}


def test_ixi_and_oasis():
    shared = shared_structures("ixi_hh_2mm", "oasis_samples")
    assert len(shared) == 15
    for name in ("ixi_hh_2mm", "oasis_samples"):
        assert sum(len(labels[name]) for labels in shared.values()) == 27
    left_out = {*HAMMERSMITH} - {i for labels in shared.values() for i in labels["ixi_hh_2mm"]}
    names = {"CSF", "Left-Accumbens-area", "Right-Accumbens-area"}
    assert {HAMMERSMITH[label] for label in left_out} == names
    # numbers of FreeSurfer's own table
    assert shared["Hippocampus"] == {"ixi_hh_2mm": (20, 21), "oasis_samples": (17, 53)}
    assert shared["3rd-Ventricle"] == {"ixi_hh_2mm": (22,), "oasis_samples": (14,)}


def test_three_sets():
    shared = shared_structures("lpba40", "ixi_hh_2mm", "oasis_samples")
    assert list(shared) == ["Brain-Stem", "Caudate", "Putamen", "Hippocampus"]
    assert sum(len(labels["lpba40"]) for labels in shared.values()) == 7


def test_unknown_set():
    with pytest.raises(ValueError, match=r"expected of \['ixi_hh_2mm', .*got 'ixi'"):
        shared_structures("ixi_hh_2mm", "ixi")
