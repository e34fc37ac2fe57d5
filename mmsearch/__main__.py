"""The command `mmsearch`, also as `python -m mmsearch`."""

import sys


def main() -> None:
    """Runs it. Ctrl-C may come before all that `mmsearch.cli` needs is imported."""
    try:
        from mmsearch.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
