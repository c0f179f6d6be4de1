"""From a pile of videos to clips worth training on, and the reason for each that is left out."""
