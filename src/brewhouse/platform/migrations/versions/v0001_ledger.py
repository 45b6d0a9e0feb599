"""The ledger of decisions and the log of refusals; rows of both can only be added."""

import sqlalchemy as sa
from alembic import op

from brewhouse.platform.migrations.append_only import append_only

revision = "0001"
down_revision = None

TABLES = ("ledger", "refusals")


def upgrade() -> None:
    """Make both tables and the triggers that keep them append-only."""
    text, number = sa.Text, sa.Integer
    op.create_table(
        "ledger",
        sa.Column("number", sa.Integer(), primary_key=True, autoincrement=False),
        *(
            sa.Column(name, kind(), nullable=False)
            for name, kind in {
                "at": text,
                "act": text,
                "model": text,
                "version": text,
                "revision": number,
                "before": text,
                "after": text,
                "actor": text,
                "role": text,
                "reason": text,
                "until": text,
                "order": number,
                "artifact": text,
                "results": text,
                "verdict": text,
                "policy": text,
                "champion": text,
                "previous": text,
                "hash": text,
                "key": text,
                "signature": text,
            }.items()
        ),
        sa.UniqueConstraint("previous", name="ledger_is_one_chain"),
        sa.UniqueConstraint("model", "version", "revision", name="ledger_revisions"),
    )
    op.create_table(
        "refusals",
        sa.Column("id", sa.Integer(), primary_key=True),
        *(
            sa.Column(name, sa.Text(), nullable=False)
            for name in ("at", "actor", "via", "act", "model", "version", "reason", "address")
        ),
    )
    for table in TABLES:
        append_only(table)


def downgrade() -> None:
    """Refuse: decisions are not thrown away by a tool."""
    msg = "the ledger is never dropped; restore a backup of the database instead"
    raise NotImplementedError(msg)
