"""What is measured. A stage is a module with `run(quick)`, which checks what the contenders do and
returns its tables, or `counted()`, what valgrind is to count, or both."""

from . import gateway, reading
from .channels import brokers, compressed, fanout, herd, runs
from .core import calls as core_calls
from .delivery import idle, in_process, mixed, streams
from .harness import calls

STAGES = (
    calls,
    core_calls,
    in_process,
    streams,
    idle,
    mixed,
    fanout,
    herd,
    brokers,
    runs,
    compressed,
    reading,
    gateway,
)
