"""One file an experiment; each starts from `experiments.configs.base` and changes values."""
