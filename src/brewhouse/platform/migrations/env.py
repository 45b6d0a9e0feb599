"""Alembic's entry: runs revisions on the connection that the ledger hands over."""

from alembic import context

from brewhouse.platform.database import VERSION_TABLE

context.configure(connection=context.config.attributes["connection"], version_table=VERSION_TABLE)
with context.begin_transaction():
    context.run_migrations()
