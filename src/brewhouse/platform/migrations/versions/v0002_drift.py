"""Windows of drift, their evaluations, steps of incidents and triggers; rows can only be added."""

import sqlalchemy as sa
from alembic import op

from brewhouse.platform.migrations.append_only import append_only

revision = "0002"
down_revision = "0001"

_WINDOW = ("model", "version", "window_start", "window_end")
_TABLES = {
    "drift_windows": ("at", *_WINDOW, "body"),
    "drift_evaluations": ("at", *_WINDOW, "policy", "outcome", "body"),
    "incident_steps": (
        *("at", "model", "version", "signal", "step", "status", "severity", "opened", "until"),
        *("actor", "reason"),
    ),
    "triggers": ("at", *_WINDOW, "trigger_id", "policy", "reason"),
    "trigger_runs": ("at", "trigger_id", "run_id"),
}
_UNIQUE = {
    "drift_windows": _WINDOW,
    "drift_evaluations": (*_WINDOW, "policy"),
    "triggers": ("trigger_id",),
    "trigger_runs": ("trigger_id",),
}


def upgrade() -> None:
    """Make the tables and the triggers that keep them append-only."""
    for table, columns in _TABLES.items():
        numbers = [sa.Column("incident", sa.Integer(), nullable=False)]
        op.create_table(
            table,
            sa.Column("id", sa.Integer(), primary_key=True),
            *(numbers if table == "incident_steps" else []),
            *(sa.Column(name, sa.Text(), nullable=False) for name in columns),
            *(
                [sa.UniqueConstraint(*_UNIQUE[table], name=f"{table}_once")]
                if table in _UNIQUE
                else []
            ),
        )
        append_only(table)


def downgrade() -> None:
    """Refuse: incidents are not thrown away by a tool."""
