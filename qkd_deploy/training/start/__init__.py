"""Starting points that take more than a file with the network's own names."""
