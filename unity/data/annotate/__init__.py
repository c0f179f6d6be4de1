"""From clips to the five views of them: annotators as rows, gates on what they give, shards for training."""
