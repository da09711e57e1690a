"""What holds for every test.

Half of Hypothesis' usual number of examples, so that the suite stays short;
`pytest --hypothesis-profile=default` has them all.
"""

from hypothesis import settings

settings.register_profile("suite", max_examples=50)
settings.load_profile("suite")
