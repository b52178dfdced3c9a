"""Files and directories: paths, atomic replacement, locks, and bounded reading of files of unknown origin."""
