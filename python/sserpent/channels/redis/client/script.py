"""A script that runs in Redis, and the one that finds out what its user may do there."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable


class Script:
    """A script, and the hash that Redis knows it by."""

    def __init__(self, source: str) -> None:
        self.source = source.strip().encode()
        self.sha = hashlib.sha1(self.source, usedforsecurity=False).hexdigest().encode()

    @property
    def commands(self) -> list[str]:
        """The commands that it calls."""
        return sorted(set(re.findall(r"\('([A-Z]{3,})'", self.source.decode())))


# Tries each command that channels need, without an effect that lasts, and returns those that are
# refused, each with the reason.
_RIGHTS = """
local publish, name, shares_limits = ARGV[1], ARGV[2], ARGV[3]
local refused = {}
local commands = {
  {publish, name, ''},
  {'XADD', name, 'NOMKSTREAM', '1-1', 'about', ''},
  {'XTRIM', name, 'MAXLEN', 1},
  {'XRANGE', name, '-', '+', 'COUNT', 1},
  {'XREVRANGE', name, '+', '-', 'COUNT', 1},
  {'PEXPIRE', name, 1},
}
if shares_limits ~= '' then
  local count = name .. ':count'
  commands[#commands + 1] = {'HGETALL', count}
  commands[#commands + 1] = {'HSET', count, 'process', ''}
  commands[#commands + 1] = {'HDEL', count, 'process'}
  commands[#commands + 1] = {'PEXPIRE', count, 1}
end
for _, command in ipairs(commands) do
  local answer = redis.pcall(unpack(command))
  if type(answer) == 'table' and answer.err then
    refused[#refused + 1] = command[1]
    refused[#refused + 1] = answer.err
  end
end
return refused
"""

RIGHTS = Script(_RIGHTS)

# How Redis says that it will never do something: to a user who may not, or because the command has
# another name. Anything else that refuses a command may be over soon.
_FOREVER = re.compile(
    r"NOPERM|ACL failure|no permissions?|executing the script can't|Unknown Redis"
)


def missing_rights(reply: list[bytes], prefix: str) -> str:
    """Returns which rights are missing, as `RIGHTS` has found; "" if none is."""
    texts = [each.decode(errors="replace") for each in reply]
    found = {
        command: reason
        for command, reason in zip(texts[::2], texts[1::2], strict=True)
        if _FOREVER.search(reason)
    }
    reasons = "; ".join(dict.fromkeys(found.values()))
    return f"{_rights_to(found, prefix)} ({reasons})" if found else ""


def possibly_missing_rights(script: Script, error: Exception, prefix: str) -> str:
    """Returns the rights that a script needs, if it was refused for want of one: Redis does not say
    which."""
    if not _FOREVER.search(str(error)):
        return ""
    return _rights_to(script.commands, prefix)


def _rights_to(commands: Iterable[str], prefix: str) -> str:
    return ", ".join(
        f"+{command.lower()} with {'&' if command.endswith('PUBLISH') else '~'}{prefix}:*"
        for command in commands
        if command != "TIME"
    )
