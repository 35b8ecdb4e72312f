"""The event loop's side of the engine: admission, the queue, and the worker processes. No torch."""
