"""The networks: transformer, VQVAE, text encoders, and the parts they share."""
