"""float32 scores as whole numbers in the same order, and which of them there are (issue 4, item 6).

A float32 has 2^32 values at most: counted by its bits, any number of pixels takes bounded memory, and nothing is rounded.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unias.data.split import spaced

Keys = NDArray[np.uint32]
Ints = NDArray[np.int64]
TOP = np.uint32(0x80000000)
PAGE = 1 << 13  # bytes that hold one bit for each of the 65,536 keys with the same upper half


def keys_of(scores: NDArray[np.float32]) -> Keys:
    """The key of each score, same shape: key(a) < key(b) exactly where a < b; -0.0 and 0.0 share one. No NaN."""
    bits = (scores + np.float32(0)).view(np.uint32)  # -0.0 + 0.0 is 0.0
    return bits ^ ((bits.view(np.int32) >> 31).view(np.uint32) | TOP)


def scores_of(keys: Keys) -> NDArray[np.float32]:
    """The float32 score of each key, same shape."""
    return (keys ^ (((~keys).view(np.int32) >> 31).view(np.uint32) | TOP)).view(np.float32)


class DistinctKeys:
    """A set of keys: one bit for each key that shares its upper 16 bits with one seen before.

    8 KiB for each such upper half, so 1 MiB an octave of scores (3.4 MiB a decade), however many pixels come.
    """

    def __init__(self) -> None:
        self._pages: dict[int, NDArray[np.uint8]] = {}

    def add(self, keys: Keys) -> None:
        """Put ``keys``, (K,), into the set."""
        if not len(keys):
            return
        whole = np.sort(keys)
        byte = whole >> 3
        firsts = np.flatnonzero(np.append(True, byte[1:] != byte[:-1]))
        bits = np.bitwise_or.reduceat((np.uint8(128) >> (whole & 7).astype(np.uint8)).astype(np.uint8), firsts)
        byte = byte[firsts]
        heads = byte >> 13
        ends = np.append(np.flatnonzero(heads[1:] != heads[:-1]) + 1, len(heads))
        start = 0
        for end in ends:
            page = self._pages.setdefault(int(heads[start]), np.zeros(PAGE, dtype=np.uint8))
            page[byte[start:end] & (PAGE - 1)] |= bits[start:end]
            start = end

    def settled(self) -> RankedKeys:
        """The set as it is now, in order."""
        heads = np.array(sorted(self._pages), dtype=np.int64)
        sizes = [int(np.unpackbits(self._pages[int(head)]).sum()) for head in heads]
        return RankedKeys(self._pages, heads, np.cumsum([0, *sizes]))


class RankedKeys:
    """Distinct keys by rank: place 0 is the lowest. Made by :meth:`DistinctKeys.settled`."""

    def __init__(self, pages: dict[int, NDArray[np.uint8]], heads: Ints, before: Ints) -> None:
        self._pages = pages
        self._heads = heads  # (S,), upper halves, ascending
        self._before = before  # (S + 1,), keys below each page

    def __len__(self) -> int:
        return int(self._before[-1])

    def at(self, places: Ints) -> Keys:
        """The keys at ``places``, ascending whole numbers in 0 .. len - 1: (K,)."""
        page_of = np.searchsorted(self._before, places, side="right") - 1
        parts = []
        for page in np.unique(page_of):
            lows = np.flatnonzero(np.unpackbits(self._pages[int(self._heads[page])]))
            parts.append((self._heads[page] << 16) | lows[places[page_of == page] - self._before[page]])
        return np.concatenate(parts).astype(np.uint32) if parts else np.zeros(0, dtype=np.uint32)

    def below(self, key: int) -> int:
        """How many keys are lower than ``key``."""
        head, low = key >> 16, key & 0xFFFF
        page = int(np.searchsorted(self._heads, head))
        count = int(self._before[page])
        if page < len(self._heads) and self._heads[page] == head:
            count += int(np.unpackbits(self._pages[head])[:low].sum())
        return count

    def every(self, count: int) -> Keys:
        """At most ``count`` of all keys, evenly spaced by rank, both ends among them."""
        return self.at(spaced(len(self), count))

    def between(self, low: int, high: int, count: int) -> Keys:
        """At most ``count`` of the keys from ``low`` to ``high``, evenly spaced by rank, both ends among them."""
        first, last = self.below(low), self.below(high + 1)
        return self.at(first + spaced(last - first, count))
