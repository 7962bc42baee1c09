"""Locks across `os.fork`: the child has none of its parent's other threads, and so nobody who would release theirs."""

import os


def hold_during_fork(lock):
    """Lets a fork wait for the thread that has the lock; parent and child both find it free.

    Locks must be given in the reverse of the order in which they are taken together.
    """
    on_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)


def on_fork(**calls):
    """`os.register_at_fork` where there is forking."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(**calls)
