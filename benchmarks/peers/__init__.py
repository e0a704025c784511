"""The same training steps and chains, written for the libraries a user would otherwise pick."""
