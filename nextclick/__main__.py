"""The `nextclick` command. Workers of the service import this file again: what is heavy waits for `main`."""

from __future__ import annotations


def main() -> None:
    from nextclick.commands import run

    run()


if __name__ == "__main__":
    main()
