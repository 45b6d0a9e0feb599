"""Which member is told in which style: a fixed draw, so that a rebuilt data set is the same."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from itertools import accumulate

from brewhouse.domains.spec import Domain


def style_of(member: str, domain: Domain) -> str:
    """Style of a member's training prompts, drawn by the shares from a hash of the id."""
    styles = [(name, style.share) for name, style in domain.prompt.styles.items() if style.share]
    ends = list(accumulate(share for _, share in styles))
    digest = hashlib.blake2b(f"style:{member}".encode(), digest_size=6).digest()
    draw = int.from_bytes(digest) / 2**48 * ends[-1]
    return styles[min(bisect_right(ends, draw), len(styles) - 1)][0]
