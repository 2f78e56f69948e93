"""Fixtures for every test: the real clusters."""

pytest_plugins = ["tests.cluster.fixtures"]
