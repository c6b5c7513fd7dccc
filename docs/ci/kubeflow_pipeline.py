"""A gate in Kubeflow Pipelines: what comes after it runs only if the check ended with exit code 0.

pip install kfp kfp-kubernetes && python kubeflow_pipeline.py   writes kubeflow_pipeline.yaml
"""

from kfp import compiler, dsl, kubernetes

IMAGE = "robustcheck:cpu"  # docs/ci/Dockerfile.cpu; put your registry in front and a digest behind


@dsl.container_component
def robustcheck(model: str, images: str, report: str):
    """Check one model. Exit code 1 (WARN) and all errors fail the task."""
    return dsl.ContainerSpec(
        image=IMAGE,
        command=["robustcheck"],
        args=[
            "check",
            "--strict",
            dsl.ConcatPlaceholder(["--images=", images]),
            "--max-memory=3GiB",  # below the limit of the container: the error says so, where a kill would not
            "--output=terminal",
            dsl.ConcatPlaceholder(["--output=json=", report]),
            "--",
            model,
        ],
    )


@dsl.component(base_image="python:3.12-slim")
def release(model: str):
    """Your step."""
    print("release", model)


@dsl.pipeline(name="robustcheck")
def gated_release(
    model: str = "/models/encoder.onnx",
    images: str = "/photos",  # or a URL: s3://bucket/photos, with the image of docs/ci/Dockerfile.stores
    report: str = "/reports/robustcheck.json",
):
    """Check the model, then release it."""
    gate = robustcheck(model=model, images=images, report=report)
    gate.set_caching_options(False)  # the volumes may hold other bytes than in an earlier run
    gate.set_cpu_request("2").set_memory_request("4Gi").set_memory_limit("4Gi")
    gate.set_env_variable("TMPDIR", "/tmp")
    kubernetes.set_security_context(gate, run_as_user=10001, run_as_group=10001, run_as_non_root=True)
    for claim in ("models", "photos", "reports"):
        kubernetes.mount_pvc(gate, pvc_name=claim, mount_path=f"/{claim}")
    kubernetes.empty_dir_mount(gate, volume_name="tmp", mount_path="/tmp", size_limit="4Gi")
    # no set_retry: it can't tell exit code 4 (environment) from 1 (WARN)
    release(model=model).after(gate)


if __name__ == "__main__":
    compiler.Compiler().compile(gated_release, package_path="kubeflow_pipeline.yaml")
