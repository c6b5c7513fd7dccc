"""The client of Hugging Face's hub, imported when the first address of the hub is opened."""

from __future__ import annotations

import os
from types import ModuleType
from typing import Final

from robustcheck_onnx.checker.errors import EnvironmentFaultError, install_hint

ENDPOINT: Final = "HF_ENDPOINT"  # environment variable of the client
ENVIRONMENT: Final = {  # of the client, where the user's environment says nothing
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_VERBOSITY": "error",
}


def load(address: object) -> ModuleType:
    """The client's package. It tells nobody what is used (its telemetry), and shows no bars or warnings of its own.

    address: what it is needed for, for the error's text.

    Raises EnvironmentFaultError: it is not installed.
    """
    missing = {name: value for name, value in ENVIRONMENT.items() if name not in os.environ}
    os.environ.update(missing)
    try:
        import huggingface_hub  # noqa: PLC0415 # an extra
        import huggingface_hub.constants  # noqa: PLC0415 # it reads the variables now
        import huggingface_hub.errors  # noqa: PLC0415
        import huggingface_hub.utils.logging  # noqa: PLC0415 # so does it: its warnings show addresses with their keys
        import huggingface_hub.utils.tqdm  # noqa: PLC0415
    except ImportError as fault:
        raise EnvironmentFaultError(
            f"{address}: package huggingface_hub is not importable; addresses of the hub need it",
            install_hint("hub"),
        ) from fault
    finally:
        for name in missing:
            os.environ.pop(name, None)
    return huggingface_hub
