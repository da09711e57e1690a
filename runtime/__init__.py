"""Composition: launching, configuration, the HTTP gateway and the control command."""
