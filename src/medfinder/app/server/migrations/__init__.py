"""How the tables came to be what they are: one module a step, run by Alembic, never changed once it was released."""
