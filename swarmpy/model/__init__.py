"""The vocabulary: states, specs (what users ask), objects (plus what we know), and how they look as bytes."""
