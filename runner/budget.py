"""A budget: what may still be spent, with the worst case of every call under way set aside.

    limit ├── spent ──┼── reserved ──┼── left ──┤

A call is sent only after `reserve` has said yes to its worst case; `settle` replaces that by what it cost.
So long as no call costs more than was reserved for it, spent never passes the limit, however many are under
way. Amounts are whole pico-dollars (1e-12 USD).
"""

from __future__ import annotations


class Budget:
    """A bound on what a run may spend. Without a limit it only counts."""

    def __init__(self, limit: int | None, spent: int = 0, reserved: int = 0) -> None:
        """`reserved` is the worst case of what is under way already, whatever the limit: batches of an earlier start."""
        _refuse_negative(limit or 0, spent, reserved)
        self.limit = limit
        self.spent = spent
        self.reserved = reserved

    @property
    def left(self) -> int | None:
        """What is neither spent nor reserved, never below 0; None without a limit."""
        if self.limit is None:
            return None
        return max(0, self.limit - self.spent - self.reserved)

    def reserve(self, amount: int) -> bool:
        """Set aside the worst case of one call. False, and nothing set aside, if it could pass the limit."""
        if amount < 0:
            _refuse_negative(amount)
        if self.limit is not None and self.spent + self.reserved + amount > self.limit:
            return False
        self.reserved += amount
        return True

    def set_aside(self, amount: int) -> None:
        """Set aside the worst case of what is under way already, whatever the limit: a batch, say, of an earlier
        start."""
        _refuse_negative(amount)
        self.reserved += amount

    def settle(self, reserved: int, actual: int | None) -> None:
        """End a call: give back what was reserved for it and count what it cost.

        `actual` is 0 for a call that was not executed, and None where nobody knows what it cost: then all
        that was reserved counts as spent. A cost above the reservation is counted as it is, since it is paid.
        """
        if reserved < 0 or (actual is not None and actual < 0):
            _refuse_negative(reserved, actual or 0)
        if reserved > self.reserved:
            raise ValueError(f"{reserved} pico-dollars were never reserved: only {self.reserved} are")
        self.reserved -= reserved
        self.spent += reserved if actual is None else actual

    def calls_in_flight(self, amount: int) -> int | None:
        """How many calls with this worst case may be under way at once; None where nothing bounds them."""
        _refuse_negative(amount)
        if self.limit is None or amount == 0:
            return None
        return max(0, self.limit - self.spent) // amount


def _refuse_negative(*amounts: int) -> None:
    if min(amounts) < 0:
        raise ValueError(f"an amount of money below zero: {min(amounts)} pico-dollars")
