"""What can go wrong while composing and running a service.

RemudaError
├── ConfigError    the configuration is unknown, contradictory or impossible here
└── LaunchFailed   the service could not start, or ended by itself; the text says why
"""


class RemudaError(Exception):
    """Base of every error this package raises."""


class ConfigError(RemudaError):
    """The configuration is unknown, contradictory or impossible on this machine."""


class LaunchFailed(RemudaError):
    """The service could not start, or a part of it ended by itself."""
