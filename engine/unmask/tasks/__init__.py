"""Fine-tuning: the files of tasks, their examples as inputs of the model, and scores equal to the official ones."""
