"""From embeddings to ranked answers; loads no torch."""
