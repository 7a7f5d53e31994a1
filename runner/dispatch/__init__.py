"""Claimed tasks go out, replies come back. What a reply means is `settle`'s to say."""
