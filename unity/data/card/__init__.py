"""What a dataset holds, for people: counts, hours, annotators, what was left out and why; pictures of it."""
