"""What one client's packets mean: the machine, its time, its unicast window, its binds, its uplinks. No socket, loop or clock."""
