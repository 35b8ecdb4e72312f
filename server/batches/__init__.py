"""Batches of requests that wait for idle capacity: their files, their progress, and who works at them."""
