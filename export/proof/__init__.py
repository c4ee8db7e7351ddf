"""What every value of a network can be, over all inputs and all time."""
