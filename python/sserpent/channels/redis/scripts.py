"""What runs in Redis, and how what comes from there is read.

A history is one Redis stream. The id of an entry there is `<offset>-<tag>`, and it has two fields:

- `about`: epoch, time, start, size, raw and conflate, with spaces between them. `time` is when it
  was published, in milliseconds of the server's clock; `start` is how many bytes the epoch had
  before it, framed, so that the size of any stretch is a difference; `size` is its own; `raw` is 1
  or 0; `conflate` has a "=" before it if there is one.
- `body`: the framed event without its id.

Two fields, because a script takes twice as long to look at an entry with one for each.

Whoever may write there can add anything. What is not as above is not read as an event: a history
whose newest entry is such takes no more, and where older ones are, clients have a gap.
"""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

from ..log import Entry
from ..position import ORIGIN, Position

#: The clocks of two computers run alike for the few seconds in which a publish is repeated, but for
#: so many milliseconds.
MARGIN = 100

#: What `about` is, for Lua, with the numbers and the epoch captured.
ABOUT = "'^(%x+) (%d+) (%d+) (%d+) [01] '"

_PUBLISH = """
local key, tag, epoch, valid, elapsed = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local history, ttl, max_bytes = ARGV[5], ARGV[6], ARGV[7]
local marks, body = ARGV[8], ARGV[9]
local call, match = redis.call, string.match

local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if now > tonumber(valid) then
  return redis.error_reply('LATE it was sent for a time that is over')
end

-- Sent before, and the answer was lost: was it carried out?
if elapsed ~= '' then
  local since = now - elapsed - MARGIN
  local newest, known = '+', false
  repeat
    local entries = call('XREVRANGE', key, newest, '-', 'COUNT', 100)
    for _, entry in ipairs(entries) do
      local its_epoch, its_time = match(entry[2][2], '^(%x+) (%d+)')
      if match(entry[1], '-(%d+)$') == tag then
        return its_epoch .. '-' .. entry[1]
      end
      known = known or tonumber(its_time) < since
      newest = '(' .. entry[1]
    end
  until known or #entries < 100
  if not known then
    return redis.error_reply('UNCERTAIN its history does not reach back far enough')
  end
end

local offset, before, start = 1, '0', 0
local last = call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1]
if last then
  local its_epoch, _, its_start, its_size = match(last[2][2], ABOUT)
  if not its_epoch then
    return redis.error_reply('FOREIGN the newest entry of its history is not an event')
  end
  local its_offset, its_tag = match(last[1], '^(%d+)-(%d+)$')
  epoch, start, offset, before = its_epoch, its_start + its_size, its_offset + 1, its_tag
end
local id = offset .. '-' .. tag
local size = 6 + #epoch + #id + #body
local about = epoch .. ' ' .. now .. ' ' .. start .. ' ' .. size .. ' ' .. marks
if history == '0' then
  call('XADD', key, 'MAXLEN', 1, id, 'about', about, 'body', body)
else
  call('XADD', key, 'MAXLEN', '~', history, id, 'about', about, 'body', body)
end

-- The oldest go, if they are too old or too much; the newest never. It costs a third more to look,
-- so small ones are looked at together.
if offset % 16 == 0 or size * 64 > tonumber(max_bytes) then
  local function is_over(entry)
    local _, its_time, its_start = match(entry[2][2], ABOUT)
    if not its_time then
      return true
    end
    return tonumber(its_time) < now - ttl or start + size - its_start > tonumber(max_bytes)
  end
  if is_over(call('XRANGE', key, '-', '+', 'COUNT', 1)[1]) then
    local keep
    for _, entry in ipairs(call('XRANGE', key, '-', '+', 'COUNT', 100)) do
      keep = entry[1]
      if not is_over(entry) then
        break
      end
    end
    call('XTRIM', key, 'MINID', keep)
  end
end
call('PEXPIRE', key, ttl)
call('PUBLISH', key, #about .. ' ' .. id .. ' ' .. before .. ' ' .. about .. body)
return epoch .. '-' .. id
"""

# The newest entry, but for its body, and the time. The history of who looks at it lives on.
_HEAD = """
local time = redis.call('TIME')
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if not last then
  return {time[1], time[2]}
end
if ARGV[1] ~= '' and string.match(last[2][2], ABOUT) then
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
end
return {time[1], time[2], last[1], last[2][2]}
"""


class Script:
    """A script, and the hash that Redis knows it by."""

    def __init__(self, source: str) -> None:
        self.source = source.strip().replace("ABOUT", ABOUT).encode()
        self.sha = hashlib.sha1(self.source, usedforsecurity=False).hexdigest().encode()


def publish_script(command: str) -> Script:
    """Returns the script that appends an event and tells who is subscribed.

    Args:
        command: "PUBLISH", or "SPUBLISH" in a cluster.
    """
    source = _PUBLISH.replace("MARGIN", str(MARGIN)).replace("'PUBLISH'", f"'{command}'")
    return Script(source)


HEAD = Script(_HEAD)


class Head(NamedTuple):
    """Where a history ends.

    Attributes:
        position: Of the newest event.
        stop: How many bytes the epoch has had.
        time: The time of the server's clock, in seconds.
    """

    position: Position
    stop: int
    time: float


def read_head(reply: list[bytes]) -> Head:
    """Returns what `HEAD` has found.

    Raises:
        ValueError: the newest entry is not one of ours.
    """
    time = int(reply[0]) + int(reply[1]) / 1e6
    if len(reply) == 2:
        return Head(ORIGIN, 0, time)
    entry, start, size = _entry(reply[2], reply[3], b"")
    return Head(entry.position, start + size, time)


def read_message(message: bytes) -> tuple[Entry, int]:
    """Returns an entry as it came by pub/sub, and the tag of the one before it.

    Raises:
        ValueError: it is not one of ours.
    """
    length, offset_tag, before, rest = message.split(b" ", 3)
    end = int(length)
    return _entry(offset_tag, rest[:end], rest[end:])[0], int(before)


class Stored(NamedTuple):
    """An entry in Redis.

    Attributes:
        start: How many bytes its epoch had before it.
        size: How many it has itself.
    """

    entry: Entry
    start: int
    size: int


def read_page(reply: list[Any]) -> list[Stored]:
    """Returns the entries of a stream that are ours."""
    page: list[Stored] = []
    for offset_tag, fields in reply:
        try:
            _, about, _, body = fields
            page.append(_entry(offset_tag, about, body))
        except ValueError:  # noqa: PERF203, it costs nothing where it is not raised
            pass
    return page


def offset_of(entry: list[Any]) -> int:
    """Returns the offset of an entry of a stream, whoever has added it."""
    return int(entry[0].partition(b"-")[0])


def marks(raw: bool, conflate: str | None) -> bytes:
    """Returns what `about` ends with."""
    newest_of = b"" if conflate is None else b"=%b" % conflate.encode()
    return b"%d %b" % (raw, newest_of)


def _entry(offset_tag: bytes, about: bytes, body: bytes) -> Stored:
    epoch, time, start, size, raw, newest_of = about.split(b" ", 5)
    if not epoch.isalnum():
        raise ValueError(f"{epoch!r} is not an epoch")
    offset, _, tag = offset_tag.partition(b"-")
    conflate = newest_of[1:].decode() if newest_of else None
    position = Position(epoch.decode(), int(offset), int(tag))
    entry = Entry(position, body, int(time) / 1000, raw == b"1", conflate)
    return Stored(entry, int(start), int(size))
