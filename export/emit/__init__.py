"""Text from networks: a folder for each back end. None imports another."""
