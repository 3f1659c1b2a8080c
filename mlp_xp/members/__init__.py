"""What each member of a network has of its own in a training: numbers, losses, an end. The rest is shared.

The arithmetic knows no members, only an axis before its own. Here is what differs from one to the other: a
member that has stopped or diverged no longer changes, and does not touch the others.
"""
