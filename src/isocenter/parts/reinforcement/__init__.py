"""Search as a sequence of actions: worlds in which boxes and slices are moved, replay, deep Q-learning."""
