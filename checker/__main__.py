"""Start `robustcheck`, or `python -m robustcheck_onnx.checker`."""

import gc
import signal
import sys
import traceback
from signal import SIG_IGN, SIGINT, SIGTERM

WITHOUT_CHILD = {"export", "--help"}
"""words of a command line that reads no model in a child"""


def main() -> int:
    """Run the command line (`cli.main`); return the exit code.

    SIGINT and SIGTERM wait until `cli.process` answers them: while the command line was imported they would end the
    process without a word, and the reports of an earlier run would be left as if they were this one's. Once the reports
    and the exit code are settled they are ignored: neither may change for what Python still puts away.
    """
    if hasattr(signal, "pthread_sigmask"):  # not on Windows
        signal.pthread_sigmask(signal.SIG_BLOCK, {SIGINT, SIGTERM})
    gc.disable()  # what is imported is not garbage: looking for some takes 15 ms
    try:
        from .outside import isolation  # noqa: PLC0415

        if any(word.endswith(".onnx") for word in sys.argv) and not WITHOUT_CHILD & set(sys.argv):
            isolation.start_early()
        from . import cli  # noqa: PLC0415 # takes most of the time of a start
    except Exception:  # noqa: BLE001 # a broken installation; Python would end with 1, which says WARN
        traceback.print_exc()
        return 70
    gc.freeze()
    gc.enable()
    code = cli.main()
    for number in (SIGINT, SIGTERM):
        signal.signal(number, SIG_IGN)
    while isolation.EARLY:  # no task came, as after a wrong word
        child = isolation.EARLY.pop()
        child.kill()
        child.close()
    gc.freeze()  # Python would look for garbage as it ends: 25 ms
    return code


if __name__ == "__main__":
    sys.exit(main())
