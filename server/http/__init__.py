"""Middleware and error handlers around the routes: keys, limits, the request log, the error envelope."""
