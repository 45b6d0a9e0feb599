"""Rights: what the code asks for is what the manifests grant, no less and, of ours, no more.

The servers of the tests refuse what is not granted; here is what was granted and never asked for.
"""

from __future__ import annotations

import pytest

from brewhouse.platform.kubeflow import ACCOUNTS
from tests.conftest import ROOT
from tests.kfp.server import CALLS as PIPELINE_CALLS
from tests.kube.conftest import CALLS
from tools import access_table
from tools.access_table import ASKED_BY_OTHERS, Right


@pytest.fixture(scope="module")
def accounts() -> dict[str, dict[str, set[Right]]]:
    return access_table.granted(access_table.objects())


def test_the_page_is_that_of_the_manifests() -> None:
    page = access_table.page(access_table.objects())
    assert (ROOT / "docs/reference/access.md").read_text() == page, "run `make docs`"


def test_the_accounts_of_runs_are_there_and_may_run(
    accounts: dict[str, dict[str, set[Right]]],
) -> None:
    for account in ACCOUNTS.values():
        assert "brewhouse-pipeline-step" in accounts[account]
    assert "brewhouse-train-ranker" in accounts["brewhouse-train"]
    # A machine never promotes: whoever trains or watches may touch no version's alias by its
    # rights in the cluster either; those lie in the registry's and the ledger's own secrets.
    assert set(accounts["brewhouse-monitor"]) == {
        "brewhouse-pipeline-step",
        "brewhouse-run-starter",
    }


def test_pods_that_need_no_api_server_have_no_right(
    accounts: dict[str, dict[str, set[Right]]],
) -> None:
    for name in ("training", "serving", "mlflow", "scoring"):
        assert accounts[f"brewhouse-{name}"] == {}


@pytest.mark.parametrize(
    ("roles", "calls", "where"),
    [
        ({"brewhouse-train-ranker"}, CALLS, "tests/kube/test_trainjob.py"),
        ({"brewhouse-run-starter", "brewhouse-operator"}, PIPELINE_CALLS, "tests/kfp"),
    ],
)
def test_nothing_is_granted_that_is_not_asked(
    accounts: dict[str, dict[str, set[Right]]], roles: set[str], calls: set[Right], where: str
) -> None:
    if not calls:
        pytest.skip(f"what is asked for is recorded by {where}, which did not run before")
    granted = {
        right
        for held in accounts.values()
        for role, rights in held.items()
        if role in roles
        for right in rights
    }
    assert granted == calls


def test_every_role_is_ours_or_said_to_be_for_others(
    accounts: dict[str, dict[str, set[Right]]],
) -> None:
    ours = {
        "brewhouse-train-ranker",
        "brewhouse-preflight",
        "brewhouse-run-starter",
        "brewhouse-operator",
    }
    every = {role for held in accounts.values() for role in held}
    assert every == ours | set(ASKED_BY_OTHERS)
