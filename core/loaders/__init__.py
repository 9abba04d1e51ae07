"""From a model's name to a complete, checked folder, one source a file."""
