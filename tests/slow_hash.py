"""The hash of `rng.hash_words`, of one number at a time."""


def finalised(word):
    """The finaliser of MurmurHash3, of an integer of any length."""
    word %= 2**32
    word = (word ^ (word >> 16)) * 0x85EBCA6B % 2**32
    word = (word ^ (word >> 13)) * 0xC2B2AE35 % 2**32
    return word ^ (word >> 16)
