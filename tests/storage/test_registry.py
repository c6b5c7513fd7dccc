"""The client of MLflow's registry as it is asked for; a module stands in for MLflow, which tests/integrations has."""

import os
import sys
from types import SimpleNamespace

import pytest

from robustcheck_onnx.checker.errors import EnvironmentFaultError, UsageError
from robustcheck_onnx.checker.storage import registries
from support import Fields, Patch


class MlflowError(Exception):
    """As MlflowException: it has a code."""

    error_code = property(lambda self: self.args[1])


@pytest.fixture
def asked(monkeypatch: Patch) -> list[Fields]:
    """With what clients are made, and which variables hold then."""
    made: list[Fields] = []

    def client(**options: str) -> str:
        made.append(options | {key: os.environ.get(key) for key in registries.MLFLOW_ENVIRONMENT})
        return "client"

    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(MlflowClient=client))
    monkeypatch.setitem(sys.modules, "mlflow.exceptions", SimpleNamespace(MlflowException=MlflowError))
    for key in registries.MLFLOW_ENVIRONMENT:
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", SERVER)
    return made


SERVER = "https://ada:secret@mlflow.example"


def test_a_client_does_not_retry_for_minutes_and_leaves_the_variables_as_they_were(
    asked: list[Fields], monkeypatch: Patch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "99")  # who says so waits as long
    said = "no ada:secret here"
    before = dict(os.environ)
    kind: type[Exception]
    for fault, kind, named in (
        (MlflowError(said, "RESOURCE_DOES_NOT_EXIST"), UsageError, None),
        (MlflowError(said, "INVALID_PARAMETER_VALUE"), UsageError, SERVER),
        (MlflowError(said, "INTERNAL_ERROR"), EnvironmentFaultError, SERVER),
        (OSError(said), EnvironmentFaultError, SERVER),
        (UsageError("ours", "hint"), UsageError, "https://other.example"),
        (KeyError("a mistake of ours"), KeyError, SERVER),
    ):
        with pytest.raises(kind) as caught, registries.mlflow_client(named):
            raise fault
        assert "secret" not in str(caught.value)
        assert dict(os.environ) == before
        where = {"tracking_uri": named or SERVER}  # which registry is MLFLOW_REGISTRY_URI's and MLflow's own to say
        assert asked.pop() == where | dict(registries.MLFLOW_ENVIRONMENT) | {"MLFLOW_HTTP_REQUEST_TIMEOUT": "99"}
