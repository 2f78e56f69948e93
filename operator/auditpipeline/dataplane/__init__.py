"""The data plane: takes audit events, stores them, and delivers them. Knows no Kubernetes; configured by one file."""
