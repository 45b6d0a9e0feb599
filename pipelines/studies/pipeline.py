"""The paper's studies: trainings, then evaluations, then what they say."""

from brewhouse.components.study_evaluate.component import study_evaluate
from brewhouse.components.study_prepare.component import study_prepare
from brewhouse.components.study_report.component import study_report
from brewhouse.components.study_train.component import study_train
from brewhouse.pipelines.placing import placed
from kfp import dsl, kubernetes


def _size(task: dsl.PipelineTask, *, claim: str, cpu: str, memory: str) -> dsl.PipelineTask:
    """Sized, on the shared claim, tried again; what a first try finished is found there."""
    task.set_cpu_request(cpu).set_cpu_limit(cpu)
    task.set_memory_request(memory).set_memory_limit(memory)
    task.set_retry(num_retries=2, backoff_duration="60s", backoff_factor=2.0)
    # Steps keep what they make in the shared folder themselves, and find it there.
    task.set_caching_options(False)
    kubernetes.mount_pvc(task, pvc_name=claim, mount_path="/workspace")
    return placed(task, "studies")


@dsl.pipeline(
    name="studies",
    description="Data, model, history, out-of-domain, cold-start and temporal scaling.",
)
def studies(
    preset: str = "demo",
    work: str = "/workspace/studies",
    names: list = [],  # noqa: B006 - KFP reads the default as a constant
    trainings: list = [],  # noqa: B006 - likewise
    evaluations: list = [],  # noqa: B006 - likewise
    claim: str = "training",
):
    """Run studies that share their trainings and evaluations.

    Args:
        preset: Name of a preset of studies, or a YAML file.
        work: Folder that all steps share.
        names: Studies; all if empty.
        trainings: Models to train; `brewhouse studies plan` lists them.
        evaluations: Models and ways of asking; likewise.
        claim: PersistentVolumeClaim that all steps mount at /workspace.
    """
    prepared = _size(study_prepare(preset=preset, work=work), claim=claim, cpu="4", memory="16Gi")
    with dsl.ParallelFor(trainings, name="trainings", parallelism=1) as training:
        trained = _size(
            study_train(preset=preset, work=work, point=training),
            claim=claim,
            cpu="4",
            memory="16Gi",
        )
        trained.after(prepared)
    with dsl.ParallelFor(evaluations, name="evaluations", parallelism=1) as evaluation:
        evaluated = _size(
            study_evaluate(preset=preset, work=work, point=evaluation),
            claim=claim,
            cpu="4",
            memory="16Gi",
        )
        evaluated.after(trained)
    told = _size(
        study_report(preset=preset, work=work, studies=names), claim=claim, cpu="1", memory="2Gi"
    )
    told.after(evaluated)
