"""What made the built-in model: drawn surfaces, training, sample frames. The application imports none of it."""
