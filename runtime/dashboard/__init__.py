"""The service seen live in a browser: the page's files, what it is sent, and what it may order."""
