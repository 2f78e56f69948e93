"""Where events come from beside the listener (`server`): `log` reads what kube-apiserver writes to a file."""
