"""Many songs: finding them, embedding them, and keeping what was computed of them."""
