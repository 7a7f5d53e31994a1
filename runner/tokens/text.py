"""How many tokens a text may come to, by its bytes alone: a quick estimate, and a true upper bound.

Nothing here knows a vocabulary. The ratios are those of current vocabularies on ordinary text, rounded up: a
token is four English letters, two digits or signs, two letters of an accented, Cyrillic, Greek, Hebrew or
Arabic script, or one letter of a Chinese, Japanese, Korean or Indic script; an emoji is two tokens.
"""

from __future__ import annotations

_BYTES_PER_TOKEN = 4

_DIGITS_AND_SIGNS = b"0123456789!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
# In UTF-8 the first byte of a character says how many bytes it has.
_FIRST_OF_THREE = bytes(range(0xE0, 0xF0))
_FIRST_OF_FOUR = bytes(range(0xF0, 0xF5))
_WEIGHING_TWO = _DIGITS_AND_SIGNS + _FIRST_OF_THREE


def estimate(text_bytes: int) -> int:
    """The likely tokens of a text, or of a request body, of so many bytes; at least 1 if there are any."""
    return -(-text_bytes // _BYTES_PER_TOKEN)


def of_text(text: str) -> int:
    """The likely tokens of a text, by its scripts; at least 1 unless it is empty."""
    # JSON may hold half a surrogate pair, which strict UTF-8 refuses.
    encoded = text.encode() if text.isascii() else text.encode("utf-8", "surrogatepass")
    size = len(encoded)
    # Each byte counts one, and these one more: two bytes weigh 2, three 4, four 8.
    quarters = 2 * size - len(encoded.translate(None, _WEIGHING_TWO))
    if size > len(text):
        quarters += 4 * (size - len(encoded.translate(None, _FIRST_OF_FOUR)))
    return -(-quarters // 4)


def upper_bound(body_bytes: int) -> int:
    """The most input tokens that a request body of so many bytes can come to.

    A token of a byte-pair vocabulary stands for at least one byte, and the few tokens that the API puts
    around each message are fewer than the bytes of JSON around it. It holds for what the body itself says,
    not for images, hosted tools or earlier conversations that it points to.
    """
    return body_bytes
