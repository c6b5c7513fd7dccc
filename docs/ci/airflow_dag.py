"""A gate in Airflow, in a pod of its own: what comes after it runs only if the check ended with exit code 0.

Needs apache-airflow-providers-cncf-kubernetes.
"""

from datetime import timedelta

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk import dag, task
from kubernetes.client import models as k8s

IMAGE = "robustcheck:cpu"  # docs/ci/Dockerfile.cpu; put your registry in front and a digest behind
MODEL = "/models/encoder.onnx"
IMAGES = "/photos"  # or a URL: s3://bucket/photos, with the image of docs/ci/Dockerfile.stores


def _claim(name: str, read_only: bool) -> tuple[k8s.V1Volume, k8s.V1VolumeMount]:
    source = k8s.V1PersistentVolumeClaimVolumeSource(claim_name=name, read_only=read_only)
    return (
        k8s.V1Volume(name=name, persistent_volume_claim=source),
        k8s.V1VolumeMount(name=name, mount_path=f"/{name}", read_only=read_only),
    )


_TMP = k8s.V1Volume(name="tmp", empty_dir=k8s.V1EmptyDirVolumeSource(size_limit="4Gi"))
_VOLUMES = [
    _claim("models", True),
    _claim("photos", True),
    _claim("reports", False),
    (_TMP, k8s.V1VolumeMount(name="tmp", mount_path="/tmp")),
]


@dag(schedule=None, catchup=False, tags=["robustcheck"])
def robustcheck():
    """Check the model, then release it."""
    gate = KubernetesPodOperator(
        task_id="gate",
        name="robustcheck",
        image=IMAGE,
        arguments=[
            "check",
            "--strict",
            f"--images={IMAGES}",
            "--max-memory=3GiB",  # below the limit of the container: the error says so, where a kill would not
            "--output=terminal",
            "--output=json=/reports/robustcheck.json",
            "--",
            MODEL,
        ],
        retries=0,  # the operator can't tell exit code 4 (environment) from 1 (WARN); no skip_on_exit_code either
        execution_timeout=timedelta(hours=3),
        env_vars={"TMPDIR": "/tmp"},
        volumes=[volume for volume, _ in _VOLUMES],
        volume_mounts=[mount for _, mount in _VOLUMES],
        container_resources=k8s.V1ResourceRequirements(
            requests={"cpu": "2", "memory": "4Gi"}, limits={"memory": "4Gi"}
        ),
        security_context=k8s.V1PodSecurityContext(
            run_as_non_root=True,
            run_as_user=10001,
            run_as_group=10001,
            fs_group=10001,  # who may write to the volume of the reports
            seccomp_profile=k8s.V1SeccompProfile(type="RuntimeDefault"),
        ),
        container_security_context=k8s.V1SecurityContext(
            read_only_root_filesystem=True,
            allow_privilege_escalation=False,
            capabilities=k8s.V1Capabilities(drop=["ALL"]),
        ),
        automount_service_account_token=False,
    )

    @task
    def release(model: str) -> None:
        """Your step."""
        print("release", model)

    gate >> release(MODEL)


robustcheck()
