"""Where versions, decisions and keys are: a folder on a laptop, the environment in a cluster."""

from __future__ import annotations

import getpass
import os
from dataclasses import dataclass, replace
from pathlib import Path

MODEL_NAME = "ranker"
CHAMPION = "champion"
"""Alias of the version in use: consumers load `models:/ranker@champion`."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Places; database and key come from secrets in a cluster, never from parameters of a pipeline.

    Attributes:
        home: Folder with everything that is not named otherwise.
        tracking_uri: MLflow.
        database_uri: Decisions, as a SQLAlchemy URI.
        signing_key: Private key of the ledger, PEM.
        trusted_keys: Folder of public keys, `*.pub`; keys of before stay in it.
        approvals: Approval policy, a name or a YAML file.
        model_name: Registered model.
        kfp_host: Kubeflow Pipelines that runs promotions and retrainings; empty to run them on
            this machine.
        evidently: Workspace of Evidently's service that gets the comparisons of inputs too, a
            folder or an address; empty for none.
    """

    home: Path
    tracking_uri: str
    database_uri: str
    signing_key: Path
    trusted_keys: Path
    approvals: str
    model_name: str
    kfp_host: str = ""
    evidently: str = ""

    @classmethod
    def read(cls, home: Path | str | None = None) -> Settings:
        """Settings of a home folder, each replaced by its environment variable where that is set.

        Args:
            home: Folder; `BREWHOUSE_HOME`, or `runs/demo`, if None or empty.
        """
        env = os.environ
        root = Path(home or env.get("BREWHOUSE_HOME", "runs/demo")).resolve()
        key = Path(env.get("BREWHOUSE_SIGNING_KEY", root / "keys" / "ledger.pem"))
        return cls(
            home=root,
            tracking_uri=env.get("BREWHOUSE_TRACKING_URI", f"sqlite:///{root / 'mlflow.db'}"),
            database_uri=env.get("BREWHOUSE_DATABASE_URI", f"sqlite:///{root / 'brewhouse.db'}"),
            signing_key=key,
            trusted_keys=Path(env.get("BREWHOUSE_TRUSTED_KEYS", key.parent / "trusted")),
            approvals=env.get("BREWHOUSE_APPROVALS", "local"),
            model_name=env.get("BREWHOUSE_MODEL_NAME", MODEL_NAME),
            kfp_host=env.get("BREWHOUSE_KFP_HOST", ""),
            evidently=env.get("BREWHOUSE_EVIDENTLY_WORKSPACE", ""),
        )

    def at(self, tracking_uri: str) -> Settings:
        """The same with another MLflow."""
        return replace(self, tracking_uri=tracking_uri)

    @property
    def embedded(self) -> bool:
        """Whether key and database lie in the home folder, where a key is made if there is none.

        Beside a database of a server no key is made: each machine would sign with its own.
        """
        return self.signing_key.is_relative_to(self.home) and str(self.home) in self.database_uri


def whoami() -> str:
    """Who uses the command line: `BREWHOUSE_ACTOR`, or the user of the operating system."""
    return os.environ.get("BREWHOUSE_ACTOR") or getpass.getuser()
