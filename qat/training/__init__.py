"""How a network is trained: epochs, gradients, objectives, and what comes before and after."""
