"""Who trains and who is tested, where no list is published: a rule that anyone can repeat.

The subjects are put in the order of the SHA-256 of their names, which is as good as random and
the same on every machine. The first ones are for testing, the next for validation, the rest for
training. `fingerprint` names a list, so that two people can see whether theirs agree.

    splits = split_by_hash(ids, validation=58, test=114)
    fingerprint(splits["test"])   # twelve hexadecimal digits
"""

from collections.abc import Sequence
from hashlib import sha256


def split_by_hash(ids: Sequence[str], *, validation: int, test: int) -> dict[str, tuple[str, ...]]:
    """`train`, `validation` and `test`, disjoint, each sorted by name.

    Raises:
        ValueError: names that occur twice, or fewer of them than the two numbers ask for.
    """
    if len(set(ids)) != len(ids):
        raise ValueError(f"split_by_hash: expected distinct names, got {len(ids)} with repeats.")
    if min(validation, test) < 0 or validation + test > len(ids):
        raise ValueError(
            f"split_by_hash: expected at least {validation} + {test} names, got {len(ids)}."
        )
    ranked = sorted(ids, key=lambda name: sha256(name.encode()).hexdigest())
    return {
        "train": tuple(sorted(ranked[test + validation :])),
        "validation": tuple(sorted(ranked[test : test + validation])),
        "test": tuple(sorted(ranked[:test])),
    }


def fingerprint(ids: Sequence[str]) -> str:
    """Twelve hexadecimal digits that stand for a list of names, in its order."""
    return sha256("\n".join(ids).encode()).hexdigest()[:12]
