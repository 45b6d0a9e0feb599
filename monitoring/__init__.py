"""Drift policies, alert rules and runbooks."""
