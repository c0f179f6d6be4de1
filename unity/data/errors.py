"""What goes wrong with processes rather than with what they were given."""


class WorkerEnded(ChildProcessError, ValueError):
    """A worker was killed from outside, or ran out of memory. A ValueError too: programs say those in one line."""
