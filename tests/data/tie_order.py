"""The order of rows of one moment, written out: a hash of the user's and the item's id."""

import hashlib

WORD = 2**64


def tie_hash(user: str, item: str) -> int:
    """As README of the data says: BLAKE2b of each id, both mixed by the finalizer of SplitMix64."""
    first, second = (
        int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") for text in (user, item)
    )
    value = (first + second * 0x9E3779B97F4A7C15) % WORD
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB % WORD
    return value ^ (value >> 31)
