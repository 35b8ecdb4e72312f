"""The safety hook: a function or an HTTP service of the operator's that may refuse prompts and images."""
