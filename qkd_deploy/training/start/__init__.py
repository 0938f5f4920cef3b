"""Starting points that take more than a file with the network's own names, and those of runs that go on."""
