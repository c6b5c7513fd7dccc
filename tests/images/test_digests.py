"""Digests of many images: the strings they stand for, and the digest of the set."""

import hashlib
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustcheck_onnx.checker.images.source import Digests, digest_of_set
from support import raised

SOME = st.lists(st.binary(min_size=32, max_size=32).map(lambda content: f"sha256:{content.hex()}"), max_size=20)


def test_digest_of_a_set_ignores_order_and_counts_repeats() -> None:
    assert digest_of_set(["sha256:b", "sha256:a"]) == digest_of_set(["sha256:a", "sha256:b"])
    assert digest_of_set(["sha256:a"]) == "sha256:" + hashlib.sha256(b"sha256:a\n").hexdigest()
    assert digest_of_set(["sha256:a", "sha256:a"]) != digest_of_set(["sha256:a"])
    assert digest_of_set([]) == digest_of_set(Digests()) == "sha256:" + hashlib.sha256().hexdigest()


@given(SOME, SOME)
def test_they_are_the_strings_in_less_memory(first: list[str], second: list[str]) -> None:
    joined = Digests(first) + Digests(second)
    assert list(joined) == first + second
    assert list(joined.sorted()) == sorted(first + second)
    assert digest_of_set(joined) == digest_of_set(first + second)
    assert list(pickle.loads(pickle.dumps(joined))) == first + second
    assert len(pickle.dumps(joined)) < 200 + 32 * len(joined)


def test_anything_else_is_refused() -> None:
    for wrong in ["", "sha256:", "sha256:" + "0" * 62, "md5:" + "0" * 64, "0" * 64]:
        raised(ValueError, "64 hexadecimal digits", Digests, [wrong])
        with pytest.raises(IndexError):
            Digests()[0]
