"""One line's bytes, and the values in it.

Two views of the same line live here. `parse` gives Python values, for templates. `parse_request`, `members`
and `keep_fields` give the original bytes of the values, so that what a user wrote (numbers, escapes, repeated
keys) is sent and given back as it was.

The fast decoders refuse a little that JSON allows (lone surrogates, 1e400, integers of thousands of digits).
What they refuse is read again by the slower standard decoder, which has the last word.
"""

from runner.record.fault import RecordFault
from runner.record.request import RequestLine, parse_checked_request, parse_request, read_request
from runner.record.spans import Member, has_field, keep_fields, key_name, members
from runner.record.values import dumps, key_text, parse

__all__ = [
    "Member",
    "RecordFault",
    "RequestLine",
    "dumps",
    "has_field",
    "keep_fields",
    "key_name",
    "key_text",
    "members",
    "parse",
    "parse_checked_request",
    "parse_request",
    "read_request",
]
