"""The doors to the world: the only rooms that touch disk, socket, camera or model. They never import an actor."""
