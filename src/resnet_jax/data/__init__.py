"""Images: from disk (host) to normalised, augmented batches (device)."""
