"""Domains: data worlds described by YAML, and the ones that come with the project."""
