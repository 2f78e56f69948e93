"""A real Kubernetes for tests and for the demo."""
