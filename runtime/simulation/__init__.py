"""A whole cluster on virtual time: real actors, emulated devices, links and faults."""
