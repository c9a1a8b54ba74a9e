"""What a test needs to send Ctrl-C to a process that it starts."""

from __future__ import annotations

import signal


def heed_interrupts() -> None:
    """For `preexec_fn`: a process inherits an ignored SIGINT, as tests have it in a shell's background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
