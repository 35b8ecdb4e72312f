"""The worker process: loads the model and runs the main loop over the engine."""
