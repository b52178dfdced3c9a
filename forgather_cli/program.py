"""The installed entry point. Ctrl-C exits with one line, even while modules are being imported."""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import Any

INTERRUPTED = 130
_IMPORT = "<frozen importlib._bootstrap>"


def main() -> None:
    """Run `forgather`. It exits with `SystemExit`, or immediately if interrupted during import or exit."""
    is_default = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not under nohup, which ignores it
    if is_default:
        signal.signal(signal.SIGINT, _leave)
    from .main import main as run

    if is_default:
        signal.signal(signal.SIGINT, _interrupt)
    try:
        run()
    finally:
        if is_default:
            signal.signal(signal.SIGINT, _leave)  # output is flushed already


def _interrupt(_: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, except during an import: libraries catch it there, and stay imported by half."""
    while frame is not None:
        if frame.f_code.co_filename == _IMPORT:
            _leave()
        frame = frame.f_back
    raise KeyboardInterrupt


def _leave(*_: Any) -> None:
    os.write(2, b"forgather: interrupted\n")
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    main()
