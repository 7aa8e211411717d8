"""
The arena experiment: judging scores on battles, the songs between which people chose.

Reading a preference head takes numpy only; running the experiment needs the `eval` extra.
"""
