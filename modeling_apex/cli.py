"""The `apex-music` command line: one sub-command a file in `modeling_apex.commands`."""
