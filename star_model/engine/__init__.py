"""The engine: sequences, their slots, and steps that advance a batch by one scale."""
