"""How runs of triggers ended, when the monitor ran, and what a trigger's policy said of labels."""

import sqlalchemy as sa
from alembic import op

from brewhouse.platform.migrations.append_only import append_only

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make the tables and the triggers that keep them append-only."""
    op.create_table(
        "trigger_ends",
        sa.Column("id", sa.Integer(), primary_key=True),
        *(
            sa.Column(name, sa.Text(), nullable=False)
            for name in ("at", "trigger_id", "state", "reason")
        ),
    )
    op.create_table(
        "monitor_runs",
        sa.Column("id", sa.Integer(), primary_key=True),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("at", "model", "version")),
    )
    for table in ("trigger_ends", "monitor_runs"):
        append_only(table)
    op.add_column("triggers", sa.Column("maturity_days", sa.Integer(), nullable=True))


def downgrade() -> None:
    """Refuse: what was done is not thrown away by a tool."""
