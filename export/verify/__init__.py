"""What an executor must give: golden vectors, and the answers of every function that a user may call."""
