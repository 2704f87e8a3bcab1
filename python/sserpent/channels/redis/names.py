"""Names a history in Redis: its key, and its name on pub/sub."""

from __future__ import annotations

import hashlib

from ..history.position import HistoryKey


def name_of(prefix: str, database: int, history: HistoryKey) -> bytes:
    """Returns the name of a history, the same for its key and on pub/sub.

    Pub/sub knows no databases, so the number is part of it. Names have their lengths before them,
    so that no other pair of channel and key has the same. All that there is of one history is
    on one node of a cluster, by the part in braces.
    """
    channel = history.channel.encode()
    if history.key is None:
        name = b"%d:%b" % (len(channel), channel)
    else:
        key = history.key.encode()
        name = b"%d:%b:%d:%b" % (len(channel), channel, len(key), key)
    digest = hashlib.sha256(name).hexdigest()[:8]
    return b"%b:%d:{%b}:%b" % (prefix.encode(), database, digest.encode(), name)
