"""A network in training: real parameters, the integers that they stand for, and the forward."""
