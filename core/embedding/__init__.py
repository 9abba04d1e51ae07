"""A model's folder and texts in, sentence vectors out."""
