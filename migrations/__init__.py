"""Alembic migrations of the marketplace's database."""
