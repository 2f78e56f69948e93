"""Tests of the controller: pure ones, and those against a real API server."""
