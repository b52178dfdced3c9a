"""Reports as plain data: resolved options, compatibility with other tools."""
