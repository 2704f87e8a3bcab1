"""What runs in Redis for runs, and how the answers are read.

The history of a run is a stream as that of a channel (`scripts`). Beside it, in the same slot of a
cluster, is a hash, the record:

- `fence`: the producer's; empty once the run has ended.
- `lease`: until when the producer is taken to live, in milliseconds of the server's clock.
- `ttl`: for how many milliseconds both are kept after the end.
- `begun`: there has been an event, so that a history that is not there was evicted.
- `stop`: why the run is to stop, if it is.

Both keys expire `ttl` after the lease: that moves with each renewal, and nothing is left of a
producer that has died with nobody there to see it.

Each script may be carried out twice: whoever has lost the answer asks again.
"""

from __future__ import annotations

from typing import Any

from ..broker import RunStatus
from ..position import ORIGIN
from .scripts import Script, read_head

# `now`, and the newest entry of the history.
_LOOK = """
local history, record = KEYS[1], KEYS[2]
local call, match = redis.call, string.match
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local last = call('XREVRANGE', history, '+', '-', 'COUNT', 1)[1]
"""

_KEEP = """
local function keep(milliseconds)
  call('PEXPIRE', history, milliseconds)
  call('PEXPIRE', record, milliseconds)
end
"""

_ADD = """
local function add(epoch, tag, marks, body)
  local offset, before, start = 1, '0', 0
  if last then
    local its_epoch, its_start, its_size = match(last[2][2], '^(%x+) %d+ (%d+) (%d+)')
    local its_offset, its_tag = match(last[1], '^(%d+)-(%d+)$')
    epoch, start, offset, before = its_epoch, its_start + its_size, its_offset + 1, its_tag
  end
  local id = string.format('%d-%s', offset, tag)
  local size = 6 + #epoch + #id + #body
  local about = string.format('%s %d %d %d %s', epoch, now, start, size, marks)
  call('XADD', history, id, 'about', about, 'body', body)
  call('PUBLISH', history, #about .. ' ' .. id .. ' ' .. before .. ' ' .. about .. body)
end
"""

_START = """
local fence, lease, ttl = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local known = call('HGET', record, 'fence')
if known then
  return known == fence and 1 or 0
end
-- What an evicted record has left.
call('UNLINK', history)
call('HSET', record, 'fence', fence, 'lease', now + lease, 'ttl', ttl)
keep(lease + ttl)
return 1
"""

# Nobody but the holder of the fence appends, so what is there already with the offset of this event
# is this event.
_APPEND = """
local fence, lease, offset = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local known, ttl = unpack(call('HMGET', record, 'fence', 'ttl'))
if known ~= fence then
  return 0
end
local newest = last and tonumber(match(last[1], '^%d+')) or 0
if newest == offset then
  return 1
end
if newest ~= offset - 1 then
  return 0  -- the history was evicted, or has lost its tail
end
add(ARGV[4], ARGV[5], ARGV[6], ARGV[7])
if offset == 1 then
  call('HSET', record, 'begun', 1)
  keep(lease + ttl)
end
return 1
"""

_RENEW = """
local fence, lease = ARGV[1], tonumber(ARGV[2])
local known, ttl, stop = unpack(call('HMGET', record, 'fence', 'ttl', 'stop'))
if known ~= fence then
  return false
end
call('HSET', record, 'lease', now + lease)
keep(lease + ttl)
return stop or ''
"""

# The producer's own end continues what it has appended; anyone's continues whatever is left.
_END = """
local fence, forgotten, offset, tag = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[5]
local known, lease, ttl = unpack(call('HMGET', record, 'fence', 'lease', 'ttl'))
local newest, its_tag = 0, nil
if last then
  newest, its_tag = match(last[1], '^(%d+)-(%d+)$')
  if string.sub(last[2][4], 1, #RUN_END) == RUN_END then
    return its_tag == tag and 1 or 0
  end
end
if fence ~= '' then
  if known ~= fence or tonumber(newest) < offset then
    return 0
  end
elseif known and known ~= '' and now < tonumber(lease) then
  return 0
end
add(ARGV[4], tag, ARGV[6], ARGV[7])
ttl = ttl or forgotten
call('HSET', record, 'fence', '', 'begun', 1, 'ttl', ttl)
keep(ttl)
return 1
"""

# The producer is subscribed to the name of the record.
_STOP = """
local known = call('HGET', record, 'fence')
if known and known ~= '' and call('HSETNX', record, 'stop', ARGV[1]) == 1 then
  call('PUBLISH', record, '')
end
return known and 1 or 0
"""

_STATUS = """
local known, begun = unpack(call('HMGET', record, 'fence', 'begun'))
if not known then
  return false
end
local status = {known, begun and not last and 1 or 0, time[1], time[2]}
if last then
  status[5], status[6] = last[1], last[2][2]
end
return status
"""

# How the last event of a run begins.
_RUN_END = r"local RUN_END = 'event: run-end\n'" + "\n"

_SOURCES = {
    "start": _LOOK + _KEEP + _START,
    "append": _LOOK + _KEEP + _ADD + _APPEND,
    "renew": _LOOK + _KEEP + _RENEW,
    "end": _LOOK + _KEEP + _ADD + _RUN_END + _END,
    "stop": _LOOK + _STOP,
    "status": _LOOK + _STATUS,
}


def run_scripts(command: str) -> dict[str, Script]:
    """Returns the scripts by name.

    Args:
        command: "PUBLISH", or "SPUBLISH" in a cluster.
    """
    return {
        name: Script(source.replace("'PUBLISH'", f"'{command}'"))
        for name, source in _SOURCES.items()
    }


def record_of(name: bytes) -> bytes:
    """Returns the key of the record beside a history. No other history has this name, because the
    lengths in one leave no room for more at the end."""
    return name + b":run"


def read_status(reply: list[Any] | None) -> RunStatus | None:
    if reply is None:
        return None
    fence, is_evicted, *head = reply
    position = read_head(head).position
    ended = not fence and position != ORIGIN
    return RunStatus(position if ended else None, bool(is_evicted))
