"""A soak of what an operator does to a server with several tenants: ``python -m benchmarks.tenants``."""
