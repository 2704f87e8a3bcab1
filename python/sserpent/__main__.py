"""`python -m sserpent`."""

import sys

if __name__ == "__main__":
    try:
        from ._cli.arguments import main

        status = main()
    except KeyboardInterrupt:
        # While that was loaded.
        status = 130
    sys.exit(status)
