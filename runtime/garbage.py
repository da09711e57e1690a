"""What a process holds for good is kept out of its search for garbage.

The interpreter's full search for reference cycles looks at every object there is, with every thread
standing still: with torch and transformers imported these are 400,000, and take some tenths of a
second, amid which no token comes. What is there once a process has begun stays there until it ends:
a few dozen objects of it are garbage, for which a search there and then would not pay.
"""

import gc


def keep_for_good() -> None:
    """Look no more at what is here now; what comes later is looked at as ever."""
    gc.freeze()
