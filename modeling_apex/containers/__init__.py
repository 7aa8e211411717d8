"""
What the installed package adds to reading a song: containers, damage, lying headers, and decoders that may die.

`opening` is the door that `registration` hangs into `decoding_apex`; `recognition` tells what a file is by its bytes,
`byte_views` shows a decoder other bytes than the file has, `ffmpeg` decodes with PyAV, and `child` does the same in a
process of its own.
"""
