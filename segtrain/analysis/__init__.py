"""What a network sees, weighs and costs, told without running it: tensors have shapes here, but no values."""
