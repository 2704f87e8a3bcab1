"""The command `sserpent`: `tail` prints the events of a stream, `check` says why a stream does not
stream."""
