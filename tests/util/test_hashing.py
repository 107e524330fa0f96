"""The bits of hashes never change: features and ids on disk depend on them."""

import numpy as np

from pygrade._util.hashing import hash_ids, stable_id, text_hash
from pygrade.features.values import code_of


def test_the_bits_are_those_of_artifacts_on_disk():
    texts = ("a", "", "ü" * 99)
    assert [code_of(text) for text in texts] == [3405396810240292928, -5426141060434712860, -7313085065906371180]
    assert [text_hash(text) % 2**64 for text in texts] == [code_of(text) % 2**64 for text in texts]
    assert [stable_id(text) for text in texts] == [1702698405120146464, 6510301506637419378, 5566829503901590218]
    # As in csrc/tests/test_service.cpp: plain decimal digits are a number.
    names = ("cust_3", "7", "0", "9223372036854775807", "9223372036854775808", "007", "-3", "ü")
    ids = [6868201402090471445, 7, 0, 2**63 - 1, 7004913841709326405, 6827728056401007908, 4380771024531319718]
    assert [stable_id(name) for name in names] == [*ids, 1988230250601838762]
    ids = np.arange(6).reshape(3, 2) - 2
    assert hash_ids(ids[0]).tolist() == [14092058512020081499, 7046029256010040749]
