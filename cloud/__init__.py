"""The service that takes batches of predictions and can name every number it has not seen."""
