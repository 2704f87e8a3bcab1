"""The scripts that keep runs in Redis, and how their answers are read.

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

from ..history.broker import RunRecord
from ..history.position import NOWHERE
from .client.script import Script
from .scripts import read_head, script

# `now`, `last`, which is the newest entry of the history, and `recorded`, which returns fields of
# the record. A history whose newest entry is not of a run is as one that was evicted, `damaged`,
# and so is a key of another type.
_LOOK = """
local history, record = KEYS[1], KEYS[2]
local call, pcall, match = redis.call, redis.pcall, string.match
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function read(...)
  local found = pcall(...)
  if found.err and not string.find(found.err, 'WRONGTYPE') then
    error(found.err)
  end
  return found
end

local function recorded(...)
  return unpack(read('HMGET', record, ...))
end

local found = read('XREVRANGE', history, '+', '-', 'COUNT', 1)
local last = found[1]
local damaged = found.err or last and not (match(last[2][2], ABOUT) and last[2][4])
-- What it has begun with, where somebody has followed it before its first event.
local begun_as
if damaged then
  last = nil
elseif last and match(last[1], '^0%-') then
  begun_as, last = match(last[2][2], ABOUT), nil
end
"""

_KEEP = """
local function keep(milliseconds)
  call('PEXPIRE', history, milliseconds)
  call('PEXPIRE', record, milliseconds)
end
"""

# Adds events, of which `index` and `body` are as in an entry of several: one entry. Those that are
# there already are left out.
_ADD = """
local function add(epoch, index, body, there)
  local offset, before, start = 0, '0', 0
  epoch = begun_as or epoch
  if last then
    local its_epoch, _, its_start, its_size = match(last[2][2], ABOUT)
    offset, before = match(last[1], '^(%d+)-(%d+)$')
    epoch, start = its_epoch, its_start + its_size
  end
  local at, size, tag, doubled = 8 * there + 1, 0, nil, nil
  for done = 1, at - 1, 8 do
    body = string.sub(body, math.floor(struct.unpack('>I4', index, done + 4) / 2) + 1)
  end
  index = string.sub(index, at)
  if index == '' then
    return
  end
  for at = 1, #index, 8 do
    tag, doubled = struct.unpack('>I4I4', index, at)
    offset = offset + 1
    size = size + 7 + #epoch + #string.format('%d%d', offset, tag)
  end
  size = size + #body
  local id = string.format('%d-%d', offset, tag)
  local head = string.format('%s %d %d %d ', epoch, now, start, size)
  if #index == 8 then
    local about = head .. doubled % 2 .. ' '
    call('XADD', history, id, 'about', about, 'body', body)
    call('PUBLISH', history, #about .. ' ' .. id .. ' ' .. before .. ' ' .. about .. body)
  else
    local about = head .. '0 '
    local sizes = 'several ' .. #about .. ' ' .. #index .. ' '
    call('XADD', history, id, 'about', about, 'body', body, 'index', index)
    call('PUBLISH', history, sizes .. id .. ' ' .. before .. ' ' .. about .. index .. body)
  end
end
"""

# The commands that the run will need are tried first: a script takes nothing back.
_START = """
local fence, lease, ttl, valid = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local known = recorded('fence')
if known then
  return known == fence and 1 or 0
end
if now > valid then
  return redis.error_reply('LATE it was sent for a time that is over')
end
call('PUBLISH', record, '')
keep(ttl)
-- What an evicted record has left.
call('UNLINK', history, record)
call('HSET', record, 'fence', fence, 'lease', now + lease, 'ttl', ttl)
keep(lease + ttl)
return 1
"""

# Nobody hears whether the run was started, and so nobody produces it.
_ABANDON = """
local known, begun = recorded('fence', 'begun')
if known == ARGV[1] and not begun then
  call('UNLINK', history, record)
end
return 1
"""

# Nobody but the holder of the fence appends, and an event that is appended again keeps its tag. So
# the newest event has the tag of the last that is known to be there, or of one of these: those that
# come after that are added.
_APPEND = """
local fence, lease, offset, index = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[6]
local known, ttl = recorded('fence', 'ttl')
if known ~= fence then
  return 0
end
local newest, its_tag = 0, '0'
if last then
  newest, its_tag = match(last[1], '^(%d+)-(%d+)$')
end
local there = newest - offset
if there < 0 or 8 * there > #index then
  return 0  -- the history was evicted, or has lost its tail, or is another's
end
local tag = there == 0 and ARGV[4] or struct.unpack('>I4', index, 8 * there - 7)
if tonumber(tag) ~= tonumber(its_tag) then
  return 0
end
add(ARGV[5], index, ARGV[7], there)
if offset == 0 then
  call('HSET', record, 'begun', 1)
  keep(lease + (tonumber(ttl) or 0))
end
return 1
"""

_RENEW = """
local fence, lease = ARGV[1], tonumber(ARGV[2])
local known, ttl, stop = recorded('fence', 'ttl', 'stop')
if known ~= fence or damaged or not tonumber(ttl) then
  return false
end
call('HSET', record, 'lease', now + lease)
keep(lease + ttl)
return stop or ''
"""

# The producer's own end continues what it has appended; anyone's continues whatever is left.
_END = """
local fence, forgotten, offset = ARGV[1], ARGV[2], tonumber(ARGV[3])
local tag = string.format('%d', struct.unpack('>I4', ARGV[5]))
local known, lease, ttl = recorded('fence', 'lease', 'ttl')
local newest, its_tag = 0, nil
local has_end = false
if last then
  newest, its_tag = match(last[1], '^(%d+)-(%d+)$')
  has_end = string.sub(last[2][4], 1, #RUN_END) == RUN_END
end
if has_end then
  if its_tag ~= tag or known == '' then
    return its_tag == tag and 1 or 0
  end
  -- What came after it was refused.
elseif fence ~= '' then
  if known ~= fence or tonumber(newest) < offset then
    return 0
  end
elseif known and known ~= '' and now < (tonumber(lease) or 0) then
  return 0
end
if damaged then
  call('UNLINK', history)
end
if not known then
  call('UNLINK', record)
end
if not has_end then
  add(ARGV[4], ARGV[5], ARGV[6], 0)
end
ttl = tonumber(ttl) or forgotten
call('HSET', record, 'fence', '', 'begun', 1, 'ttl', ttl)
keep(ttl)
return 1
"""

# A run that has ended is written anew with its events in few entries, as a history of another name:
# whoever reads it meanwhile finds it as it was. A call writes one entry, and answers with 1 as long
# as there are more. The copy of a stream takes no more memory than it needs.
_COMPACT = """
local compacted = KEYS[3]
local known, ttl = recorded('fence', 'ttl')
local sub = string.sub
if known ~= '' or not tonumber(ttl) or not last or sub(last[2][4], 1, #RUN_END) ~= RUN_END then
  call('UNLINK', compacted)
  return 0
end
local epoch, _, bytes_before = match(last[2][2], ABOUT)
bytes_before = tonumber(bytes_before)
if bytes_before > BYTES / 2 * match(last[1], '^%d+') then  -- hardly two events would be one entry
  call('UNLINK', compacted)
  return 0
end
-- More and more entries, since nobody knows how large they are.
local at_once = 1
local newest = call('XREVRANGE', compacted, '+', '-', 'COUNT', 1)[1]
if newest and match(newest[2][2], ABOUT) ~= epoch then
  call('UNLINK', compacted)
  newest = nil
end
local from, offset = '-', 0
if newest then
  from, offset = '(' .. newest[1], tonumber(match(newest[1], '^%d+'))
end

local indices, bodies, count, bytes = {}, {}, 0, 0
local first, one, start, stop
local is_full, is_end, is_foreign = false, false, false
repeat
  at_once = math.min(32, 2 * at_once)
  local entries = call('XRANGE', history, from, '+', 'COUNT', at_once)
  for _, entry in ipairs(entries) do
    local id, fields = entry[1], entry[2]
    local its_offset, its_tag = match(id, '^(%d+)-(%d+)$')
    local its_epoch, its_time, its_start, its_size = match(fields[2], ABOUT)
    local body, index = fields[4], fields[6]
    if id == last[1] then
      is_end = true
      is_foreign = its_offset ~= string.format('%d', offset + 1)
      break
    end
    -- What was added before the first event is none.
    if its_offset ~= '0' then
      if its_epoch ~= epoch or not body then
        is_foreign = true
        break
      end
      local raw = match(fields[2], ' ([01]) $')
      index = index or raw and struct.pack('>I4I4', tonumber(its_tag), 2 * #body + raw)
      if not index or tonumber(its_offset) ~= offset + #index / 8 then
        is_foreign = true
        break
      end
      is_full = count > 0 and (bytes + #body + #index > BYTES or count + #index / 8 > EVENTS)
      if is_full then
        break
      end
      indices[#indices + 1], bodies[#bodies + 1] = index, body
      count, bytes = count + #index / 8, bytes + #body + #index
      first, start, stop = first or its_time, start or its_start, its_start + its_size
      offset, one = tonumber(its_offset), entry
    end
    from = '(' .. id
  end
until is_full or is_end or is_foreign or #entries == 0

-- Somebody else has written there, or it was evicted: it stays as it is.
if is_foreign or not (is_full or is_end) then
  call('UNLINK', compacted)
  return 0
end
if #bodies == 1 then
  call('XADD', compacted, one[1], unpack(one[2]))
elseif count > 0 then
  local about = string.format('%s %s %s %d 0 ', epoch, first, start, stop - start)
  local body, index = table.concat(bodies), table.concat(indices)
  call('XADD', compacted, one[1], 'about', about, 'body', body, 'index', index)
end
if is_end then
  call('XADD', compacted, last[1], unpack(last[2]))
end
-- It is not left behind by a user who may not copy it, nor by a process that ends.
call('PEXPIRE', compacted, 60000)
if is_full then
  return 1
end
call('COPY', compacted, history, 'REPLACE')
call('UNLINK', compacted)
keep(ttl)
return 0
"""

# The producer is subscribed to the name of the record.
_STOP = """
local known, stop = recorded('fence', 'stop')
if known and known ~= '' and not stop then
  call('PUBLISH', record, '')
  call('HSETNX', record, 'stop', ARGV[1])
end
return known and 1 or 0
"""

_STATUS = """
local known, begun, lease = recorded('fence', 'begun', 'lease')
if not known then
  return false
end
local is_alive = known ~= '' and now < (tonumber(lease) or 0)
local status = {known, begun and not last and 1 or 0, is_alive and 1 or 0, time[1], time[2]}
if last then
  status[6], status[7], status[8] = last[1], last[2][2], known == '' and last[2][4] or ''
end
return status
"""

# The key of a chat or a thread is a string of its own, which expires with the lease: it may be on
# another node of a cluster than its run.
_KEY = """
local key, holder = KEYS[1], ARGV[1]
local known = redis.pcall('GET', key)
if type(known) == 'table' then
  if not string.find(known.err, 'WRONGTYPE') then
    error(known.err)
  end
  known = false
end
"""

_CLAIM = """
local lease, instead_of, valid = ARGV[2], ARGV[3], tonumber(ARGV[4])
local time = redis.call('TIME')
if time[1] * 1000 + math.floor(time[2] / 1000) > valid then
  return redis.error_reply('LATE it was sent for a time that is over')
end
if known and known ~= holder and known ~= instead_of then
  return known
end
redis.call('SET', key, holder, 'PX', lease)
return false
"""

_HOLDER = """
return known
"""

_FREE = """
if known == holder then
  redis.call('DEL', key)
end
return 1
"""

# How much one entry has of a run that was written anew. With its index it takes little more than 16
# KiB, so that a page of these is no more than a client of Redis may be sent at once.
_MOST_BYTES, _MOST_EVENTS = 16_000, 512

# How the last event of a run begins.
_RUN_END = r"local RUN_END = 'event: run-end\n'" + "\n"

_SOURCES = {
    "start": _LOOK + _KEEP + _START,
    "abandon": _LOOK + _ABANDON,
    "append": _LOOK + _KEEP + _ADD + _APPEND,
    "renew": _LOOK + _KEEP + _RENEW,
    "end": _LOOK + _KEEP + _ADD + _RUN_END + _END,
    "compact": _LOOK + _KEEP + _RUN_END + _COMPACT,
    "stop": _LOOK + _STOP,
    "status": _LOOK + _STATUS,
    "claim": _KEY + _CLAIM,
    "holder": _KEY + _HOLDER,
    "free": _KEY + _FREE,
}


def run_scripts(command: str) -> dict[str, Script]:
    """Returns the scripts by name.

    Args:
        command: "PUBLISH", or "SPUBLISH" in a cluster.
    """
    return {
        name: script(_with_limits(source).replace("'PUBLISH'", f"'{command}'"))
        for name, source in _SOURCES.items()
    }


def _with_limits(source: str) -> str:
    return source.replace("BYTES", str(_MOST_BYTES)).replace("EVENTS", str(_MOST_EVENTS))


def compacted_of(name: bytes) -> bytes:
    """Returns the key of what a history is written anew as, as `record_of` does."""
    return name + b":new"


def record_of(name: bytes) -> bytes:
    """Returns the key of the record beside a history. No other history has this name, because the
    lengths in one leave no room for more at the end."""
    return name + b":run"


def key_of(name: bytes) -> bytes:
    """Returns the key of the string that says who holds a key of runs, as `record_of` does."""
    return name + b":key"


def read_status(reply: list[Any] | None) -> RunRecord | None:
    """Returns what a script has answered about a run; None where there is no run."""
    if reply is None:
        return None
    fence, is_evicted, is_alive, *head = reply
    try:
        position = read_head(head[:4]).position
    except ValueError:  # not of a run
        return RunRecord(NOWHERE, is_evicted=True, is_alive=bool(is_alive))
    end_body = head[4] if not fence and position != NOWHERE else None
    return RunRecord(position, end_body, bool(is_evicted), bool(is_alive))
