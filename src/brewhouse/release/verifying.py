"""What is wrong with a version: a line a finding, none if it is what was signed."""

from __future__ import annotations

from brewhouse.errors import BrewhouseError, StoreError
from brewhouse.evaluation.results import Results
from brewhouse.files import sha256_json
from brewhouse.gates.verdict import Verdict
from brewhouse.platform.tracking import STATE_TAG
from brewhouse.release.store import DECISIONS
from brewhouse.release.versions import Version


def check_evidence(version: Version) -> list[str]:
    """Files of the version, its results and its verdict must be those that the ledger names."""
    return [*version.folder.check(version.entries[0].artifact), *check_judgement(version)]


def check_judgement(version: Version) -> list[str]:
    """Results and verdict alone: quick, whatever the model's size."""
    first, found = version.entries[0], []
    for name, model, digest in (
        ("results.json", Results, first.results),
        ("verdict.json", Verdict, first.verdict),
    ):
        path = f"dossier/{name}"
        try:
            value = model.model_validate(version.folder.read_json(path))
        except StoreError:
            raise
        except (BrewhouseError, ValueError) as error:
            found.append(f"{version.source}/{path} cannot be read: {str(error).splitlines()[0]}")
            continue
        if "sha256:" + sha256_json(value.model_dump(mode="json")) != digest:
            found.append(
                f"{version.source}/{path} is not what version {version.version} was judged by"
            )
    return found


def check_mirrors(version: Version) -> list[str]:
    """A chain does not show that its end was cut off; what was mirrored elsewhere does.

    A mirror may lag behind, where a process died after it had written to the ledger.
    """
    name = f"{version.source}/{DECISIONS}"
    try:
        mirrored = [e["hash"] for e in version.folder.read_json(DECISIONS)]
    except StoreError:
        raise
    except (BrewhouseError, KeyError, TypeError) as error:
        return [f"{name} cannot be read: {str(error).splitlines()[0]}"]
    hashes = [e.hash for e in version.entries]
    if hashes[: len(mirrored)] != mirrored:
        return [
            f"{name} holds {len(mirrored)} entries of version {version.version}, the ledger "
            f"{len(hashes)}, or others: one of them was cut off or replaced"
        ]
    state, tag = version.entries[-1].after, version.tags.get(STATE_TAG, "")
    if len(mirrored) == len(hashes) and state != tag:
        return [f"MLflow says {tag or 'nothing'} of version {version.version}, not {state}"]
    return []
