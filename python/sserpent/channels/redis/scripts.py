"""The scripts that run in Redis, and how their answers are read.

A history is one Redis stream. The id of an entry there is `<offset>-<tag>`, and it has two fields:

- `about`: epoch, time, start, size, raw and conflate, with spaces between them. `time` is when it
  was published, in milliseconds of the server's clock; `start` is how many bytes the epoch had
  before it, framed, so that the size of any stretch is a difference; `size` is its own; `raw` is 1
  or 0; `conflate` has a "=" before it if there is one.
- `body`: the framed event without its id.

Several events of a run that were appended together, or lie together once it has ended, are one
entry: its id is that of the last, its time, start and size are those of the whole, and so is its
body. A third field, `index`, has of each event in 8 bytes (`_EACH`) its tag, and twice the size of
its body, and one more if it is raw.

Two fields, because a script takes twice as long to look at an entry with one for each.

A history that is followed before anything is published to it begins with an entry that is no event
and gives it its epoch: its id is `0-1`, for Redis has no `0-0`, and its size 0.

Others may write there too. An entry that is not as above is not read as an event: if it is the
newest one, the history takes no more events, and among older ones clients get a gap.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from ..history.broker import Item
from ..history.position import NOWHERE, Position
from ..history.ring import Entry
from .client.script import Script

#: The clocks of two computers run alike for the few seconds in which a publish is repeated, but for
#: so many milliseconds.
MARGIN = 100

#: The pattern of `about` in Lua, which captures the numbers and the epoch.
ABOUT = "'^(%x+) (%d+) (%d+) (%d+) [01] '"

_BEFORE = """
local key, tag, epoch, valid, elapsed = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local history, ttl, max_bytes = ARGV[5], ARGV[6], ARGV[7]
local call, match = redis.call, string.match

-- An error begins with `found`: "ABSENT " if the event was sent before, and is not in the history.
local is_absent, found = false, ''

local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if now > tonumber(valid) then
  return redis.error_reply('LATE it was sent for a time that is over')
end

-- Sent before, and the answer was lost: was it carried out?
if elapsed ~= '' then
  local since = now - elapsed - MARGIN
  local newest = '+'
  repeat
    local entries = call('XREVRANGE', key, newest, '-', 'COUNT', 100)
    for _, entry in ipairs(entries) do
      local its_epoch, its_time = match(entry[2][2], '^(%x+) (%d+)')
      if match(entry[1], '-(%d+)$') == tag then
        return its_epoch .. '-' .. entry[1]
      end
      -- One is there from before, or else the first, of a history that has not expired since: then
      -- nothing that came after it has been trimmed. An entry 0 that is newer proves nothing: who
      -- follows adds it also after Redis has lost its data.
      is_absent = is_absent or (tonumber(its_time) or now) < since
        or match(entry[1], '^1%-') and now - since < tonumber(ttl)
      newest = '(' .. entry[1]
    end
  until is_absent or #entries < 100
  if not is_absent then
    return redis.error_reply('UNCERTAIN its history does not reach back far enough')
  end
  found = 'ABSENT '
end

local offset, before, start = 1, '0', 0
local last = call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1]
if last then
  local its_epoch, _, its_start, its_size = match(last[2][2], ABOUT)
  if not its_epoch then
    return redis.error_reply(found .. 'FOREIGN the newest entry of its history is not an event')
  end
  local its_offset, its_tag = match(last[1], '^(%d+)-(%d+)$')
  epoch, start, offset = its_epoch, its_start + its_size, its_offset + 1
  before = its_offset == '0' and '0' or its_tag
end
"""

_ONE = """
local marks, body = ARGV[8], ARGV[9]
local count = 1
local id = offset .. '-' .. tag
local size = 6 + #epoch + #id + #body
local largest = size
local about = epoch .. ' ' .. now .. ' ' .. start .. ' ' .. size .. ' ' .. marks
local exact, most = '~', history
if history == '0' then
  exact, most = '=', 1
end
local added = redis.pcall('XADD', key, 'MAXLEN', exact, most, id, 'about', about, 'body', body)
if added.err then
  return redis.error_reply(found .. added.err)
end

-- It is stored: a script takes nothing back. Whatever fails from here on is said beside the id.
local message = #about .. ' ' .. id .. ' ' .. before .. ' ' .. about .. body
local told, kept = redis.pcall('PUBLISH', key, message), redis.pcall('PEXPIRE', key, ttl)
local trouble = type(told) == 'table' and told.err or type(kept) == 'table' and kept.err

"""

# As `_ONE`, for several: from ARGV[8] on tag, marks and body of each.
_MANY = """
-- Nothing of this fails when the first has not: memory is looked at before.
local count, first, size, largest = (#ARGV - 7) / 3, nil, 0, 0
local messages = {}
for i = 8, #ARGV, 3 do
  local id, marks, body = offset .. '-' .. ARGV[i], ARGV[i + 1], ARGV[i + 2]
  start, size = start + size, 6 + #epoch + #id + #body
  largest = math.max(largest, size)
  local about = epoch .. ' ' .. now .. ' ' .. start .. ' ' .. size .. ' ' .. marks
  local exact, most = '~', history
  if history == '0' then
    exact, most = '=', 1
  end
  local added = redis.pcall('XADD', key, 'MAXLEN', exact, most, id, 'about', about, 'body', body)
  if added.err then
    return redis.error_reply(found .. added.err)
  end
  messages[#messages + 1] = #about .. ' ' .. id .. ' ' .. before .. ' ' .. about .. body
  first = first or id
  before, offset = ARGV[i], offset + 1
end

local kept = redis.pcall('PEXPIRE', key, ttl)
local trouble = type(kept) == 'table' and kept.err
for _, message in ipairs(messages) do
  local told = redis.pcall('PUBLISH', key, message)
  trouble = trouble or type(told) == 'table' and told.err
end
local id = first

"""

_AFTER = """
-- The oldest go, if they are too old or too much; the newest never. It costs a third more to look,
-- so small ones are looked at together.
if offset % 16 < count or largest * 64 > tonumber(max_bytes) then
  local function is_over(entry)
    local _, its_time, its_start = match(entry[2][2], ABOUT)
    if not its_time then
      return true
    end
    return tonumber(its_time) < now - ttl or start + size - its_start > tonumber(max_bytes)
  end
  local function first_kept()
    local keep, from = nil, '-'
    -- A thousand at most, and Redis goes on. The next look goes on with the others.
    for _ = 1, 10 do
      for _, entry in ipairs(call('XRANGE', key, from, '+', 'COUNT', 100)) do
        keep = entry[1]
        if not is_over(entry) then
          return keep
        end
      end
      from = '(' .. keep
    end
    return keep
  end
  local is_done, why = pcall(function()
    if is_over(call('XRANGE', key, '-', '+', 'COUNT', 1)[1]) then
      call('XTRIM', key, 'MINID', first_kept())
    end
  end)
  if not is_done then
    trouble = type(why) == 'table' and why.err or why
  end
end
if trouble then
  return epoch .. '-' .. id .. ' ' .. trouble
end
return epoch .. '-' .. id
"""

# Of each of several histories the time, and its newest entry, but for the body. The history of who
# looks at it lives on. Where there is none, it begins. ARGV has of each for how many milliseconds
# it lives on, or "", for how many if nothing was published to it, and the epoch that it begins
# with.
_HEAD = """
local call, match = redis.call, string.match
local seconds, microseconds = unpack(call('TIME'))

local function begin(key, ttl, epoch)
  local now = seconds * 1000 + math.floor(microseconds / 1000)
  local about = string.format('%s %d 0 0 0 ', epoch, now)
  local added = redis.pcall('XADD', key, '0-1', 'about', about, 'body', '')
  if type(added) == 'table' then
    if match(added.err, 'smaller') then
      -- It is there without an entry, and would go on with the offsets of those that it had.
      call('UNLINK', key)
    end
    call('XADD', key, '0-1', 'about', about, 'body', '')
  end
  call('PEXPIRE', key, ttl)
  return about
end

local heads = {}
for number, key in ipairs(KEYS) do
  local ttl, unused_ttl, epoch = ARGV[3 * number - 2], ARGV[3 * number - 1], ARGV[3 * number]
  local last = call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1]
  local id, about = '0-1'
  if not last then
    about = begin(key, unused_ttl, epoch)
  else
    id, about = last[1], last[2][2]
    if ttl ~= '' and match(about, ABOUT) then
      call('PEXPIRE', key, match(id, '^0%-') and unused_ttl or ttl)
    end
  end
  heads[number] = {seconds, microseconds, id, about}
end
return heads
"""

# Which of several histories are not as somebody knows them: ARGV has of each the id and the epoch
# that its newest entry is to have, and for how many milliseconds it lives on, or "".
_LOOK = """
local different = {}
local pcall, sub = redis.pcall, string.sub
for number, key in ipairs(KEYS) do
  local id, epoch, ttl = ARGV[3 * number - 2], ARGV[3 * number - 1], ARGV[3 * number]
  local last = pcall('XREVRANGE', key, '+', '-', 'COUNT', 1)[1]
  if not last or last[1] ~= id or sub(last[2][2], 1, #epoch) ~= epoch then
    different[#different + 1] = number
  elseif ttl ~= '' then
    redis.call('PEXPIRE', key, ttl)
  end
end
return different
"""


def script(source: str) -> Script:
    """Returns a script that may have `ABOUT`, the pattern, in its source."""
    return Script(source.replace("ABOUT", ABOUT))


def publish_script(command: str, many: bool = False) -> Script:
    """Returns the script that appends an event, or several, and tells who is subscribed.

    Args:
        command: "PUBLISH", or "SPUBLISH" in a cluster.
    """
    source = _BEFORE + (_MANY if many else _ONE) + _AFTER
    source = source.replace("MARGIN", str(MARGIN)).replace("'PUBLISH'", f"'{command}'")
    return script(source)


HEAD = script(_HEAD)
LOOK = script(_LOOK)


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
        return Head(NOWHERE, 0, time)
    epoch, its_time, start, size, _, _ = reply[3].split(b" ", 5)
    int(its_time)
    return Head(_position(epoch, reply[2]), int(start) + int(size), time)


# What the message of an event begins with that is in no history. That of another has its length.
_EPHEMERAL = b"ephemeral "


def ephemeral_message(item: Item) -> bytes:
    """Returns the message of an event that is in no history."""
    about = marks(item.raw, item.conflate)
    return b"%b%d %b%b" % (_EPHEMERAL, len(about), about, item.body)


def read_ephemeral(message: bytes) -> Item | None:
    """Returns an event that is in no history; None if the message is of another kind.

    Raises:
        ValueError: it is not one of ours.
    """
    if not message.startswith(_EPHEMERAL):
        return None
    length, rest = message[len(_EPHEMERAL) :].split(b" ", 1)
    raw, newest_of = rest[: int(length)].split(b" ", 1)
    conflate = newest_of[1:].decode() if newest_of else None
    return Item(rest[int(length) :], raw == b"1", conflate, ephemeral=True)


# A message of several events begins with this.
_SEVERAL = b"several "
_EACH = struct.Struct(">II")


def index_of(tags: Sequence[int], items: Sequence[Item]) -> bytes:
    """Returns the `index` of several events."""
    each = zip(tags, items, strict=False)
    return b"".join([_EACH.pack(tag, 2 * len(item.body) + item.raw) for tag, item in each])


def read_message(message: bytes) -> list[tuple[Entry, int]]:
    """Returns the entries that came by pub/sub, each with the tag of the one before it.

    Raises:
        ValueError: they are not of ours.
    """
    if message.startswith(_SEVERAL):
        _, about_size, index_size, offset_tag, before, rest = message.split(b" ", 5)
        about = rest[: int(about_size)]
        rest = rest[int(about_size) :]
        index, body = rest[: int(index_size)], rest[int(index_size) :]
        entries = [entry for entry, _, _ in _entries(offset_tag, about, body, index)]
    else:
        length, offset_tag, before, rest = message.split(b" ", 3)
        end = int(length)
        entries = [_entry(offset_tag, rest[:end], rest[end:])[0]]
    tags = [int(before), *[entry.position.tag for entry in entries]]
    return list(zip(entries, tags, strict=False))


#: An entry in Redis, how many bytes its epoch had before it, and how many it has itself. No named
#: tuple: one takes as long to make as a tenth of the entry.
Stored = tuple[Entry, int, int]


def read_entries(reply: list[Any]) -> Iterator[Stored]:
    """Yields the entries of a stream that are ours, each event for itself."""
    for offset_tag, fields in reply:
        try:
            if len(fields) == 6:
                yield from _entries(offset_tag, fields[1], fields[3], fields[5])
            else:
                _, about, _, body = fields
                yield _entry(offset_tag, about, body)
        except ValueError:  # noqa: PERF203, it costs nothing where it is not raised
            pass


def offset_of(entry: list[Any]) -> int:
    """Returns the offset of an entry of a stream, whoever has added it."""
    return int(entry[0].partition(b"-")[0])


def marks(raw: bool, conflate: str | None) -> bytes:
    """Returns what `about` ends with."""
    newest_of = b"" if conflate is None else b"=%b" % conflate.encode()
    return b"%d %b" % (raw, newest_of)


def _position(epoch: bytes, offset_tag: bytes) -> Position:
    if not epoch.isalnum():
        raise ValueError(f"{epoch!r} is not an epoch")
    offset_digits, _, tag = offset_tag.partition(b"-")
    offset = int(offset_digits)
    # One that is no event has no tag.
    return Position(epoch.decode(), offset, int(tag) if offset else 0)


def _entry(offset_tag: bytes, about: bytes, body: bytes) -> Stored:
    epoch, time, start, size, raw, newest_of = about.split(b" ", 5)
    conflate = newest_of[1:].decode() if newest_of else None
    position = _position(epoch, offset_tag)
    entry = Entry(position, body, int(time) / 1000, raw == b"1", conflate)
    return entry, int(start), int(size)


def _entries(offset_tag: bytes, about: bytes, body: bytes, index: bytes) -> list[Stored]:
    last, start, _ = _entry(offset_tag, about, b"")
    events = list(_EACH.iter_unpack(index)) if len(index) % _EACH.size == 0 else []
    if sum(size >> 1 for _, size in events) != len(body) or not 0 < len(events) <= last.offset:
        raise ValueError("the index is not that of the body")
    entries: list[Stored] = []
    epoch, offset, at = last.position.epoch, last.offset - len(events), 0
    for tag, size in events:
        offset += 1
        end = at + (size >> 1)
        position = Position(epoch, offset, tag)
        entry = Entry(position, body[at:end], last.time, bool(size & 1), None)
        entries.append((entry, start, len(entry.frame)))
        at, start = end, start + len(entry.frame)
    return entries
