"""What can go wrong with a decision.

SchedulingError
├── Infeasible         what is asked can never fit; the text carries the numbers
├── InvalidPlan        a plan or a layer range contradicts itself; one sentence says how
├── InvalidCluster     the facts about nodes and devices contradict themselves
├── QueueFull          as many requests wait as may; try again later
├── DuplicateRequest   a request of that id is already here
├── InvalidStep        a step result that answers no step in flight
└── TooLarge           beyond what an exact method is made for; another one is to be taken
"""


class SchedulingError(Exception):
    """Base of every error this package raises."""


class Infeasible(SchedulingError):
    """What is asked can never fit; the text says what it needs and what there is."""


class InvalidPlan(SchedulingError):
    """A plan or a layer range contradicts itself."""


class InvalidCluster(SchedulingError):
    """The facts about nodes, devices or links contradict themselves."""


class QueueFull(SchedulingError):
    """As many requests wait as may; the same request can succeed later."""


class DuplicateRequest(SchedulingError):
    """A request of that id is waiting, running, or cancelled with a step still in flight."""


class InvalidStep(SchedulingError):
    """A step result that names no step in flight, or lacks tokens that were asked for."""


class TooLarge(SchedulingError):
    """A problem beyond what an exact method is made for; the text says how far."""
