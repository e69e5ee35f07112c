"""Training, evaluation, checkpoints and run folders. It is handed models, data and losses, and knows no config."""
