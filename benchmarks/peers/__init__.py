"""What a team would put around the engine instead of this server, and the load to compare them under."""
