"""Arguments and composition roots: nothing else reads argv or the environment."""
