"""
How far the scores of a song move when the song is the same and its file is not: other bitrates, levels, ends, speeds.

Measuring takes the `eval` extra; songs go through mp3 and Opus where the `audio` extra is installed.
"""
