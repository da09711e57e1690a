"""A small actor runtime on asyncio: references, mailboxes, deadlines and supervision."""
