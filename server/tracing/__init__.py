"""Traces of requests with OpenTelemetry, an extra: when they are off, no part of the SDK is loaded or called."""
