"""Schema of the decisions database, by Alembic."""
