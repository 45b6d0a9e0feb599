"""What the launcher counts on from an API server: the same tests for our fake and the real one."""

from __future__ import annotations

from typing import Any

import pytest
from kubernetes import client, watch
from kubernetes.client.exceptions import ApiException

from brewhouse.platform.trainjob import GROUP, PLURAL, VERSION, ClusterSpec, build

WHERE = (GROUP, VERSION, "default", PLURAL)


def job(run: str = "one", **spec: Any) -> dict[str, Any]:
    found = build(
        ClusterSpec(namespace="default"), run_id=run, config="/workspace/t.json", digest="d"
    )
    found["spec"] |= spec
    return found


@pytest.fixture
def jobs(api: client.ApiClient) -> client.CustomObjectsApi:
    return client.CustomObjectsApi(api)


def test_an_object_gets_an_identity_and_defaults(jobs: client.CustomObjectsApi) -> None:
    made = jobs.create_namespaced_custom_object(*WHERE, job())
    meta = made["metadata"]
    assert meta["uid"]
    assert int(meta["resourceVersion"]) > 0
    assert meta["generation"] == 1
    assert made["spec"]["suspend"] is False
    assert jobs.get_namespaced_custom_object(*WHERE, meta["name"]) == made
    with pytest.raises(ApiException) as again:
        jobs.create_namespaced_custom_object(*WHERE, job())
    assert (again.value.status, "AlreadyExists" in again.value.body) == (409, True)
    with pytest.raises(ApiException) as absent:
        jobs.get_namespaced_custom_object(*WHERE, "absent")
    assert absent.value.status == 404


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"runtimeRef": {}}, "name"),
        ({"trainer": {"numNodes": "two"}}, "numNodes"),
        ({"trainer": {"numProcPerNode": 0}}, "numProcPerNode"),
        ({"managedBy": "me"}, "managedBy"),
    ],
)
def test_what_breaks_the_schema_or_a_rule_is_refused(
    jobs: client.CustomObjectsApi, has_rules: bool, spec: dict, message: str
) -> None:
    if not has_rules and ("managedBy" in spec or message == "numProcPerNode"):
        pytest.skip("this server knows no rules of custom resources")
    with pytest.raises(ApiException) as refused:
        jobs.create_namespaced_custom_object(*WHERE, job(**spec))
    assert refused.value.status == 422
    assert message in refused.value.body


def test_rules_about_change_hold_and_generations_count(
    jobs: client.CustomObjectsApi, has_rules: bool
) -> None:
    made = jobs.create_namespaced_custom_object(*WHERE, job())
    name = made["metadata"]["name"]
    suspended = jobs.patch_namespaced_custom_object(*WHERE, name, {"spec": {"suspend": True}})
    assert suspended["metadata"]["generation"] == 2
    if has_rules:
        other = {"spec": {"runtimeRef": {"name": "b"}}}
        with pytest.raises(ApiException) as refused:
            jobs.patch_namespaced_custom_object(*WHERE, name, other)
        assert refused.value.status == 422
    with pytest.raises(ApiException) as stale:
        jobs.replace_namespaced_custom_object(*WHERE, name, made)
    assert stale.value.status == 409


def test_status_is_apart(jobs: client.CustomObjectsApi) -> None:
    made = jobs.create_namespaced_custom_object(*WHERE, job() | {"status": {"jobsStatus": []}})
    assert "status" not in made
    name = made["metadata"]["name"]
    condition = {
        "type": "Complete",
        "status": "True",
        "reason": "Done",
        "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    told = jobs.patch_namespaced_custom_object_status(
        *WHERE, name, {"status": {"conditions": [condition]}, "spec": {"suspend": True}}
    )
    assert told["status"]["conditions"][0]["type"] == "Complete"
    assert told["spec"]["suspend"] is False
    assert told["metadata"]["generation"] == 1


def test_lists_select(jobs: client.CustomObjectsApi) -> None:
    for run in ("one", "two"):
        jobs.create_namespaced_custom_object(*WHERE, job(run))
    label = job("two")["metadata"]["labels"]["brewhouse.dev/run"]
    found = jobs.list_namespaced_custom_object(*WHERE, label_selector=f"brewhouse.dev/run={label}")
    assert [i["metadata"]["name"] for i in found["items"]] == [job("two")["metadata"]["name"]]
    name = job("one")["metadata"]["name"]
    found = jobs.list_namespaced_custom_object(*WHERE, field_selector=f"metadata.name={name}")
    assert len(found["items"]) == 1


def test_a_watch_tells_what_happens_from_a_version_on(jobs: client.CustomObjectsApi) -> None:
    made = jobs.create_namespaced_custom_object(*WHERE, job())
    name = made["metadata"]["name"]
    jobs.patch_namespaced_custom_object(*WHERE, name, {"spec": {"suspend": True}})
    jobs.delete_namespaced_custom_object(*WHERE, name)
    stream = watch.Watch().stream(
        jobs.list_namespaced_custom_object,
        *WHERE,
        resource_version=made["metadata"]["resourceVersion"],
        timeout_seconds=2,
    )
    assert [event["type"] for event in stream] == ["MODIFIED", "DELETED"]


def test_apply_keeps_owners_apart(api: client.ApiClient, jobs: client.CustomObjectsApi) -> None:
    def apply(manager: str, suspend: bool, **query: Any) -> dict[str, Any]:
        value = job()
        value["spec"]["suspend"] = suspend
        path = f"/apis/{GROUP}/{VERSION}/namespaces/default/{PLURAL}/{value['metadata']['name']}"
        found = api.call_api(
            path,
            "PATCH",
            query_params=[("fieldManager", manager), *query.items()],
            header_params={
                "Content-Type": "application/apply-patch+yaml",
                "Accept": "application/json",
            },
            body=value,
            response_type="object",
            auth_settings=["BearerToken"],
        )
        return dict(found[0])

    assert apply("a", suspend=False)["spec"]["suspend"] is False
    assert apply("a", suspend=True)["spec"]["suspend"] is True
    with pytest.raises(ApiException) as conflict:
        apply("b", suspend=False)
    assert conflict.value.status == 409
    assert apply("b", suspend=False, force="true")["spec"]["suspend"] is False
