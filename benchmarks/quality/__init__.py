"""The benchmarks of text-to-image papers, drawn by this engine and scored: ``python -m benchmarks.quality --help``."""
