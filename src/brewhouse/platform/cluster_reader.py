"""Reads a cluster's API server by path: what may not be read is None, what is not there is {}."""

from __future__ import annotations

from functools import partial
from typing import Any


class ClusterReader:
    """Asks one API server."""

    def __init__(self, api: Any) -> None:
        self.api = api

    def get(self, path: str, query: dict[str, str], *, raw: bool = False) -> Any:
        """The answer to a GET, or, `raw`, the response.

        Raises:
            ApiException: The server says no.
        """
        return self.api.call_api(
            path,
            "GET",
            query_params=list(query.items()),
            header_params={"Accept": "application/json"},
            auth_settings=["BearerToken"],
            response_type=None if raw else "object",
            _preload_content=not raw,
            _return_http_data_only=True,
        )

    def tried(self, path: str, **query: str) -> Any:
        """What is there; {} if nothing is, None if it may not be looked at."""
        from kubernetes.client.exceptions import ApiException

        try:
            return self.get(path, query)
        except ApiException as error:
            if error.status == 403:
                return None
            if error.status == 404:
                return {}
            raise

    def listed(self, path: str, **query: str) -> list[dict[str, Any]] | None:
        """Objects of a list; None if they may not be listed."""
        found = self.tried(path, **query)
        return None if found is None else list(found.get("items", []))

    def named(self, group: str, version: str, plural: str, name: str, space: str = "") -> Any:
        """One object; {} if there is none, None if it may not be looked at."""
        where = f"namespaces/{space}/" if space else ""
        return self.tried(f"/apis/{group}/{version}/{where}{plural}/{name}")

    def served(self, group: str) -> list[str] | None:
        """Versions of a group; None if it may not be discovered."""
        found = self.tried(f"/apis/{group}")
        if found is None:
            return None
        return [one["version"] for one in found.get("versions", [])]

    def resources(self, group: str, version: str) -> set[str]:
        """Plural names that a version of a group serves."""
        found = self.tried(f"/apis/{group}/{version}") or {}
        return {one["name"] for one in found.get("resources", [])}

    def version(self) -> tuple[str, str]:
        """Version of the server, and the moment that it tells, as HTTP writes it."""
        response = self.get("/version", {}, raw=True)
        told = self.api.deserialize(_Text(response), "object")["gitVersion"]
        return told, response.headers.get("Date") or ""

    def may(self, asked: dict[str, str], who: str) -> bool | None:
        """Whether it is allowed; None if the caller may not ask as someone else."""
        from kubernetes.client.exceptions import ApiException

        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": asked},
        }
        call = partial(
            self.api.call_api,
            "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
            "POST",
            header_params={"Accept": "application/json", "Content-Type": "application/json"}
            | ({"Impersonate-User": who} if who else {}),
            body=body,
            auth_settings=["BearerToken"],
            response_type="object",
            _return_http_data_only=True,
        )
        try:
            return bool(call()["status"]["allowed"])
        except ApiException as error:
            if error.status == 403:
                return None
            raise


class _Text:
    """A raw response as the client's deserializer wants it."""

    def __init__(self, response: Any) -> None:
        self.data = response.data.decode()
