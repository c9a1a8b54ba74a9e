"""What goes wrong outside the process: the network, Redis, its rights and its memory."""
