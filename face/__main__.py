"""`python -m robustcheck_onnx` is the command `robustcheck`."""

import sys

from robustcheck_onnx.checker.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
