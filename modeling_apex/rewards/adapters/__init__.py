"""
The doors of other programs, one file each: what they call, and what they get back.

None of them is imported here; a file imports its program only where a class of that program must be inherited.
"""
