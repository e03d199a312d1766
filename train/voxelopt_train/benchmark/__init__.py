"""How fast the layer is on the user's machine, how much memory it takes, and what bounds it."""
