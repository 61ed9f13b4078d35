"""Long work and the queue in front of the model: progress, cancel, result, and turns taken in order."""
