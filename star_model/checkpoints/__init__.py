"""Model directories on disk: the native format, conversion of published files, lookup by name."""
