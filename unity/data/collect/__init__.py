"""From what others packed (tars, folders with sidecars) to shards for training, streamed and never unpacked."""
