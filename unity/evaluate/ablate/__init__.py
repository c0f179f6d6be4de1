"""The paper's ablations at a scale that one can pay for: `python -m unity.evaluate.ablate --table 2`."""
