"""The images behind addresses, kept in memory, in a directory or in S3."""
