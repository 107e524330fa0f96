"""The bits of hashes never change: features and ids on disk depend on them."""

import numpy as np

from pygrade._util.hashing import hash_ids, stable_id, text_hash
from pygrade.features.values import code_of
from pygrade.mtl.network import hash_to_buckets


def test_the_bits_are_those_of_artifacts_on_disk():
    texts = ("a", "", "ü" * 99)
    assert [code_of(text) for text in texts] == [3405396810240292928, -5426141060434712860, -7313085065906371180]
    assert [text_hash(text) % 2**64 for text in texts] == [code_of(text) % 2**64 for text in texts]
    assert [stable_id(text) for text in texts] == [1702698405120146464, 6510301506637419378, 5566829503901590218]
    ids = np.arange(6).reshape(3, 2) - 2
    assert hash_to_buckets(ids, 1000).tolist() == [[313, 783], [535, 455], [110, 557]]
    assert hash_ids(ids[0]).tolist() == [14092058512020081499, 7046029256010040749]
