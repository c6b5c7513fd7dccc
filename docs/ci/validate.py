"""Show the manifests of this folder to the systems that they are for: each is read by a package of that system.

    python docs/ci/validate.py [SYSTEM...]     all, or some of: kubernetes argo kserve kubeflow airflow

Each package goes into an environment of its own, which is removed afterwards (Airflow's takes 450 MB). `make manifests`
runs this; `make test` does not.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PACKAGES = {
    "kubernetes": ["kubernetes-validate==1.37.0", "PyYAML"],
    "argo": ["hera==7.1.0", "PyYAML"],
    "kserve": ["kserve==0.21.0", "kubernetes<36", "PyYAML"],
    "kubeflow": ["kfp==2.17.3", "kfp-kubernetes==2.17.3"],
    "airflow": ["apache-airflow==3.3.2", "apache-airflow-providers-cncf-kubernetes==10.25.0"],
}
CHECK = ["check", "--strict"]
NO_CLUSTER = """
{apiVersion: v1, kind: Config, current-context: none, clusters: [{name: none, cluster: {server: "http://127.0.0.1:9"}}],
 users: [{name: none, user: {}}], contexts: [{name: none, context: {cluster: none, user: none, namespace: none}}]}
"""


def read(name: str) -> dict[str, Any]:
    """The one document of a YAML file of this folder."""
    import yaml

    return dict(yaml.safe_load((HERE / name).read_text(encoding="utf-8")))


def must(holds: object, what: str) -> None:
    """Raise unless it holds."""
    if not holds:
        raise ValueError(what)


def gate(container: dict[str, Any]) -> None:
    """What each container of the gate has: --strict, photos, -- before the model, and its walls."""
    arguments = container["args"]
    must(arguments[:2] == CHECK, f"{arguments} do not begin with check --strict")
    must(arguments.count("--") == 1 and arguments[-2] == "--", f"{arguments} do not end with -- MODEL")
    must([a for a in arguments if a.startswith("--images=")], f"{arguments} name no images")
    walls(container)


def walls(container: dict[str, Any]) -> None:
    """What each container has that runs robustcheck: no rights, a limit of memory, nothing to write to but volumes."""
    security = container["securityContext"]
    must(security["readOnlyRootFilesystem"], "the root file system can be written to")
    must(security["allowPrivilegeEscalation"] is False, "rights can be gained")
    must(security["capabilities"]["drop"] == ["ALL"], "capabilities are kept")
    written = {m["mountPath"] for m in container["volumeMounts"] if not m.get("readOnly")}
    must(written == {"/reports", "/tmp"}, f"{written} can be written to")
    must("memory" in container["resources"]["limits"], "memory has no limit")


def equal(read_back: object, given: object, what: str) -> None:
    """A model that does not know a key drops it, so what comes back must be all that was given."""
    must(read_back == given, f"{what}: given {json.dumps(given)}\nread {json.dumps(read_back, default=str)}")


def kubernetes() -> str:
    """The Jobs, strictly against Kubernetes' own schema."""
    import kubernetes_validate

    version = kubernetes_validate.latest_version()
    for name, has_gate in (("kubernetes-job.yaml", gate), ("kubernetes-indexed-job.yaml", walls)):
        job = read(name)
        kubernetes_validate.validate(job, version, strict=True)
        pod = job["spec"]["template"]["spec"]
        must(pod["securityContext"]["runAsNonRoot"], "the pod may run as root")
        has_gate(pod["containers"][0])
    must(job["spec"]["backoffLimitPerIndex"] == 2, "one index would end the others")
    compares(pod)
    kubernetes_validate.validate(job, version, strict=True)
    walls(pod["containers"][0])
    return f"Job and indexed Job, also one that compares, schema of Kubernetes {version}, strict"


def compares(pod: dict[str, Any]) -> None:
    """Change a pod of the indexed Job as docs/distributed.md shows it."""
    import yaml

    page = (HERE.parent / "distributed.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"^```yaml\n(args:.*?)^```$", page, re.MULTILINE | re.DOTALL)
    changes = yaml.safe_load(shown)
    (container,) = pod["containers"]
    container["args"] = changes["args"]
    container["volumeMounts"] += changes["volumeMounts"]
    pod["volumes"] += changes["volumes"]


def argo() -> str:
    """The template of a workflow, by models that Hera makes from Argo's specification."""
    from hera.workflows.models import WorkflowTemplate

    given = read("argo-workflow.yaml")
    made = WorkflowTemplate.model_validate(given)
    equal(json.loads(made.model_dump_json(by_alias=True, exclude_unset=True)), given, "WorkflowTemplate")
    must(given["spec"]["securityContext"]["runAsNonRoot"], "the pod may run as root")
    templates = {each["name"]: each for each in given["spec"]["templates"]}
    gate(templates["robustcheck"]["container"])
    tasks = {task["name"]: task for task in templates[given["spec"]["entrypoint"]]["dag"]["tasks"]}
    must(tasks["release"]["depends"] == "gate.Succeeded", "the release does not wait")
    return "WorkflowTemplate, all keys known"


def kserve() -> str:
    """The service, by the models of KServe's SDK; its init container and volumes also as those of a Kubernetes pod."""
    import kserve as sdk
    from kubernetes import client

    given = read("kserve.yaml")
    api = client.ApiClient()
    for name in dir(sdk):
        if name.startswith("V1beta1") and not hasattr(client.models, name):
            setattr(client.models, name, getattr(sdk, name))  # the deserializer looks for classes there
    response = type("Response", (), {"data": json.dumps(given)})()
    made = api.deserialize(response, "V1beta1InferenceService")
    equal(api.sanitize_for_serialization(made), given, "InferenceService")
    (first,) = given["spec"]["predictor"]["initContainers"]
    must(first["securityContext"]["runAsNonRoot"], "the container may run as root")
    gate(first)
    return "InferenceService, all keys known"


def kubeflow() -> str:
    """Compile the pipeline and look at what came of it."""
    import yaml

    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, HERE / "kubeflow_pipeline.py"], cwd=folder, check=True)
        text = (Path(folder) / "kubeflow_pipeline.yaml").read_text(encoding="utf-8")
    pipeline, platform = yaml.safe_load_all(text)
    executors = pipeline["deploymentSpec"]["executors"]
    container = executors["exec-robustcheck"]["container"]
    must(container["command"] == ["robustcheck"], "another command")
    must(container["args"][:2] == CHECK and container["args"][-2] == "--", f"{container['args']}")
    must("retryPolicy" not in text, "a WARN would be tried again")
    tasks = pipeline["root"]["dag"]["tasks"]
    must(tasks["release"]["dependentTasks"] == ["robustcheck"], "the release does not wait")
    must(not tasks["robustcheck"]["cachingOptions"].get("enableCache"), "an earlier verdict would be taken")
    spec = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-robustcheck"]
    must(spec["securityContext"]["runAsNonRoot"], "the pod may run as root")
    claims = {mount["mountPath"] for mount in spec["pvcMount"]}
    must(claims == {"/models", "/photos", "/reports"}, f"{claims} are mounted")
    return f"pipeline compiled, {pipeline['sdkVersion']}, schema {pipeline['schemaVersion']}"


def airflow() -> str:
    """Parse the DAG, and build the pod of its gate."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"AIRFLOW_HOME": folder, "KUBECONFIG": f"{folder}/cluster"}
        Path(folder, "cluster").write_text(NO_CLUSTER, encoding="utf-8")  # building a pod asks for one
        import airflow as package
        from airflow.dag_processing.dagbag import DagBag
        from kubernetes import client

        bag = DagBag(dag_folder=HERE / "airflow_dag.py")
        must(not bag.import_errors, str(bag.import_errors))
        dag = bag.dags["robustcheck"]
        task = dag.get_task("gate")
        must(task.retries == 0, "a WARN would be tried again")
        must(not task.skip_on_exit_code, "a WARN would be skipped")
        must(task.downstream_task_ids == {"release"}, "the release does not wait")
        must(dag.get_task("release").trigger_rule == "all_success", "the release takes a failure")
        pod = client.ApiClient().sanitize_for_serialization(task.build_pod_request_obj())
    must(pod["spec"]["securityContext"]["runAsNonRoot"], "the pod may run as root")
    gate(pod["spec"]["containers"][0])
    return f"DAG parsed by Airflow {package.__version__}, pod built"


READERS: dict[str, Callable[[], str]] = {
    "kubernetes": kubernetes, "argo": argo, "kserve": kserve, "kubeflow": kubeflow, "airflow": airflow,
}  # fmt: skip


def validate(system: str) -> bool:
    """Install the packages of a system and let it read its manifest; whether it could."""
    with tempfile.TemporaryDirectory(prefix=f"manifests-{system}-") as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        python = Path(folder) / ("Scripts" if os.name == "nt" else "bin") / "python"
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES[system]]
        subprocess.run(install, check=True)
        return subprocess.run([python, __file__, "--inside", system], check=False).returncode == 0


if __name__ == "__main__":
    words = sys.argv[1:]
    if words[:1] == ["--inside"]:
        said = READERS[words[1]]()
        sys.stdout.write(f"ok {words[1]} ({', '.join(PACKAGES[words[1]])}): {said}\n")
    else:
        unknown = set(words) - set(PACKAGES)
        if unknown:
            sys.exit(f"error: {', '.join(sorted(unknown))} is no system; name some of {', '.join(PACKAGES)}")
        failed = [system for system in words or PACKAGES if not validate(system)]
        sys.exit(f"error: not read: {', '.join(failed)}" if failed else 0)
