"""What kube-apiserver's own evaluator says, and that ours says the same."""
