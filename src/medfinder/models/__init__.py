"""From cases to embeddings; the only room that knows torch."""
