"""Canonical tables: their schema, immutable snapshots, temporal splits and member timelines."""
