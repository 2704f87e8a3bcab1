"""Who is measured. A stage is a module with `run(quick)`, which checks what the contenders do and
returns its tables, and if it likes `counted()`, what valgrind is to count."""

from .core import calls
from .delivery import idle, in_process, streams

STAGES = (calls, in_process, streams, idle)
