"""What makes one run into another."""
