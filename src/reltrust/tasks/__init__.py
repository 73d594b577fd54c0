"""What is trained: model, data, one training step's loss, evaluation. No optimizer, no config."""
