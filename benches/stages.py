"""What is measured. A stage is a module with `run(quick)`, which checks what the contenders do and
returns its tables, or `counted()`, what valgrind is to count, or both."""

from . import reading
from .channels import fanout, logs
from .core import calls
from .delivery import idle, in_process, streams

STAGES = (calls, in_process, streams, idle, fanout, logs, reading)
